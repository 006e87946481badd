"""The brake's evidence in the database: exact under two looks at once, bounded, and released once."""

from __future__ import annotations

import datetime as dt

import pytest
from sqlalchemy import Connection, Engine

from cardsync.core.brake import COUNTED_MAX, HANDFUL, Limits
from cardsync.core.cards import Environment
from cardsync.store import brake
from cardsync.store.brake import SHARDS, SHOWN_MAX, Decision
from cardsync.store.customers import Ticket
from tests.factories import CustomerFactory
from tests.store.rows import beside, change, one, wait_until_blocked

LIMITS = Limits(share=0.15, floor=2)
SANDBOX: Environment = "sandbox"


def ticket(customer: int) -> Ticket:
    return Ticket(customer, SANDBOX, f"cust-{customer}", 1_000 + customer, dt.datetime.now(dt.UTC), "hint", 0)


def lacks(connection: Connection, customer: int, limits: Limits = LIMITS) -> Decision:
    """A look at a customer with two cards, whose list lacks one."""
    return brake.may_remove(connection, ticket(customer), expected=2, lacking=1, limits=limits)


def decide(engine: Engine, *looked_at: int, limits: Limits = LIMITS) -> list[Decision]:
    found = []
    for customer in looked_at:
        with engine.begin() as connection:
            found.append(lacks(connection, customer, limits))
    return found


def customers(count: int, **columns: object) -> list[int]:
    return [CustomerFactory(**columns).id for _ in range(count)]


def test_a_list_that_lacks_nothing_is_allowed_and_locks_nothing(engine: Engine) -> None:
    with engine.begin() as other:
        lacks(other, *customers(1))
        with engine.begin() as connection:  # it would wait for the evidence's row
            allowed = brake.may_remove(connection, ticket(7), expected=2, lacking=0, limits=LIMITS)
    assert allowed == "allowed"


def test_one_look_engages_it_and_those_after_it_are_held_without_a_lock(engine: Engine) -> None:
    looked_at = customers(4)
    assert decide(engine, *looked_at) == ["allowed", "allowed", "engaged", "held"]
    with engine.begin() as other:
        other.exec_driver_sql("SELECT 1 FROM cardsync.brake FOR UPDATE")
        assert decide(engine, looked_at[0]) == ["held"]
    row = one(engine, "SELECT example_customer, example_expected, example_lacked FROM cardsync.brake")
    assert tuple(row) == (looked_at[2], 2, 1)


def test_of_two_looks_at_the_bound_at_once_one_engages_it_and_the_other_is_held(engine: Engine) -> None:
    first, second, third, fourth = customers(4)
    decide(engine, first, second)
    with engine.begin() as connection:
        assert lacks(connection, third) == "engaged"
        with beside(engine, lambda other: lacks(other, fourth)) as result:
            wait_until_blocked(engine)
            connection.commit()
            assert result() == "held"


def test_a_look_that_is_rolled_back_leaves_no_evidence(engine: Engine) -> None:
    for customer in customers(4):
        with engine.connect() as connection:
            assert lacks(connection, customer) == "allowed" or customer > 2
            connection.rollback()
    assert one(engine, "SELECT excess FROM cardsync.brake").excess == 0


def test_a_customer_counts_once_however_often_it_is_looked_at(engine: Engine) -> None:
    (customer,) = customers(1)
    assert decide(engine, *[customer] * 5) == ["allowed"] * 5


def test_confirming_looks_wear_the_evidence_off_and_share_few_counters(engine: Engine) -> None:
    one_, two, three, four = customers(4)
    decide(engine, one_, two)
    for customer in range(2 * SHARDS):
        with engine.begin() as connection:
            brake.note_confirmed(connection, [customer])
    counted = one(engine, "SELECT count(*) AS rows, sum(confirmed) AS looks FROM cardsync.brake_confirmations")
    assert tuple(counted) == (SHARDS, 2 * SHARDS)
    assert decide(engine, three, four) == ["allowed", "allowed"]


def test_two_who_confirm_on_one_counter_at_once_are_both_counted(engine: Engine) -> None:
    with engine.begin() as connection:
        brake.note_confirmed(connection, [3])
        with beside(engine, lambda other: brake.note_confirmed(other, [3 + SHARDS])) as second:
            wait_until_blocked(engine)
            connection.commit()
            second()
    with engine.connect() as connection:
        assert brake.confirmed(connection) == 2


def test_the_customers_that_are_remembered_are_bounded(engine: Engine) -> None:
    patient = Limits(share=0.01, floor=1_000)
    decide(engine, *customers(COUNTED_MAX + 5), limits=patient)
    assert len(one(engine, "SELECT counted FROM cardsync.brake").counted) == COUNTED_MAX


def test_a_release_is_one_release_and_a_brake_that_is_off_changes_nothing(engine: Engine) -> None:
    with engine.begin() as connection:
        assert brake.release_brake(connection, LIMITS, accept=9) is False
    assert one(engine, "SELECT accepted FROM cardsync.brake").accepted == 0
    decide(engine, *customers(3))
    with engine.begin() as connection:
        assert brake.release_brake(connection, LIMITS) is True
        with beside(engine, lambda other: brake.release_brake(other, LIMITS)) as second:
            wait_until_blocked(engine)
            connection.commit()
            assert second() is False
    with engine.begin() as connection:
        assert brake.release_to_tell(connection) == 0
        assert brake.release_to_tell(connection) is None  # it is told once


def test_after_a_release_a_handful_engages_it_again(engine: Engine) -> None:
    limits = Limits(share=0.15, floor=20)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE cardsync.gate SET brake_engaged_at = clock_timestamp()")
        brake.release_brake(connection, limits)
    found = decide(engine, *customers(HANDFUL + 2), limits=limits)
    assert found.index("engaged") <= HANDFUL + 1


def test_what_an_operator_vouched_for_is_drawn_by_held_customers_alone_and_runs_out(engine: Engine) -> None:
    decide(engine, *customers(3))
    held, free = customers(2, removals_held=True), customers(1)
    with engine.begin() as connection:
        brake.release_brake(connection, LIMITS, accept=1)
    assert decide(engine, *free) == ["allowed"]
    assert one(engine, "SELECT accepted FROM cardsync.brake").accepted == 1
    assert decide(engine, held[0]) == ["allowed"]
    row = one(engine, "SELECT accepted, counted FROM cardsync.brake")
    assert (row.accepted, row.counted) == (0, free)  # one that was vouched for is no evidence


@pytest.mark.parametrize(("engaged", "expected"), [(True, 0), (False, 3)])
def test_held_customers_are_looked_at_once_it_is_off_those_who_are_due_anyway_apart(
    engine: Engine, engaged: bool, expected: int
) -> None:
    held = customers(4, removals_held=True)
    customers(2)
    customers(1, removals_held=True, due_at=dt.datetime.now(dt.UTC), lane="sweep")
    if engaged:
        change(engine, "UPDATE cardsync.gate SET brake_engaged_at = clock_timestamp()")
    with engine.connect() as connection:
        assert brake.held_to_look_at(connection, limit=3) == held[:expected]


def test_what_is_shown_is_bounded_and_counts_all(engine: Engine) -> None:
    customers(SHOWN_MAX + 3, removals_held=True)
    decide(engine, *customers(3))
    with engine.connect() as connection:
        shown = brake.state(connection, LIMITS)
    assert (shown.customers_held, len(shown.held), len(shown.lost)) == (SHOWN_MAX + 3, SHOWN_MAX, 2)
    assert shown.engaged_at is not None
    assert shown.example is not None
    assert (shown.example["expected"], shown.example["lacked"]) == (2, 1)
