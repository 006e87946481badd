"""Which endpoints of the merchant's are behind, and why; nothing where there is none."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Final

from psycopg.errors import InsufficientPrivilege
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from cardsync import db
from cardsync.cli.doctor.check import Check
from cardsync.store.deliveries import endpoints
from cardsync.store.deliveries.endpoints import Endpoint

LATE: Final = dt.timedelta(minutes=5)  # what waits longer met more than a restart of its handler


def lags(engine: Engine) -> Iterator[Check]:
    """One line for each endpoint that is disabled, fails, or is behind; one for all others together."""
    try:
        with engine.connect() as connection:
            found = endpoints.listing(connection)
            now = db.moment(connection)
    except DBAPIError as error:
        if not isinstance(error.orig, InsufficientPrivilege):  # the web's login has no business with endpoints
            raise
        yield Check("endpoints", "skipped", "this login cannot see them")
        return
    behind = [check for check in (_of(one, now) for one in found) if check is not None]
    yield from behind
    if found and not behind:
        yield Check("endpoints", "ok", f"{len(found)} endpoints have all that there is for them")


def _of(one: Endpoint, now: dt.datetime) -> Check | None:
    waits = _waits(one, now)
    if one.status == "disabled":
        if one.disabled_because == "operator":
            return Check("endpoints", "warning", f"{one.name} is disabled by an operator{waits}", _enable(one))
        if one.disabled_because == "restored":
            found = f"{one.name} is held since a backup was restored: somebody may have removed it since{waits}"
            return Check("endpoints", "warning", found, f"if it is still wanted: cardsync endpoints enable {one.name}")
        why = "it answered 410" if one.disabled_because == "gone" else "it failed for five days"
        return Check("endpoints", "warning", f"{one.name} is disabled, since {why}{waits}", _enable(one))
    is_late = one.oldest_pending_at is not None and now - one.oldest_pending_at > LATE
    is_failing = one.failing_since is not None and now - one.failing_since > LATE
    if not (is_late or is_failing or one.circuit_open_since is not None):
        return _failed(one)
    why = one.last_error or "a worker has not sent it yet"
    advice = f"see what answers there: cardsync endpoints test {one.name}; is a worker running?"
    return Check("endpoints", "warning", f"{one.name} is behind{waits}: {why}", advice)


def _waits(one: Endpoint, now: dt.datetime) -> str:
    if one.oldest_pending_at is None:
        return ""
    what = f"{one.behind} changes" if one.kind == "changes" else f"{one.pending} notifications"
    minutes = (now - one.oldest_pending_at).total_seconds() / 60
    return f" ({what} wait, the oldest for {minutes:.0f} minutes)"


def _enable(one: Endpoint) -> str:
    return f"when it takes messages again: cardsync endpoints enable {one.name}"


def _failed(one: Endpoint) -> Check | None:
    if not one.failed:
        return None
    advice = f"see why: cardsync deliveries list --endpoint {one.name} --status failed; then replay them"
    return Check("endpoints", "warning", f"{one.name} did not get {one.failed} notifications in three days", advice)
