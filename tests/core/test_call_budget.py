"""The allowance: who may go how far, that routine looks starve nobody, and that they are spread over the day."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardsync.core.call_budget import (
    LONGEST_TICK_SECONDS,
    ROUTINE,
    SECONDS_A_DAY,
    WINDOW_SECONDS,
    Lane,
    allowed,
    calls_of_a_key,
    left,
    reads_left,
    sweeps_due,
)

LANES: tuple[Lane, ...] = get_args(Lane)
URGENT = [lane for lane in LANES if lane not in ROUTINE]
ALLOWANCES = st.integers(1, 10_000_000)
SPENT = st.dictionaries(st.sampled_from(LANES), st.integers(0, 100_000))


@given(ALLOWANCES)
def test_a_more_urgent_lane_may_always_go_as_far_as_a_less_urgent_one(daily_calls: int) -> None:
    limits = [allowed(lane, daily_calls) for lane in LANES]
    assert limits == sorted(limits, reverse=True)
    assert limits[0] == daily_calls


@given(ALLOWANCES)
def test_every_urgent_lane_may_call_however_small_the_allowance_is(daily_calls: int) -> None:
    assert all(allowed(lane, daily_calls) >= 1 for lane in URGENT)


@given(ALLOWANCES, st.integers(0, 10_000_000))
def test_reads_have_a_third_and_leave_the_rest_for_hints(daily_calls: int, spent: int) -> None:
    assert reads_left(daily_calls, 0) >= 1
    assert reads_left(daily_calls, 0) <= daily_calls / 3 + 1
    assert reads_left(daily_calls, spent) == max(0, reads_left(daily_calls, 0) - spent)
    assert 1 <= calls_of_a_key(daily_calls) <= reads_left(daily_calls, 0)


@given(ALLOWANCES)
def test_routine_looks_always_leave_a_call_for_a_hint(daily_calls: int) -> None:
    assert left("hint", daily_calls, spent=allowed("sweep", daily_calls)) >= 1


@given(ALLOWANCES)
def test_what_routine_looks_leave_is_a_tenth_at_the_least_and_never_nothing(daily_calls: int) -> None:
    for lane in ROUTINE:
        assert daily_calls - allowed(lane, daily_calls) >= max(1, daily_calls / 10)


@pytest.mark.parametrize(
    ("daily_calls", "deletions", "urgent", "routine"),
    [
        (1, 1, 1, 0),
        (2, 2, 2, 1),
        (10, 10, 8, 7),
        (100, 100, 98, 90),
        (1_000, 1_000, 990, 900),
        (90_000, 90_000, 89_100, 81_000),
    ],
)
def test_shares_of_small_and_large_allowances(daily_calls: int, deletions: int, urgent: int, routine: int) -> None:
    found = [allowed(lane, daily_calls) for lane in ("deletion", "hint", "sweep")]
    assert found == [deletions, urgent, routine]


@given(st.integers(10, 10_000_000))
def test_the_reserve_holds_a_deletions_call_and_its_proof(daily_calls: int) -> None:
    others = allowed("hint", daily_calls)
    assert left("deletion", daily_calls, others) >= 2


@given(ALLOWANCES, st.integers(0, 20_000_000), st.sampled_from(LANES))
def test_nothing_is_left_once_the_limit_is_reached(daily_calls: int, spent: int, lane: Lane) -> None:
    assert (left(lane, daily_calls, spent) > 0) == (spent < allowed(lane, daily_calls))


@given(ALLOWANCES, SPENT, st.floats(-1e6, 1e6))
def test_sweeps_are_never_more_than_may_be_called(daily_calls: int, spent: dict[Lane, int], elapsed: float) -> None:
    due = sweeps_due(daily_calls, spent, elapsed)
    assert 0 <= due <= left("sweep", daily_calls, sum(spent.values()))


@given(ALLOWANCES, st.floats(LONGEST_TICK_SECONDS, 1e9))
def test_a_night_without_ticks_is_not_made_up_for(daily_calls: int, elapsed: float) -> None:
    assert sweeps_due(daily_calls, {}, elapsed) == sweeps_due(daily_calls, {}, LONGEST_TICK_SECONDS)


def test_a_quiet_day_of_ticks_uses_what_sweeps_may_use() -> None:
    total = sum(sweeps_due(90_000, {}, 1.0) for _ in range(SECONDS_A_DAY))
    assert total == pytest.approx(81_000, rel=0.003)


@given(st.integers(100, 1_000_000), st.integers(0, 1_000_000), st.integers(1, 1_000))
def test_what_urgent_calls_took_the_sweeps_do_without(daily_calls: int, urgent: int, more: int) -> None:
    before = sweeps_due(daily_calls, {"hint": urgent}, 1.0)
    assert sweeps_due(daily_calls, {"hint": urgent + more}, 1.0) <= before


def test_the_window_holds_a_call_counted_at_the_beginning_of_its_minute_and_made_much_later() -> None:
    counted, latest_call = 0.0, 120.0 + 10.0  # of OTTU_TIMEOUT_S at its most, after a slow commit
    still_within_a_day_of_it = latest_call + SECONDS_A_DAY - 0.001
    assert counted > still_within_a_day_of_it - WINDOW_SECONDS
    assert counted - 59.999 > still_within_a_day_of_it - WINDOW_SECONDS  # under the minute that it stands in
