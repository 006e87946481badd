"""The candidates for routine looks, and the turns taken, on rows."""

from __future__ import annotations

import datetime as dt

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

from cardsync.core.change_rate import CADENCES, NEWCOMERS
from cardsync.core.schedule import Candidates
from cardsync.store import schedule
from cardsync.store.schema import registry
from tests.factories import CustomerFactory


def looked_at(minutes_ago: float) -> dt.datetime:
    return dt.datetime.now(dt.UTC) - dt.timedelta(minutes=minutes_ago)


def read(engine: Engine, *, shortest_seconds: float = 300, limit: int = 10) -> Candidates:
    with engine.connect() as connection:
        return schedule.candidates(connection, shortest_seconds=shortest_seconds, limit=limit)


def lines(candidates: Candidates) -> dict[int, list[int]]:
    return {cadence: [w.customer for w in waiting] for cadence, waiting in candidates.cadences.items()}


def test_each_cadence_is_a_line_of_those_looked_at_before_the_longest_ago_first(engine: Engine) -> None:
    calm = [CustomerFactory(cadence=0, reconciled_at=looked_at(m)).id for m in (20, 30, 10)]
    restless = CustomerFactory(cadence=11, reconciled_at=looked_at(15)).id
    candidates = read(engine)
    assert lines(candidates) == {0: [calm[1], calm[0], calm[2]], 11: [restless]}
    ages = [w.age_seconds for w in candidates.cadences[0]]
    assert ages == pytest.approx([1_800, 1_200, 600], abs=60)
    assert lines(read(engine, limit=1)) == {0: [calm[1]], 11: [restless]}


def test_who_was_looked_at_just_now_or_is_due_already_is_in_no_line(engine: Engine) -> None:
    CustomerFactory(cadence=5, reconciled_at=looked_at(4), look_by=looked_at(-60))
    CustomerFactory(cadence=5, reconciled_at=looked_at(60), look_by=looked_at(1), dirty=True)
    CustomerFactory(dirty=True)
    assert read(engine) == Candidates({}, [], [])


def test_newcomers_stand_in_the_order_in_which_they_became_known(engine: Engine) -> None:
    first, second = CustomerFactory(first_seen_at=looked_at(9)).id, CustomerFactory().id
    assert [w.customer for w in read(engine).newcomers] == [first, second]
    assert next(iter(read(engine).newcomers)).age_seconds == pytest.approx(540, abs=60)


def test_whoever_is_dated_is_named_when_the_date_has_come_the_earliest_first(engine: Engine) -> None:
    late = CustomerFactory(reconciled_at=looked_at(60), look_by=looked_at(1)).id
    early = CustomerFactory(reconciled_at=looked_at(60), look_by=looked_at(2)).id
    CustomerFactory(reconciled_at=looked_at(60), look_by=looked_at(-1))
    assert list(read(engine).dated) == [early, late]


def test_dealing_makes_due_in_the_lane_of_sweeps_and_counts_a_turn_for_each(engine: Engine) -> None:
    waiting, due = CustomerFactory(reconciled_at=looked_at(60)).id, CustomerFactory(dirty=True).id
    with engine.begin() as connection:
        assert schedule.turns_taken(connection) == 0
        assert schedule.take_turns(connection, [waiting, due]) == [waiting]
        assert schedule.turns_taken(connection) == 2
        lanes = connection.execute(text("SELECT id, lane FROM cardsync.customers WHERE due_at IS NOT NULL")).all()
    assert sorted(map(tuple, lanes)) == sorted([(waiting, "sweep"), (due, "hint")])


def test_a_customer_whom_another_transaction_holds_is_passed_over(engine: Engine) -> None:
    held, free = (CustomerFactory(reconciled_at=looked_at(60)).id for _ in range(2))
    with engine.begin() as other, engine.begin() as connection:
        other.execute(text("SELECT 1 FROM cardsync.customers WHERE id = :id FOR UPDATE"), {"id": held})
        assert schedule.take_turns(connection, [held, free]) == [free]


def test_a_row_of_old_code_has_the_cadence_of_a_newcomer() -> None:
    default = registry.CustomerRow.__table__.c.cadence.server_default
    assert str(default.arg) == str(NEWCOMERS)  # type: ignore[union-attr]


@pytest.mark.parametrize("wrong", [{"cadence": CADENCES}, {"cadence": -1}, {"watched_days": -1.0}])
def test_the_database_refuses_what_is_no_history(wrong: dict[str, float]) -> None:
    with pytest.raises(IntegrityError):
        CustomerFactory(**wrong)


def test_the_roll_counts_everybody_once(engine: Engine) -> None:
    for minutes, cadence in ((60, 0), (120, 0), (180, 7)):
        CustomerFactory(cadence=cadence, reconciled_at=looked_at(minutes), look_by=looked_at(-minutes))
    CustomerFactory()
    with engine.connect() as connection:
        roll = schedule.roll(connection)
    assert (roll.by_cadence[0], roll.by_cadence[7], sum(roll.by_cadence), roll.newcomers) == (2, 1, 3, 1)
    assert roll.dated_in_a_month == 3
    assert roll.worst_age_seconds == pytest.approx(180 * 60, abs=60)
    assert roll.median_age_seconds == pytest.approx(120 * 60, abs=60)
