"""``refresh_gateway``: read-through refresh of one gateway's cards, for a reader who asks for no others.

As ``refresh`` does for all cards of a customer: the reader calls nothing itself. What is known is as new as the last complete
list or the last one filtered by the gateway, whichever is newer. The filtered one is asked for only where it can answer. Before
the first complete list there is nothing that it could agree with, and a complete list on its way serves this reader too.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from sqlalchemy import Engine

from cardsync.bells import Bells
from cardsync.core.cards import Environment
from cardsync.store import freshness, gateway_asks
from cardsync.store.access.key_use import CallQuota
from cardsync.store.gateway_asks import Freshness
from cardsync.stories import refresh
from cardsync.stories.read_through import WAIT_SECONDS, Served, a_place, is_of, measured, oldest, wait


@dataclass(frozen=True, slots=True)
class WantedGateway:
    """Which gateway's cards of which customer, and how old what is known may be."""

    environment: Environment
    customer_id: str
    pg_code: str
    max_age_seconds: int


def refresh_gateway(
    engine: Engine,
    wanted: WantedGateway,
    *,
    bells: Bells,
    places: threading.BoundedSemaphore,
    wait_seconds: float = WAIT_SECONDS,
    quota: CallQuota | None = None,
) -> Served:
    """Make the gateway's cards as fresh as wanted, and wait for that if one of the ``places`` for waiting is free."""
    return measured(lambda deadline: _serve(engine, wanted, bells, places, deadline, quota), wait_seconds)


def _serve(
    engine: Engine,
    wanted: WantedGateway,
    bells: Bells,
    places: threading.BoundedSemaphore,
    deadline: float,
    quota: CallQuota | None,
) -> Served:
    known = _look(engine, wanted)
    if known is not None and is_of(known, oldest(known, wanted.max_age_seconds)):
        return "fresh"
    if known is None or known.reconciled_at is None or known.list_comes:
        all_cards = refresh.Wanted(wanted.environment, wanted.customer_id, wanted.max_age_seconds)
        return refresh.serve(engine, all_cards, bells, places, deadline, quota)
    with a_place(places) as free:
        since = oldest(known, wanted.max_age_seconds)
        with engine.begin() as connection:
            answer = gateway_asks.want(connection, known.customer, wanted.pg_code, since=since, quota=quota)
            if answer == "spent":
                connection.rollback()
        if answer == "asked":
            bells.ring()
        if answer == "spent":
            return "spent"
        if not free:
            return "crowded"
        if answer == "cooling":  # no further call; but one that is under way is worth waiting for
            _wait(engine, wanted, known, freshness.COOL_DOWN_SECONDS, deadline)
            return "cooling"
        return "waited" if _wait(engine, wanted, known, wanted.max_age_seconds, deadline) else "stale"


def _look(engine: Engine, wanted: WantedGateway) -> Freshness | None:
    with engine.connect() as connection:
        return gateway_asks.freshness(connection, wanted.environment, wanted.customer_id, wanted.pg_code)


def _wait(engine: Engine, wanted: WantedGateway, began: Freshness, max_age_seconds: float, deadline: float) -> bool:
    return wait(lambda: _look(engine, wanted), began, oldest(began, max_age_seconds), deadline)
