"""Customers and cards as a reconciliation would leave them, written through the store itself."""

from __future__ import annotations

import uuid

from sqlalchemy import Engine, text

from cardsync.core.cards import CardFacts, Environment, Token
from cardsync.core.diff import Plan, RemoteCard
from cardsync.store import agreements, cards, customers
from cardsync.store.agreements import Claims
from tests.factories import ESTIMATE, RING

KEY = b"fingerprints"

# Ends all connections to the database but this one, as a restart of the server does.
KILL_ALL = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


def add_card(
    engine: Engine,
    customer_id: str = "cust-1",
    token: str = "9999000000000001",
    environment: Environment = "sandbox",
    agreement_ids: tuple[str, ...] = (),
    key: bytes = KEY,
    **facts: object,
) -> uuid.UUID:
    """Add an active card, charged for these agreements."""
    known = CardFacts(number=f"**** {token[-4:]}", agreements=agreement_ids, **facts)  # type: ignore[arg-type]
    held = Token(token)
    fingerprint = held.fingerprint(key, environment)
    with engine.begin() as connection:
        customer = customers.touch(connection, environment, customer_id).customer
        now = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        plan = Plan(added=(RemoteCard(fingerprint, held, known),))
        card_id = cards.apply(connection, customer, plan, ring=RING, confirmed_at=now, cause="sweep")[fingerprint]
        agreements.apply(connection, environment, [Claims(card_id, agreement_ids, ())], [], 1)
    return card_id


def remove_card(engine: Engine, card_id: uuid.UUID) -> None:
    """Remove an active card."""
    with engine.begin() as connection:
        customer = connection.execute(
            text("SELECT customer FROM cardsync.cards WHERE card_id = :card_id"), {"card_id": card_id}
        ).scalar_one()
        cards.apply(connection, customer, Plan(removed=(card_id,)), ring=RING, confirmed_at=None, cause="sweep")


def due(engine: Engine) -> list[int]:
    """The customers that a worker would claim now."""
    with engine.connect() as connection:
        return list(connection.execute(text("SELECT id FROM cardsync.customers WHERE due_at <= now()")).scalars())


def reconcile_now(engine: Engine, customer: int) -> None:
    """Do what a worker does for a customer who is due, with an answer that changes nothing."""
    with engine.begin() as connection:
        ticket = customers.take_ticket(connection, customer, lease_seconds=30)
    assert ticket is not None
    with engine.begin() as connection:
        customers.settle(connection, ticket, ESTIMATE, look_again_seconds=None, removals_held=False)


def fail_now(engine: Engine, customer: int) -> None:
    """Do what a worker does for a customer who is due, when Ottu does not answer."""
    with engine.begin() as connection:
        ticket = customers.take_ticket(connection, customer, lease_seconds=30)
    assert ticket is not None
    with engine.begin() as connection:
        customers.fail(connection, ticket, error="no answer", wait_seconds=60, counted=True, lane="retry")
