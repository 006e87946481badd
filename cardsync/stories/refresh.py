"""``refresh``: read-through refresh. Make a customer's cards fresh enough for a reader who waits, within a bound.

The reader does not call Ottu. It marks the customer, rings, and waits for the row that a worker changes. So readers go through
the same budget and gate as all other callers, and readers in all processes share calls. A reader is served by a list that was
*asked for* at most ``max_age`` before the reader came. That may be a call that is under way already; there is another call only
if none is.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from sqlalchemy import Engine

from cardsync.bells import Bells
from cardsync.core.cards import Environment
from cardsync.store import freshness
from cardsync.store.access.key_use import CallQuota
from cardsync.store.freshness import Freshness
from cardsync.stories.read_through import WAIT_SECONDS, Served, a_place, is_of, measured, oldest, wait


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which customer's cards, and how old their list may be."""

    environment: Environment
    customer_id: str
    max_age_seconds: int


def refresh(
    engine: Engine,
    wanted: Wanted,
    *,
    bells: Bells,
    places: threading.BoundedSemaphore,
    wait_seconds: float = WAIT_SECONDS,
    quota: CallQuota | None = None,
) -> Served:
    """Make the customer's cards as fresh as wanted, and wait for that if one of the ``places`` for waiting is free."""
    return measured(lambda deadline: serve(engine, wanted, bells, places, deadline, quota), wait_seconds)


def serve(
    engine: Engine,
    wanted: Wanted,
    bells: Bells,
    places: threading.BoundedSemaphore,
    deadline: float,
    quota: CallQuota | None,
) -> Served:
    """As ``refresh``, until a deadline (of ``time.monotonic``), and not measured: ``refresh_gateway`` falls back on it."""
    with engine.connect() as connection:
        known = freshness.of(connection, wanted.environment, wanted.customer_id)
    if known is not None and is_of(known, oldest(known, wanted.max_age_seconds)):
        return "fresh"
    with a_place(places) as free:
        if known is None and not free:
            return "crowded"
        known, answer = _want(engine, wanted, known, quota)
        if answer == "asked":
            bells.ring()
        if answer == "spent":
            return "spent"
        if not free:
            return "crowded"
        if answer == "cooling":  # no further call; but one that is under way is worth waiting for
            _wait(engine, known, freshness.COOL_DOWN_SECONDS, deadline)
            return "cooling"
        return "waited" if _wait(engine, known, wanted.max_age_seconds, deadline) else "stale"


def _want(
    engine: Engine, wanted: Wanted, known: Freshness | None, quota: CallQuota | None
) -> tuple[Freshness, freshness.Answer]:
    """Ask for a newer list, in one transaction: an unknown customer becomes known, on probation, only if it is asked about.

    A client that tries ids at random adds rows no faster than its quota of calls allows, and they go after a day. Rejected:
    refusing an unknown customer, since a shop may ask before the first hint comes.
    """
    with engine.begin() as connection:
        if known is None:
            known = freshness.meet(connection, wanted.environment, wanted.customer_id)
        answer = freshness.want(connection, known.customer, since=oldest(known, wanted.max_age_seconds), quota=quota)
        if answer == "spent":
            connection.rollback()
    return known, answer


def _wait(engine: Engine, began: Freshness, max_age_seconds: float, deadline: float) -> bool:
    def look() -> Freshness:
        with engine.connect() as connection:
            return freshness.now(connection, began.customer)

    return wait(look, began, oldest(began, max_age_seconds), deadline)
