"""The tickets of questions about one agreement."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from cardsync.store import agreement_asks
from cardsync.store.agreement_asks import Ticket
from tests.factories import CustomerFactory
from tests.store.rows import change, one


@pytest.fixture(autouse=True)
def agreements(engine: Engine) -> None:
    """Three agreements of one customer, not due."""
    customer = CustomerFactory().id
    for name in ("A", "B", "C"):
        change(
            engine,
            "INSERT INTO cardsync.known_agreements (environment, agreement_id, customer) VALUES ('sandbox', :name, :id)",
            name=name,
            id=customer,
        )


def want(engine: Engine, *names: str) -> None:
    with engine.begin() as connection:
        agreement_asks.want(connection, "sandbox", names)


def take(engine: Engine) -> Ticket | None:
    with engine.begin() as connection:
        return agreement_asks.take(connection, lease_seconds=10)


def settle(engine: Engine, ticket: Ticket) -> bool:
    with engine.begin() as connection:
        return agreement_asks.settle(connection, ticket)


def test_what_is_due_longest_is_taken_first_and_by_one_process(engine: Engine) -> None:
    want(engine, "B")
    want(engine, "A", "B")
    taken = [ticket.agreement_id for ticket in iter(lambda: take(engine), None)]
    assert taken == ["B", "A"]


def test_a_row_that_another_transaction_holds_is_passed_over(engine: Engine) -> None:
    want(engine, "A")
    want(engine, "B")
    with engine.begin() as connection:
        first = agreement_asks.take(connection, lease_seconds=10)
        second = take(engine)
    assert first is not None
    assert second is not None
    assert [first.agreement_id, second.agreement_id] == ["A", "B"]
    assert second.number != first.number


def test_a_ticket_whose_lease_ran_out_is_taken_again_and_the_first_stands_no_more(engine: Engine) -> None:
    want(engine, "A")
    first = take(engine)
    change(engine, "UPDATE cardsync.known_agreements SET lease_until = clock_timestamp() WHERE lease_until IS NOT NULL")
    second = take(engine)
    assert first is not None
    assert second is not None
    assert (settle(engine, first), settle(engine, second), take(engine)) == (False, True, None)


def test_a_wish_that_comes_during_the_call_stays(engine: Engine) -> None:
    want(engine, "A")
    ticket = take(engine)
    assert ticket is not None
    with engine.begin() as connection:
        agreement_asks.want_now(connection, "sandbox", "A")
    assert settle(engine, ticket)
    again = take(engine)
    assert again is not None
    assert again.lane == "read"


def test_after_a_failure_it_is_due_when_its_wait_is_over_also_for_a_reader(engine: Engine) -> None:
    want(engine, "A")
    ticket = take(engine)
    assert ticket is not None
    with engine.begin() as connection:
        agreement_asks.put_off(connection, ticket, wait_seconds=60, error="away", counted=True)
        agreement_asks.want_now(connection, "sandbox", "A")
    assert take(engine) is None
    row = one(engine, "SELECT failures, last_error FROM cardsync.known_agreements WHERE agreement_id = 'A'")
    assert tuple(row) == (1, "away")
