"""``refresh_agreement``: read-through refresh of one agreement. Make certain which card it is charged to, for a reader who waits.

As ``refresh`` does for a customer's cards: the reader calls nothing itself. It marks the agreement, and waits for the row that a
worker changes (``ask_agreement``). What is known is enough if it is new enough and certain: a complete list in which one card
claims the agreement, or Ottu's own answer about it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from sqlalchemy import Connection, Engine

from cardsync.core.cards import Environment
from cardsync.store import agreement_asks, freshness
from cardsync.store.access.key_use import CallQuota, count_calls
from cardsync.store.agreement_asks import Certainty
from cardsync.stories.read_through import WAIT_SECONDS, Served, a_place, is_of, measured, oldest, wait


@dataclass(frozen=True, slots=True)
class WantedAgreement:
    """Which agreement's card, and how old what is known may be. ``customer_id`` is whose, where the reader knows."""

    environment: Environment
    agreement_id: str
    customer_id: str | None
    max_age_seconds: int


def refresh_agreement(
    engine: Engine,
    wanted: WantedAgreement,
    *,
    places: threading.BoundedSemaphore,
    wait_seconds: float = WAIT_SECONDS,
    quota: CallQuota | None = None,
) -> Served:
    """Make the agreement as certain as wanted, and wait for that if one of the ``places`` for waiting is free."""
    return measured(lambda deadline: _serve(engine, wanted, places, deadline, quota), wait_seconds)


def _serve(
    engine: Engine,
    wanted: WantedAgreement,
    places: threading.BoundedSemaphore,
    deadline: float,
    quota: CallQuota | None,
) -> Served:
    with engine.connect() as connection:
        known = agreement_asks.certainty(connection, wanted.environment, wanted.agreement_id)
    if known is not None and is_of(known, oldest(known, wanted.max_age_seconds)):
        return "fresh"
    if known is None and wanted.customer_id is None:
        return "stale"  # there is no one to ask Ottu about
    with a_place(places) as free:
        if known is None and not free:
            return "crowded"
        with engine.begin() as connection:
            began = _want(connection, wanted, quota)
            if began is None:
                connection.rollback()
                return "spent"
        if not free:
            return "crowded"
        return "waited" if _wait(engine, wanted, began, deadline) else "stale"


def _want(connection: Connection, wanted: WantedAgreement, quota: CallQuota | None) -> Certainty | None:
    """Let Ottu be asked, unless it is being asked already, or was a moment ago; ``None`` if the key's calls are used up."""
    if wanted.customer_id is not None:
        customer = freshness.meet(connection, wanted.environment, wanted.customer_id).customer
        agreement_asks.meet(connection, wanted.environment, wanted.agreement_id, customer)
    known = agreement_asks.certainty(connection, wanted.environment, wanted.agreement_id)
    assert known is not None
    cooling = oldest(known, freshness.COOL_DOWN_SECONDS)
    comes = any(moment is not None and moment >= cooling for moment in (known.asked_at, known.answered_at))
    if comes or (known.due_in_seconds is not None and known.due_in_seconds <= 0):
        return known
    if quota is not None and not count_calls(connection, quota):
        return None
    agreement_asks.want_now(connection, wanted.environment, wanted.agreement_id)
    return known


def _wait(engine: Engine, wanted: WantedAgreement, began: Certainty, deadline: float) -> bool:
    def look() -> Certainty | None:
        with engine.connect() as connection:
            return agreement_asks.certainty(connection, wanted.environment, wanted.agreement_id)

    return wait(look, began, oldest(began, wanted.max_age_seconds), deadline)
