"""Observations: one row for each ticket, and the first word counts."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Engine

from cardsync.store import observations
from cardsync.store.customers import Ticket
from tests.factories import CustomerFactory
from tests.store.rows import one


def test_a_ticket_has_one_observation_and_the_first_word_counts(engine: Engine) -> None:
    customer = CustomerFactory()
    asked_at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    ticket = Ticket(customer.id, "sandbox", customer.customer_id, 7, asked_at, "hint", 0)
    with engine.begin() as connection:
        observations.record(connection, ticket, outcome="changed", calls=2, listed=3, changed=1, removed=1)
        observations.record(connection, ticket, outcome="OttuFault", calls=1)
    row = one(
        engine,
        "SELECT observation_no, customer, lane, asked_at, outcome, calls, listed, removed FROM cardsync.observations",
    )
    assert row == (7, customer.id, "hint", asked_at, "changed", 2, 3, 1)


def test_a_long_outcome_is_cut(engine: Engine) -> None:
    customer = CustomerFactory()
    ticket = Ticket(customer.id, "sandbox", customer.customer_id, 1, dt.datetime.now(dt.UTC), "hint", 0)
    with engine.begin() as connection:
        observations.record(connection, ticket, outcome="x" * 100, calls=1)
    assert one(engine, "SELECT length(outcome) FROM cardsync.observations")[0] == observations.OUTCOME_MAX
