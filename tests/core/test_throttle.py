"""The pace after a 429: shrinks, is shared, grows back until nothing is limited."""

from __future__ import annotations

import datetime as dt
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from cardsync.core.call_budget import ROUTINE, Lane
from cardsync.core.circuit_breaker import LONGEST_SHUT_SECONDS
from cardsync.core.throttle import (
    DOUBLES_EVERY_SECONDS,
    FREE_PER_SECOND,
    SLOWEST_PER_SECOND,
    Pace,
    now_per_second,
    seconds_to_wait,
    taken,
    throttled,
)

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
RATES = st.floats(0, 1_000)
LANES = st.sampled_from(get_args(Lane))
URGENT = st.sampled_from([lane for lane in get_args(Lane) if lane not in ROUTINE])


def after(seconds: float) -> dt.datetime:
    return NOW + dt.timedelta(seconds=seconds)


def shrunk(made_per_second: float, pace: Pace | None = None, at: float = 0.0, wish: float = 0.0) -> Pace:
    return throttled(pace, after(at), made_per_second=made_per_second, until=after(at + wish), again=False)


def rate(pace: Pace | None, at: float = 0.0) -> float:
    return now_per_second(pace, after(at)) or FREE_PER_SECOND


@given(st.floats(2 * SLOWEST_PER_SECOND, FREE_PER_SECOND))
def test_a_429_halves_what_was_being_called(made: float) -> None:
    assert shrunk(made).per_second == made / 2


@given(RATES)
def test_the_pace_is_never_slower_than_the_slowest_nor_free(made: float) -> None:
    assert SLOWEST_PER_SECOND <= rate(shrunk(made)) < FREE_PER_SECOND


@given(RATES, RATES, st.floats(0, 60))
def test_a_further_429_shrinks_again(made: float, then: float, at: float) -> None:
    first = shrunk(made)
    assert rate(shrunk(then, first, at), at) <= max(SLOWEST_PER_SECOND, rate(first, at) / 2)


@given(RATES, st.floats(0, 100))
def test_429s_of_calls_that_were_under_way_are_one_word(made: float, wish: float) -> None:
    first = shrunk(made, wish=wish)
    same = throttled(first, after(1), made_per_second=made, until=after(wish + 1), again=True)
    assert (same.per_second, same.since) == (first.per_second, after(wish + 1))


@given(RATES, st.floats(0, 300), st.floats(0, 300))
def test_it_grows_back_by_itself_and_then_limits_nothing(made: float, early: float, more: float) -> None:
    pace = shrunk(made)
    assert rate(pace, early) <= rate(pace, early + more)
    longest = 6 * DOUBLES_EVERY_SECONDS
    assert now_per_second(pace, after(longest)) is None
    assert taken(pace, after(longest)) is None
    assert seconds_to_wait(pace, "sweep", after(longest)) == 0


@given(RATES, LANES, st.floats(-1e5, 1e5))
def test_nobody_waits_for_ever_even_if_the_clock_is_set_back(made: float, lane: Lane, at: float) -> None:
    wait = seconds_to_wait(shrunk(made), lane, after(at))
    longest = LONGEST_SHUT_SECONDS + 6 * DOUBLES_EVERY_SECONDS if lane in ROUTINE else 2 / SLOWEST_PER_SECOND
    assert 0 <= wait <= longest


@given(RATES, st.floats(0, 1_000))
def test_routine_lanes_stand_back_as_long_as_the_pace_is_limited(made: float, at: float) -> None:
    pace = shrunk(made)
    limited = now_per_second(pace, after(at)) is not None
    assert all((seconds_to_wait(pace, lane, after(at)) > 0) == limited for lane in ROUTINE)


def test_whoever_waits_as_long_as_told_may_call() -> None:
    pace: Pace | None = shrunk(4.0)
    pace = taken(pace, NOW)
    wait = seconds_to_wait(pace, "hint", NOW)
    assert wait > 0
    assert seconds_to_wait(pace, "hint", after(wait)) == 0


@given(RATES, st.lists(st.tuples(st.floats(0, 2), URGENT), max_size=200))
def test_all_lanes_together_keep_the_rate(made: float, asked: list[tuple[float, Lane]]) -> None:
    """For any caller at any time: the calls are never more than the fastest rate of the time allows, and two to begin with."""
    first = shrunk(made)
    pace: Pace | None = first
    at, made_calls = 0.0, 0
    for pause, lane in asked:
        at += pause
        if now_per_second(pace, after(at)) is None:
            break
        if seconds_to_wait(pace, lane, after(at)) == 0:
            pace, made_calls = taken(pace, after(at)), made_calls + 1
        assert made_calls <= 2 + at * rate(first, at) + 1e-6


def test_deletions_go_first_and_the_others_share_what_they_leave() -> None:
    pace: Pace | None = shrunk(2.0)  # one a second
    calls: list[str] = []
    for tenth in range(100):
        at = after(tenth / 10)
        for lane in ("hint", "deletion") if tenth < 50 else ("hint",):
            if seconds_to_wait(pace, lane, at) == 0:  # type: ignore[arg-type]
                calls.append(lane)
                pace = taken(pace, at)
    assert calls[1:6].count("deletion") == 5
    assert calls.count("hint") >= 5
