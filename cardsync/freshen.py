"""``freshen``: make what we know of a customer fresh enough for a reader who waits, within a bound.

The reader does not call Ottu: it marks the customer, rings, and waits on the condition that a worker changes. So it goes through
the same budget and gate as everybody, and readers share, in whichever process they are: what serves a reader is a list that was
*asked for* no longer before it came than ``max_age``. That may be one that is under way already; only where none is will there
be another call.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import Engine

from cardsync import metrics
from cardsync.bells import Bells
from cardsync.core.allowance import Lane
from cardsync.core.cards import Environment
from cardsync.store import customers, freshness
from cardsync.store.freshness import Freshness

WAIT_SECONDS: Final = 5.0  # a checkout page's patience; also well below the 15 s of any proxy
POLL_SECONDS: Final = 0.05

# At once; after a wait; in vain; not waited for, since enough readers wait already. The last two get what is known.
Served = Literal["fresh", "waited", "stale", "crowded"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whose cards, and how old the list that they were seen in may be."""

    environment: Environment
    customer_id: str
    max_age_seconds: int


def ask(engine: Engine, environment: Environment, customer_id: str, *, lane: Lane, bells: Bells) -> None:
    """Mark the customer as one who may differ from Ottu, and ring; one whom nothing ever named becomes known."""
    with engine.begin() as connection:
        customer = customers.touch(connection, environment, customer_id).customer
        customers.mark_dirty(connection, customer, evidence_no=None, lane=lane)
    bells.ring_customers([customer])


def freshen(
    engine: Engine,
    wanted: Wanted,
    *,
    bells: Bells,
    places: threading.BoundedSemaphore,
    wait_seconds: float = WAIT_SECONDS,
) -> Served:
    """Have what is known made as fresh as wanted, and wait for it if one of the ``places`` for waiting is free."""
    began = time.monotonic()
    served = _serve(engine, wanted, bells, places, began + wait_seconds)
    metrics.READER_SECONDS.labels(served).observe(time.monotonic() - began)
    return served


def _serve(engine: Engine, wanted: Wanted, bells: Bells, places: threading.BoundedSemaphore, deadline: float) -> Served:
    with engine.connect() as connection:
        known = freshness.of(connection, wanted.environment, wanted.customer_id)
    if known is not None and _is_of(known, _since(known, wanted)):
        return "fresh"
    free = places.acquire(blocking=False)
    try:
        if known is None:
            if not free:
                return "crowded"
            known = _make_known(engine, wanted)
        since = _since(known, wanted)
        with engine.begin() as connection:
            must_ring = freshness.want(connection, known.customer, since=since)
        if must_ring:
            bells.ring_customers([known.customer])
        if not free:
            return "crowded"
        return "waited" if _wait(engine, known, since, deadline) else "stale"
    finally:
        if free:
            places.release()


def _since(known: Freshness, wanted: Wanted) -> dt.datetime:
    return known.read_at - dt.timedelta(seconds=wanted.max_age_seconds)


def _make_known(engine: Engine, wanted: Wanted) -> Freshness:
    """Make known a customer whom nothing ever named: only Ottu can say whether there are cards.

    Such a row is looked at for ever after, so only a reader with a place makes one: of a reader who tries ids at random no more
    come in than calls are answered. Rejected: refusing whoever is unknown, since a shop may ask before the first hint comes.
    """
    with engine.begin() as connection:
        return freshness.now(connection, customers.touch(connection, wanted.environment, wanted.customer_id).customer)


def _wait(engine: Engine, began: Freshness, since: dt.datetime, deadline: float) -> bool:
    """Wait for a list asked for at ``since`` or later, or until it is known not to come in time; true if it came."""
    while True:
        with engine.connect() as connection:
            now = freshness.now(connection, began.customer)
        if _is_of(now, since):
            return True
        remaining = deadline - time.monotonic()
        # A failure puts the next attempt off; so does a closed gate. Waiting on would not help then.
        if remaining <= 0 or now.failures > began.failures or now.due_in_seconds > remaining:
            return False
        time.sleep(min(POLL_SECONDS, remaining))


def _is_of(known: Freshness, since: dt.datetime) -> bool:
    return known.reconciled_at is not None and known.reconciled_at >= since
