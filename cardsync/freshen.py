"""``freshen``: make what we know of a customer fresh enough for a reader who waits, within a bound.

The reader does not call Ottu: it marks the customer, rings, and waits on the condition that a worker changes. So a reader
costs one call at most however many ask at once, and goes through the same budget and gate as everybody.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine

from cardsync.bells import Bells
from cardsync.core.cards import Environment
from cardsync.store import customers
from cardsync.store.customers import Lane, Progress

WAIT_SECONDS: Final = 5.0  # a checkout page's patience; also well below the 15 s of any proxy
POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whose cards, and how old the list that they were seen in may be."""

    environment: Environment
    customer_id: str
    max_age_seconds: int


def ask(engine: Engine, environment: Environment, customer_id: str, *, lane: Lane, bells: Bells) -> Progress:
    """Mark the customer as one who may differ from Ottu, and ring; one whom nothing ever named becomes known."""
    with engine.begin() as connection:
        customer = customers.touch(connection, environment, customer_id).customer
        customers.mark_dirty(connection, customer, evidence_no=None, lane=lane)
        progress = customers.progress(connection, customer)
    bells.ring_customers([customer])
    return progress


def is_fresh(engine: Engine, wanted: Wanted) -> bool:
    """Tell whether what we know is no older than wanted."""
    with engine.connect() as connection:
        known = customers.freshness(connection, wanted.environment, wanted.customer_id)
    return known is not None and known.age_seconds is not None and known.age_seconds <= wanted.max_age_seconds


def freshen(engine: Engine, wanted: Wanted, *, bells: Bells, wait_seconds: float = WAIT_SECONDS) -> bool:
    """Ask, and wait until a list asked for after now is believed, or is known not to come in time; true if it was."""
    deadline = time.monotonic() + wait_seconds
    began = ask(engine, wanted.environment, wanted.customer_id, lane="read", bells=bells)
    now = began
    while True:
        remaining = deadline - time.monotonic()
        # A failure puts the next attempt off; so does a closed gate. Waiting on would not help then.
        if remaining <= 0 or now.failures > began.failures or now.due_in_seconds > remaining:
            return False
        time.sleep(min(POLL_SECONDS, remaining))
        with engine.connect() as connection:
            now = customers.progress(connection, began.customer)
        if now.reconciled_at is not None and now.reconciled_at >= began.read_at:
            return True
        if now.age_seconds is not None and now.age_seconds <= wanted.max_age_seconds:
            return True
