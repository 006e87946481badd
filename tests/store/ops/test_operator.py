"""What only an operator's commands do to customers: each touches only a customer who is due, or none."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Engine

from cardsync.store.ops import operator
from tests.factories import CustomerFactory
from tests.store.rows import change, one

LATER = "UPDATE cardsync.customers SET due_at = clock_timestamp() + interval '1 h', rung_at = clock_timestamp() WHERE id = :id"


def test_a_hurry_ends_a_backoff_and_makes_no_calm_customer_due(engine: Engine) -> None:
    waiting, calm = CustomerFactory(dirty=True, failures=9).id, CustomerFactory().id
    change(engine, LATER, id=waiting)
    with engine.begin() as connection:
        for customer in (waiting, calm):
            operator.hurry(connection, customer, lane="read")
    row = "SELECT due_at <= clock_timestamp() AS due, lane FROM cardsync.customers WHERE id = :id"
    assert one(engine, row, id=waiting) == (True, "hint")
    assert one(engine, row, id=calm) == (None, None)


def test_the_sweep_is_let_ring_for_due_customers_alone(engine: Engine) -> None:
    due = CustomerFactory(dirty=True, rung_at=dt.datetime.now(dt.UTC)).id
    other = CustomerFactory(dirty=True, rung_at=dt.datetime.now(dt.UTC)).id
    with engine.begin() as connection:
        operator.let_sweep_ring(connection, [due])
    row = "SELECT rung_at IS NULL FROM cardsync.customers WHERE id = :id"
    assert (one(engine, row, id=due)[0], one(engine, row, id=other)[0]) == (True, False)


def test_whether_a_list_was_asked_for_since_a_moment(engine: Engine) -> None:
    moment = dt.datetime.now(dt.UTC)
    looked_at, never = CustomerFactory(reconciled_at=moment).id, CustomerFactory().id
    with engine.connect() as connection:
        assert operator.reconciled_since(connection, looked_at, moment)
        assert not operator.reconciled_since(connection, looked_at, moment + dt.timedelta(microseconds=1))
        assert not operator.reconciled_since(connection, never, moment)
        assert not operator.reconciled_since(connection, 0, moment)
