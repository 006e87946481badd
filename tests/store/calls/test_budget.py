"""The budget on a real PostgreSQL: never one call over, however many count at once, and whatever the clock does."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from cardsync import db
from cardsync.core.call_budget import COMMIT_SECONDS, LONGEST_CALL_SECONDS, SECONDS_A_DAY, Lane, allowed
from cardsync.errors import BudgetSpent, CallsPaused
from cardsync.store.calls import budget, gate, ledger
from tests.machine import clock
from tests.machine.clock import Clock
from tests.waiting import WAIT_SECONDS

PROCESSES, EACH = 10, 12


def spend(engine: Engine, lane: Lane, daily_calls: int, who: int = 1) -> bool:
    """Whether the call may be made."""
    try:
        with engine.begin() as connection:
            budget.spend_call(connection, lane, who=who, daily_calls=daily_calls, call_seconds=15)
    except (BudgetSpent, CallsPaused):
        return False
    return True


def test_ten_processes_at_the_edge_make_not_one_call_too_many(database_url: str) -> None:
    """Each has connections of its own, and begins when all do."""
    engines = [db.make_engine(database_url) for _ in range(PROCESSES)]
    made, begin = [0] * PROCESSES, threading.Barrier(PROCESSES)

    def call(number: int) -> None:
        begin.wait(WAIT_SECONDS)
        made[number] = sum(spend(engines[number], "deletion", 50) for _ in range(EACH))

    threads = [threading.Thread(target=call, args=(n,)) for n in range(PROCESSES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    with engines[0].connect() as connection:
        assert (sum(made), ledger.spent(connection)) == (50, 50)
    for engine in engines:
        engine.dispose()


def test_what_was_counted_and_rolled_back_was_not_called_and_does_not_count(engine: Engine) -> None:
    with engine.connect() as connection:
        budget.spend_call(connection, "hint", who=1, daily_calls=1, call_seconds=15)
        connection.rollback()
    assert spend(engine, "hint", 1)
    assert not spend(engine, "hint", 1)


@pytest.mark.parametrize("daily_calls", [1, 2, 10, 100])
def test_sweeps_that_want_everything_leave_urgent_calls_their_share(engine: Engine, daily_calls: int) -> None:
    def as_many_as_may_be(lane: Lane) -> int:
        return sum(spend(engine, lane, daily_calls) for _ in range(daily_calls + 1))

    sweeps, audits = as_many_as_may_be("sweep"), as_many_as_may_be("audit")
    hints = as_many_as_may_be("hint")
    deletions = as_many_as_may_be("deletion")
    assert (sweeps, audits) == (allowed("sweep", daily_calls), 0)
    assert hints == allowed("hint", daily_calls) - sweeps > 0
    assert sweeps + hints + deletions == daily_calls
    assert deletions >= (2 if daily_calls >= 10 else 0)


def test_urgent_calls_may_use_up_the_sweeps_share_as_fast_as_they_come(engine: Engine) -> None:
    assert sum(spend(engine, "hint", 100) for _ in range(100)) == 98
    assert not spend(engine, "sweep", 100)
    assert spend(engine, "deletion", 100)


@pytest.fixture
def timed(database_url: str) -> Iterator[Engine]:
    """A database whose clock is in the test's hands."""
    engine = db.make_engine(database_url)
    clock.install(engine)
    clock.follow(engine)
    yield engine
    engine.dispose()


# Where windows and minutes end, and a little around; a negative step is a clock that is set back.
EDGES = (0.0, 0.5, 14.0, 15.0, 59.5, 60.0, 61.0, 3_600.0, SECONDS_A_DAY / 2)
DAYS = tuple(float(SECONDS_A_DAY + s) for s in (-150, -131, -60, -15, -1, 0, 1, 15, 59, 60, 61, 100, 130, 190, 211))
STEPS = st.sampled_from((*EDGES, *DAYS, -30.0, -3_600.0))
DELAYS = st.sampled_from((0.0, 5.0, 15.0, float(LONGEST_CALL_SECONDS), float(LONGEST_CALL_SECONDS + COMMIT_SECONDS)))
CALLS = st.lists(st.tuples(STEPS, DELAYS, st.sampled_from(("deletion", "hint", "sweep"))), max_size=25)
COUNTED_LATE_IN_THE_MINUTE = [(0.0, 130.0, "deletion")] * 3 + [(SECONDS_A_DAY + 100.0, 0.0, "deletion")] * 3
COUNTED_EARLY_MADE_LATE = [(0.0, 15.0, "deletion")] * 4 + [(float(SECONDS_A_DAY + 60), 0.0, "deletion")] * 4


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=CALLS, began=st.sampled_from((0.0, 30.0, 59.0)))
@example(calls=COUNTED_EARLY_MADE_LATE, began=0.0)
@example(calls=COUNTED_LATE_IN_THE_MINUTE, began=59.0)
def test_no_24_hours_of_calls_as_they_were_made_hold_more_than_the_allowance(
    timed: Engine, calls: list[tuple[float, float, Lane]], began: float
) -> None:
    """Each call is made up to the longest delay after it was counted; the true time goes on where the clock is set back."""
    daily_calls = 3
    with timed.begin() as connection:
        clock.reset(connection)
    ours = Clock(timed)
    ours.pass_(began)
    true, made = began, []
    for step, delay, lane in calls:
        ours.pass_(step)
        true += max(0.0, step)
        if spend(timed, lane, daily_calls):
            made.append(true + delay)
    for end in made:
        within = [moment for moment in made if end - SECONDS_A_DAY < moment <= end]
        assert len(within) <= daily_calls


def test_a_call_counts_no_longer_than_a_day_and_a_few_minutes(timed: Engine) -> None:
    ours = Clock(timed)
    assert spend(timed, "deletion", 1)
    ours.pass_(SECONDS_A_DAY)
    assert not spend(timed, "deletion", 1)
    ours.pass_(300)
    assert spend(timed, "deletion", 1)


def test_a_refusal_says_when_the_oldest_call_leaves_the_day(timed: Engine) -> None:
    ours = Clock(timed)
    assert spend(timed, "deletion", 1)
    ours.pass_(SECONDS_A_DAY)
    with timed.connect() as connection, pytest.raises(BudgetSpent) as spent:
        budget.spend_call(connection, "deletion", who=1, daily_calls=1, call_seconds=15)
    assert spent.value.retry_after_seconds is not None
    ours.pass_(spent.value.retry_after_seconds + 1)
    assert spend(timed, "deletion", 1)


def test_what_is_forgotten_is_long_past(timed: Engine) -> None:
    ours = Clock(timed)
    assert spend(timed, "deletion", 1)
    for _ in range(7):
        ours.pass_(SECONDS_A_DAY)
        with timed.begin() as connection:
            ledger.forget(connection)
    ours.pass_(-7 * SECONDS_A_DAY)
    assert not spend(timed, "deletion", 1)


def due(engine: Engine, daily_calls: int = 1_000) -> float:
    with engine.begin() as connection:
        return budget.routine_calls_now(connection, daily_calls=daily_calls)


def test_a_day_of_sweeps_every_second_takes_what_is_theirs_and_no_more(timed: Engine) -> None:
    ours = Clock(timed)
    due(timed)
    waiting = made = 0.0
    for _ in range(24 * 60):  # a tick a minute is as late as one may be and be made up for
        ours.pass_(60)
        waiting += due(timed)
        while waiting >= 1 and spend(timed, "sweep", 1_000):
            waiting, made = waiting - 1, made + 1
    assert 890 <= made <= allowed("sweep", 1_000)


def test_after_a_night_without_sweeps_there_is_no_storm(timed: Engine) -> None:
    ours = Clock(timed)
    due(timed, 90_000)
    ours.pass_(1)
    one = due(timed, 90_000)
    ours.pass_(8 * 3_600)
    assert due(timed, 90_000) == pytest.approx(60 * one)


def test_sweeps_make_nothing_due_while_calls_are_paused_or_slow_and_one_as_a_probe(timed: Engine) -> None:
    ours = Clock(timed)

    def tell(word: gate.Word, who: int = 1) -> None:
        with timed.begin() as connection:
            gate.heard(connection, word, who=who)

    def next_due() -> float:
        ours.pass_(60)
        return due(timed, 90_000)

    due(timed)
    assert next_due() > 50
    tell("throttled")
    assert next_due() == 0  # the pause is over, and the pace is limited
    ours.pass_(300)
    assert next_due() > 50
    for who in (1, 2, 3):
        tell("failed", who)
    assert next_due() == 1
    tell("answered")
    assert next_due() > 50


def test_counting_reads_the_ledger_by_its_key(engine: Engine) -> None:
    """A week of the fullest ledger: what has left the window costs nothing."""
    with engine.begin() as connection:
        connection.execute(
            text(
                """INSERT INTO cardsync.call_minutes (minute, lane, calls)
                   SELECT date_trunc('minute', now()) - make_interval(mins => m), lane, 10
                   FROM generate_series(0, 7 * 1440) AS m, unnest(ARRAY['deletion', 'hint', 'sweep']) AS lane"""
            )
        )
        connection.execute(text("ANALYZE cardsync.call_minutes"))
        plan = "\n".join(connection.execute(text(f"EXPLAIN {ledger._SPENT.text}")).scalars())
    assert "call_minutes_pkey" in plan
