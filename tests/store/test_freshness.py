"""Freshness: when a reader needs a call of its own, and when one that is coming already serves."""

from __future__ import annotations

import datetime as dt

import pytest
from sqlalchemy import Engine

from cardsync.store import customers, freshness
from cardsync.store.access import keys
from cardsync.store.access.key_use import CallQuota
from tests.factories import CustomerFactory
from tests.store.rows import beside, change, one, wait_until_blocked

# In the future: a moment ago is within the last second, and a busy machine may take longer to look.
LATELY = -60.0


def moment(engine: Engine) -> dt.datetime:
    found: dt.datetime = one(engine, "SELECT clock_timestamp() AS now").now
    return found


def want(engine: Engine, customer: int, since: dt.datetime, cool_down_seconds: float = 0.0) -> freshness.Answer:
    with engine.begin() as connection:
        return freshness.want(connection, customer, since=since, cool_down_seconds=cool_down_seconds)


def test_an_unknown_customer_has_no_freshness(engine: Engine) -> None:
    with engine.connect() as connection:
        assert freshness.of(connection, "sandbox", "unknown") is None


def test_a_list_that_is_new_enough_needs_no_call_and_one_that_is_too_old_does(engine: Engine) -> None:
    now = moment(engine)
    customer = CustomerFactory(reconciled_at=now).id
    assert want(engine, customer, now) == "coming"
    later = now + dt.timedelta(microseconds=1)
    assert want(engine, customer, later, cool_down_seconds=60) == "cooling"
    assert one(engine, "SELECT lane, due_at FROM cardsync.customers") == (None, None)
    assert want(engine, customer, later) == "asked"
    assert one(engine, "SELECT lane, due_at <= clock_timestamp() FROM cardsync.customers") == ("read", True)


def test_a_call_under_way_serves_those_who_came_before_it_began(engine: Engine) -> None:
    customer = CustomerFactory(dirty=True).id
    with engine.begin() as connection:
        ticket = customers.take_ticket(connection, customer, lease_seconds=30)
    assert ticket is not None
    assert want(engine, customer, ticket.asked_at) == "coming"
    later = ticket.asked_at + dt.timedelta(microseconds=1)
    assert want(engine, customer, later, cool_down_seconds=60) == "cooling"
    assert want(engine, customer, later) == "asked"


@pytest.mark.parametrize(
    ("lane", "rung_ago", "answer"),
    [
        *[("read", LATELY, "coming"), ("hint", LATELY, "coming")],
        *[("sweep", LATELY, "asked"), ("retry", LATELY, "asked"), ("read", 5.0, "asked")],
    ],
)
def test_a_bell_that_was_rung_a_moment_ago_serves_unless_its_turn_may_be_far_off(
    engine: Engine, lane: str, rung_ago: float, answer: freshness.Answer
) -> None:
    customer = CustomerFactory(dirty=True).id
    change(
        engine,
        "UPDATE cardsync.customers SET lane = :lane, rung_at = clock_timestamp() - make_interval(secs => :ago)",
        lane=lane,
        ago=rung_ago,
    )
    assert want(engine, customer, moment(engine)) == answer


@pytest.mark.usefixtures("still_clock")  # a bell counts for a second, and a busy machine may take longer here
def test_of_two_readers_at_once_one_rings(engine: Engine) -> None:
    customer = CustomerFactory().id
    since = moment(engine)
    with engine.begin() as connection:
        assert freshness.want(connection, customer, since=since) == "asked"
        with beside(engine, lambda other: freshness.want(other, customer, since=since)) as second:
            wait_until_blocked(engine)
            connection.commit()
            assert second() == "coming"


def test_the_time_until_the_next_look_is_none_while_one_is_under_way(engine: Engine) -> None:
    customer = CustomerFactory(dirty=True)
    change(engine, "UPDATE cardsync.customers SET due_at = clock_timestamp() + interval '1 min'")
    with engine.connect() as connection:
        found = freshness.of(connection, "sandbox", customer.customer_id)
    assert found is not None
    assert 50 < found.due_in_seconds <= 60
    change(
        engine,
        "UPDATE cardsync.customers SET ticket_no = 99, asked_at = clock_timestamp(),"
        " lease_until = clock_timestamp() + interval '1 min'",
    )
    with engine.connect() as connection:
        assert freshness.now(connection, customer.id).due_in_seconds == 0


def test_a_customer_that_only_a_reader_named_is_on_probation_until_something_else_names_it(engine: Engine) -> None:
    def on_probation() -> bool:
        found: bool = one(engine, "SELECT probation_since IS NOT NULL AS found FROM cardsync.customers").found
        return found

    with engine.begin() as connection:
        met = freshness.meet(connection, "sandbox", "cust-1")
        assert freshness.meet(connection, "sandbox", "cust-1").customer == met.customer
    assert on_probation()
    with engine.begin() as connection:
        assert customers.touch(connection, "sandbox", "cust-1").customer == met.customer
    assert not on_probation()
    with engine.begin() as connection:
        freshness.meet(connection, "sandbox", "cust-1")
    assert not on_probation()


def test_what_is_asked_for_within_the_cool_down_is_due_when_it_ends_and_costs_one_call(engine: Engine) -> None:
    customer = CustomerFactory(reconciled_at=moment(engine)).id
    with engine.begin() as connection:
        key_id = keys.create(connection, "shop", keys.key_hash(keys.new_key()), ["cards:reconcile"])
    quota = CallQuota(key_id, 1)

    def ask() -> freshness.Answer:
        with engine.begin() as connection:
            return freshness.ask(connection, customer, quota=quota, cool_down_seconds=60)

    assert [ask(), ask(), ask()] == ["later", "coming", "coming"]
    due = "SELECT extract(epoch FROM due_at - reconciled_at)::float8 AS seconds, lane FROM cardsync.customers"
    assert one(engine, due) == (60.0, "read")
    change(engine, "UPDATE cardsync.customers SET due_at = NULL, lane = NULL, dirty_since = NULL, reconciled_at = NULL")
    assert ask() == "spent"
    assert one(engine, "SELECT due_at FROM cardsync.customers") == (None,)
