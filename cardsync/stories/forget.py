"""``forget``: remove data that is past its time, a little at every tick, so that no request notices it.

``store.retention`` says what goes when. A run is bounded in time and a batch in rows. Any number of runs may run at once; they
take different rows. A run that fails loses nothing: the next one continues.

Records that the spool set aside lie on the web's disk, where neither a worker nor an erasure can reach them. So each web process
forgets them itself (``forget_set_aside``): when they are as old as the inbox's content may become, and when the database says
that an erasure of their person is done. A record that is too damaged to name its person goes with the first erasure that is done
after it was written: it cannot be restored, and it may be that person's.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from cardsync import db, metrics
from cardsync.core.spool_format import named_customer
from cardsync.episodes import Episode
from cardsync.settings import Settings
from cardsync.spool import Spool, names
from cardsync.store import retention
from cardsync.store.deletions.erased import Erased, done_since
from cardsync.store.retention import What

log = structlog.get_logger(__name__)

# At most a fifth of one thread: there is a run every five seconds (workers.app). docs/performance.md says how much that clears.
RUN_SECONDS: Final = 1.0
PROBATION_DAYS: Final = (
    1  # of a customer that only a reader named, and that has no card; of a gateway after its last reader
)
REPEATED_DAYS: Final = 7  # how long a request by API can be repeated or asked about: a client's retries last hours
_put_off = Episode("forgetting_put_off")
AUDIT_DAYS: Final = 400  # 200 rows a day: a year to compare with, and a month more for a late report


@dataclass(frozen=True, slots=True)
class ForgetPolicy:
    """The greatest age of each kind of row, in days."""

    days: Mapping[What, int]

    @classmethod
    def of(cls, settings: Settings) -> ForgetPolicy:
        """Take the policy from the settings.

        Observations are kept as long as notifications, since ``cardsync explain`` shows both together.
        """
        content, rows = settings.inbox_content_days, settings.inbox_days
        return cls(
            {
                "given_up": content,
                "content": content,
                "hint": rows,
                "observation": rows,
                "audit": AUDIT_DAYS,
                "strangers": rows,
                "signature": max(settings.signature_days, rows),
                # Without a hint for as long as one is known.
                "customer" if settings.ottu_cards_api == "enabled" else "unlisted_customer": rows,
                "inquiry": content,  # a session names a payment
                "token_read": settings.token_read_days,
                "probation": PROBATION_DAYS,
                "answer": REPEATED_DAYS,
                "look": REPEATED_DAYS,
                "gateway": PROBATION_DAYS,
                "kept_body": settings.relay_keep_days,
                "relayed": rows,
            },
        )


def forget(engine: Engine, policy: ForgetPolicy) -> Mapping[What, int]:
    """Forget what is due, each kind in turn, until nothing is left or the time is over; return the rows of each kind."""
    until = time.monotonic() + RUN_SECONDS
    forgotten: dict[What, int] = dict.fromkeys(policy.days, 0)
    failed: dict[What, SQLAlchemyError] = {}
    left = list(policy.days)
    while left:
        for what in tuple(left):
            if time.monotonic() >= until:
                left.clear()
                break
            try:
                rows = _batch(engine, what, policy.days[what])
            except SQLAlchemyError as error:
                rows, failed[what] = 0, error
            forgotten[what] += rows
            if rows < retention.ROWS_AT_ONCE:
                left.remove(what)
    _tell_put_off(failed)
    if forgotten["given_up"]:
        log.warning("hints_given_up", count=forgotten["given_up"])
    if strangers := forgotten.get("customer", 0) + forgotten.get("unlisted_customer", 0):
        log.info("customers_forgotten", count=strangers)
    return forgotten


def forget_set_aside(engine: Engine, spool: Spool, *, content_days: int, now: dt.datetime) -> int:
    """Remove the set-aside records that are older than ``content_days``, and those of erased persons; how many files it was.

    Raises ``DBAPIError``, and ``OSError`` for a folder that cannot be read. Files are opened only if a person was erased since
    the oldest of them was written.
    """
    files = {file: names.written_at(file) for file in spool.set_aside_files()}
    too_old = now - dt.timedelta(days=content_days)
    gone = [file for file, written_at in files.items() if written_at < too_old]
    left = {file: written_at for file, written_at in files.items() if written_at >= too_old}
    if left:
        with engine.connect() as connection:
            erased = done_since(connection, min(left.values()))
        if erased:
            gone += [file for file, written_at in left.items() if _is_erased(file, written_at, erased)]
    spool.remove(gone)
    if gone:
        log.warning("spool_forgotten", count=len(gone))
    return len(gone)


def _is_erased(file: Path, written_at: dt.datetime, erased: Mapping[str, Erased]) -> bool:
    """Whether a record of the file is of a person who was erased after it was written, or may be."""
    since = {customer_id for customer_id, one in erased.items() if one.finished_at >= written_at}
    return bool(since) and any(customer_id is None or customer_id in since for customer_id in _customers(file))


def _customers(file: Path) -> Iterator[str | None]:
    try:
        content = file.read_bytes()
    except OSError:
        content = b""
    for record in [content] if content.startswith(b"{") else content.splitlines() or [b""]:
        yield named_customer(record)


def _batch(engine: Engine, what: What, older_days: int) -> int:
    """One batch in a transaction of its own."""
    with engine.begin() as connection:
        rows = retention.forget(connection, what, older_days=older_days)
    metrics.FORGOTTEN.labels(what).inc(rows)
    return rows


def _tell_put_off(failed: Mapping[What, SQLAlchemyError]) -> None:
    """One line when the database puts a run's kinds off, whichever these are, and one when a run puts none off."""
    if not failed:
        _put_off.is_over()
        return
    error = next(iter(failed.values()))  # what the database says of one it mostly says of all
    _put_off.goes_on(what=list(failed), error=type(error).__name__, why=db.why(error))
