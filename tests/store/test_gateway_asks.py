"""The tickets of questions about one payment gateway's cards."""

from __future__ import annotations

import datetime as dt

import pytest
from sqlalchemy import Engine

from cardsync.store import gateway_asks
from cardsync.store.gateway_asks import Answer, Ticket
from tests.factories import CustomerFactory
from tests.store.rows import change, one


@pytest.fixture
def customer(engine: Engine) -> int:
    """A customer whose list was asked for an hour ago."""
    made: int = CustomerFactory().id
    change(engine, "UPDATE cardsync.customers SET reconciled_at = clock_timestamp() - interval '1 hour', due_at = NULL")
    return made


def want(engine: Engine, customer: int, pg_code: str = "one", *, ago_seconds: float = 0.0) -> Answer:
    since = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=ago_seconds)
    with engine.begin() as connection:
        return gateway_asks.want(connection, customer, pg_code, since=since)


def take(engine: Engine, limit: int = 10) -> list[Ticket]:
    with engine.begin() as connection:
        return gateway_asks.take(connection, limit=limit, lease_seconds=600)


def settle(engine: Engine, ticket: Ticket, *, agrees: bool = True) -> bool:
    with engine.begin() as connection:
        return gateway_asks.settle(connection, ticket, agrees=agrees)


def let_time_pass(engine: Engine, seconds: float) -> None:
    """As if all that was asked and answered had been so many seconds before."""
    change(
        engine,
        "UPDATE cardsync.gateway_asks SET asked_at = asked_at - make_interval(secs => :by),"
        " answered_at = answered_at - make_interval(secs => :by), not_before = not_before - make_interval(secs => :by)",
        by=seconds,
    )


def test_what_is_due_longest_is_taken_first_and_by_one_process(engine: Engine, customer: int) -> None:
    assert [want(engine, customer, name) for name in ("b", "a", "c")] == ["asked"] * 3
    assert want(engine, customer, "b") == "coming"
    with engine.begin() as connection:
        first = gateway_asks.take(connection, limit=1, lease_seconds=600)
        others = take(engine)
    assert [ticket.pg_code for ticket in first] == ["b"]
    assert {ticket.pg_code for ticket in others} == {"a", "c"}
    assert len({ticket.number for ticket in (*first, *others)}) == 3
    assert take(engine) == []


def test_a_ticket_whose_lease_ran_out_is_taken_again_and_the_first_stands_no_more(
    engine: Engine, customer: int
) -> None:
    want(engine, customer)
    (first,) = take(engine)
    change(engine, "UPDATE cardsync.gateway_asks SET lease_until = clock_timestamp()")
    (second,) = take(engine)
    assert (settle(engine, first), settle(engine, second), take(engine)) == (False, True, [])


@pytest.mark.usefixtures("still_clock")
def test_a_customer_has_one_cool_down_for_all_its_gateways_and_its_complete_list(engine: Engine, customer: int) -> None:
    want(engine, customer)
    (ticket,) = take(engine)
    settle(engine, ticket)
    assert (want(engine, customer), want(engine, customer, "other")) == ("cooling", "cooling")
    let_time_pass(engine, 6)
    assert want(engine, customer, "other") == "asked"
    change(engine, "UPDATE cardsync.customers SET reconciled_at = clock_timestamp()")
    assert want(engine, customer, "third") == "cooling"


def test_a_call_under_way_serves_who_came_before_it_and_a_wish_during_it_stays(engine: Engine, customer: int) -> None:
    want(engine, customer)
    (ticket,) = take(engine)
    assert want(engine, customer, ago_seconds=3_600) == "coming"
    let_time_pass(engine, 6)
    assert want(engine, customer) == "asked"
    assert settle(engine, ticket)
    assert [again.pg_code for again in take(engine)] == ["one"]


def test_after_a_failure_it_is_not_asked_again_before_the_wait_is_over(engine: Engine, customer: int) -> None:
    want(engine, customer)
    (ticket,) = take(engine)
    with engine.begin() as connection:
        gateway_asks.put_off(connection, ticket, wait_seconds=6_000, error="away")
    row = one(engine, "SELECT failures, last_error, due_at, answered_at FROM cardsync.gateway_asks")
    assert tuple(row) == (1, "away", None, None)
    assert (want(engine, customer), take(engine)) == ("cooling", [])
    let_time_pass(engine, 6_001)
    assert want(engine, customer) == "asked"


def test_only_an_answer_that_agrees_makes_it_fresh(engine: Engine, customer: int) -> None:
    def as_of() -> dt.datetime | None:
        row = one(engine, "SELECT environment, customer_id FROM cardsync.customers")
        with engine.connect() as connection:
            found = gateway_asks.freshness(connection, row.environment, row.customer_id, "one")
        assert found is not None
        return found.as_of

    (listed_at,) = one(engine, "SELECT reconciled_at FROM cardsync.customers")
    want(engine, customer)
    (ticket,) = take(engine)
    settle(engine, ticket, agrees=False)
    assert as_of() == listed_at
    let_time_pass(engine, 6)
    change(engine, "UPDATE cardsync.gateway_asks SET due_at = clock_timestamp()")
    (ticket,) = take(engine)
    settle(engine, ticket)
    assert as_of() == ticket.asked_at
    with engine.connect() as connection:
        assert gateway_asks.freshness(connection, "sandbox", "nobody", "one") is None
