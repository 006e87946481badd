"""Customers: the ticket and its guards, what makes a customer due and clean, and the more urgent of two lanes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

from cardsync.core.call_budget import LANES, Lane
from cardsync.core.repeats import APART_SECONDS
from cardsync.errors import Superseded
from cardsync.store import customers
from cardsync.store.customers import LONGEST_WAIT_WITH_A_HINT_SECONDS, Ticket
from cardsync.store.ops import operator, resyncs
from tests.factories import ESTIMATE, CustomerFactory
from tests.store.rows import beside, change, one, wait_until_blocked

Bring = Callable[[Connection, int, Lane], None]


def mark(connection: Connection, customer: int, lane: Lane) -> None:
    customers.mark_dirty(connection, customer, evidence_no=None, lane=lane)


def hurry(connection: Connection, customer: int, lane: Lane) -> None:
    operator.hurry(connection, customer, lane=lane)


def lane_after(engine: Engine, bring: Bring, waiting: Lane | None, coming: Lane, *, failures: int = 0) -> str | None:
    with engine.connect() as connection:  # nothing is committed
        customer = customers.touch(connection, "sandbox", "cust-1").customer
        connection.execute(
            text(
                "UPDATE cardsync.customers SET lane = :lane, failures = :failures,"
                " due_at = CASE WHEN cast(:lane AS text) IS NOT NULL THEN clock_timestamp() END"
            ),
            {"lane": waiting, "failures": failures},
        )
        bring(connection, customer, coming)
        found: str | None = connection.execute(text("SELECT lane FROM cardsync.customers")).scalar_one()
        return found


@pytest.mark.parametrize("bring", [mark, hurry])
def test_the_more_urgent_lane_stays(engine: Engine, bring: Bring) -> None:
    for urgent, first in enumerate(LANES):
        for second in LANES[urgent:]:
            assert lane_after(engine, bring, first, second) == first
            assert lane_after(engine, bring, second, first) == first


@pytest.mark.parametrize("lane", LANES)
def test_who_was_not_due_is_due_for_what_comes(engine: Engine, lane: Lane) -> None:
    assert lane_after(engine, mark, None, lane) == lane


def test_evidence_of_a_customer_for_whom_ottu_fails_is_a_retry_unless_it_is_a_deletions(engine: Engine) -> None:
    assert lane_after(engine, mark, "sweep", "hint", failures=1) == "retry"
    assert lane_after(engine, mark, "retry", "hint", failures=1) == "retry"
    assert lane_after(engine, mark, "retry", "deletion", failures=1) == "deletion"
    assert lane_after(engine, mark, "deletion", "hint", failures=1) == "deletion"


def test_a_walk_puts_nobody_behind_the_sweeps_who_is_due_for_a_better_reason(engine: Engine) -> None:
    def full_resync(connection: Connection, customer: int, _: Lane) -> None:
        on, _begun = resyncs.begin(connection, by="cli:test", restart=False)
        assert resyncs.make_due(connection, on, customer)

    better = LANES[: LANES.index("sweep")]
    assert [lane_after(engine, full_resync, lane, "sweep") for lane in better] == list(better)
    assert [lane_after(engine, full_resync, lane, "sweep") for lane in (None, *LANES[LANES.index("sweep") :])] == [
        "sweep"
    ] * (len(LANES) - len(better) + 1)


# The ticket.


def take(engine: Engine, customer: int, *, lease_seconds: float = 30) -> Ticket | None:
    with engine.begin() as connection:
        return customers.take_ticket(connection, customer, lease_seconds=lease_seconds)


def taken(engine: Engine, customer: int, *, lease_seconds: float = 30) -> Ticket:
    ticket = take(engine, customer, lease_seconds=lease_seconds)
    assert ticket is not None
    return ticket


def settle(engine: Engine, ticket: Ticket, **given: Any) -> bool:
    with engine.begin() as connection:
        return customers.settle(
            connection, ticket, ESTIMATE, **{"look_again_seconds": None, "removals_held": False, **given}
        )()


def run_out(engine: Engine) -> None:
    """Let every lease be over."""
    assert change(engine, "UPDATE cardsync.customers SET lease_until = clock_timestamp() - interval '1 s'")


def test_a_ticket_is_newer_than_all_evidence_and_takes_the_lane(engine: Engine) -> None:
    customer = CustomerFactory(dirty=True)
    with engine.begin() as connection:
        customers.mark_dirty(connection, customer.id, evidence_no=None, lane="read")
    newest = one(engine, "SELECT dirty_no FROM cardsync.customers").dirty_no
    ticket = taken(engine, customer.id)
    assert ticket.number > newest
    assert (ticket.customer_id, ticket.lane, ticket.failures) == (customer.customer_id, "hint", 0)


def test_a_customer_that_is_not_due_or_whose_ticket_stands_gives_none(engine: Engine) -> None:
    calm, later, held = CustomerFactory().id, CustomerFactory(dirty=True).id, CustomerFactory(dirty=True).id
    change(
        engine, "UPDATE cardsync.customers SET due_at = clock_timestamp() + interval '1 min' WHERE id = :id", id=later
    )
    assert take(engine, held) is not None
    assert [take(engine, customer) for customer in (calm, later, held, 0)] == [None] * 4


def test_of_two_who_take_at_once_one_waits_for_the_row_and_gets_none(engine: Engine) -> None:
    customer = CustomerFactory(dirty=True).id
    with engine.begin() as connection:
        assert customers.take_ticket(connection, customer, lease_seconds=30) is not None
        with beside(engine, lambda other: customers.take_ticket(other, customer, lease_seconds=30)) as second:
            wait_until_blocked(engine)
            connection.commit()
            assert second() is None


def test_a_lease_that_ran_out_supersedes_every_use_of_its_ticket(engine: Engine) -> None:
    customer = CustomerFactory(dirty=True).id
    old = taken(engine, customer)
    run_out(engine)
    for use in (
        lambda c: customers.lock_if_ticket_stands(c, old)(),
        lambda c: customers.renew(c, old, lease_seconds=30),
    ):
        with pytest.raises(Superseded), engine.begin() as connection:
            use(connection)
    new = taken(engine, customer)
    with pytest.raises(Superseded), engine.begin() as connection:
        customers.fail(connection, old, error="late", wait_seconds=1, counted=True, lane="retry")
    with pytest.raises(Superseded):
        settle(engine, old)
    assert settle(engine, new) is False
    assert one(engine, "SELECT applied_no, failures FROM cardsync.customers") == (new.number, 0)


def test_a_renewed_ticket_stands_longer(engine: Engine) -> None:
    ticket = taken(engine, CustomerFactory(dirty=True).id, lease_seconds=30)
    with engine.begin() as connection:
        customers.renew(connection, ticket, lease_seconds=300)
    left = one(engine, "SELECT extract(epoch FROM lease_until - clock_timestamp())::float8 FROM cardsync.customers")[0]
    assert 200 < left <= 300


def test_an_answer_is_applied_once(engine: Engine) -> None:
    ticket = taken(engine, CustomerFactory(dirty=True).id)
    settle(engine, ticket)
    with pytest.raises(Superseded):
        settle(engine, ticket)
    with pytest.raises(Superseded), engine.begin() as connection:
        customers.lock_if_ticket_stands(connection, ticket)()


# Settling.


def test_a_settled_customer_is_clean_and_at_rest(engine: Engine) -> None:
    ticket = taken(engine, CustomerFactory(dirty=True, failures=3, last_error="x").id)
    assert settle(engine, ticket) is False
    row = one(
        engine, "SELECT dirty_since, due_at, lane, ticket_no, lease_until, failures, last_error FROM cardsync.customers"
    )
    assert row == (None, None, None, None, None, 0, None)
    assert one(engine, "SELECT reconciled_at FROM cardsync.customers")[0] == ticket.asked_at


def test_evidence_that_came_during_the_call_asks_for_one_more(engine: Engine) -> None:
    customer = CustomerFactory(dirty=True).id
    ticket = taken(engine, customer)
    with engine.begin() as connection:
        customers.mark_dirty(connection, customer, evidence_no=None, lane="hint")
    assert settle(engine, ticket) is True
    row = one(engine, "SELECT dirty_since IS NOT NULL, due_at <= clock_timestamp(), lane FROM cardsync.customers")
    assert row == (True, True, "hint")


def test_a_card_that_is_awaited_keeps_the_customer_dirty_and_due_later(engine: Engine) -> None:
    ticket = taken(engine, CustomerFactory(dirty=True).id)
    assert settle(engine, ticket, look_again_seconds=20.0, lane="deletion") is False
    wait = "extract(epoch FROM due_at - clock_timestamp())::float8"
    row = one(engine, f"SELECT dirty_since IS NOT NULL, lane, {wait} FROM cardsync.customers")
    assert row[:2] == (True, "deletion")
    assert 10 < row[2] <= 20


def test_a_repeat_that_came_during_the_call_waits_for_its_minute(engine: Engine) -> None:
    customer = CustomerFactory(dirty=True).id
    ticket = taken(engine, customer)
    change(engine, "UPDATE cardsync.customers SET repeat_no = :number + 1", number=ticket.number)
    assert settle(engine, ticket) is False
    row = one(engine, "SELECT lane, due_at FROM cardsync.customers")
    assert row == ("repeat", ticket.asked_at + dt.timedelta(seconds=APART_SECONDS))


# Failing.


def test_a_failed_call_counts_and_one_that_was_not_made_does_not(engine: Engine) -> None:
    called, paused = (CustomerFactory(dirty=True).id for _ in range(2))
    lanes: list[tuple[int, bool, Lane]] = [(called, True, "retry"), (paused, False, "hint")]
    for customer, counted, lane in lanes:
        ticket = taken(engine, customer)
        with engine.begin() as connection:
            customers.fail(connection, ticket, error="x" * 500, wait_seconds=60, counted=counted, lane=lane)
    statement = (
        "SELECT failures, lane, length(last_error), due_at > clock_timestamp() FROM cardsync.customers WHERE id = :id"
    )
    assert one(engine, statement, id=called) == (1, "retry", customers.LAST_ERROR_MAX, True)
    assert one(engine, statement, id=paused) == (0, "hint", customers.LAST_ERROR_MAX, True)


def test_a_hint_shortens_the_wait_of_a_customer_for_whom_ottu_fails_and_does_not_end_it(engine: Engine) -> None:
    customer = CustomerFactory(dirty=True, failures=5).id
    change(engine, "UPDATE cardsync.customers SET due_at = clock_timestamp() + interval '1 h'")
    with engine.begin() as connection:
        customers.mark_dirty(connection, customer, evidence_no=None, lane="hint")
    wait = one(engine, "SELECT extract(epoch FROM due_at - clock_timestamp())::float8 FROM cardsync.customers")[0]
    assert 0 < wait <= LONGEST_WAIT_WITH_A_HINT_SECONDS


def test_older_evidence_never_makes_the_newest_older(engine: Engine) -> None:
    customer = CustomerFactory().id
    with engine.begin() as connection:
        customers.mark_dirty(connection, customer, evidence_no=10, lane="hint")
        customers.mark_dirty(connection, customer, evidence_no=7, lane="hint")
    assert one(engine, "SELECT dirty_no FROM cardsync.customers").dirty_no == 10


# Becoming known.


def test_a_customer_becomes_known_once_however_often_it_is_named(engine: Engine) -> None:
    with engine.begin() as connection:
        first = customers.touch(connection, "sandbox", "cust-1")
        assert customers.touch(connection, "sandbox", "cust-1") == first
        assert customers.touch(connection, "production", "cust-1") != first
        named = [("sandbox", "cust-1"), ("sandbox", "cust-2"), ("production", "cust-1"), ("sandbox", "cust-2")]
        assert customers.add_known(connection, named) == 1
    assert one(engine, "SELECT count(*) FROM cardsync.customers")[0] == 3
    assert one(engine, "SELECT count(due_at) FROM cardsync.customers")[0] == 0
