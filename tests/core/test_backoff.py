"""Waits grow, are bounded, and are spread; looks after a hint come soon and end in time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardsync.core.backoff import (
    LONGEST_OF_A_CUSTOMER_SECONDS,
    LONGEST_SECONDS,
    SOONEST_LOOK_SECONDS,
    after_failure,
    next_look,
    while_unreadable,
)

JITTERS = st.floats(0, 1, exclude_max=True)


@given(st.integers(1, 10**9), JITTERS)
def test_a_wait_is_bounded_whatever_is_counted(failures: int, jitter: float) -> None:
    assert 1.0 <= after_failure(failures, jitter=jitter) <= LONGEST_SECONDS


@given(st.integers(1, 9), JITTERS)
def test_a_wait_doubles_from_failure_to_failure(failures: int, jitter: float) -> None:
    longer = after_failure(failures + 1, jitter=jitter)
    assert longer == pytest.approx(
        min(LONGEST_SECONDS * (0.5 + jitter / 2), 2 * after_failure(failures, jitter=jitter))
    )


def test_customers_whose_lists_always_fail_leave_the_budget_to_the_others() -> None:
    calls_a_day = 86_400 / after_failure(50, jitter=0.0, longest_seconds=LONGEST_OF_A_CUSTOMER_SECONDS)
    assert 1_000 * calls_a_day < 90_000 / 10


def test_a_hint_that_cannot_be_read_is_tried_again_after_as_long_as_it_has_waited_a_minute_at_the_most() -> None:
    ages = (0.0, 1.0, 8.0, 40.0, 86_400.0)
    assert [while_unreadable(age, jitter=0.0) for age in ages] == [1.0, 1.0, 4.0, 20.0, 30.0]
    assert while_unreadable(86_400.0, jitter=0.99) < 60


def test_jitter_spreads_a_wait_over_its_upper_half() -> None:
    assert after_failure(1, jitter=0.0) == pytest.approx(1.0)
    assert after_failure(1, jitter=0.999) == pytest.approx(2.0, abs=0.01)


def test_a_wait_that_was_asked_for_is_kept_and_spread_over_a_tenth_more() -> None:
    assert after_failure(1, jitter=0.0, retry_after_seconds=60) == 60
    assert after_failure(1, jitter=0.5, retry_after_seconds=60) == 63


@given(st.floats(0, 10_000), st.floats(0, 3_600))
def test_looking_again_always_makes_progress_and_never_waits_past_the_end(age: float, confirm: float) -> None:
    wait = next_look(age, confirm)
    assert wait >= SOONEST_LOOK_SECONDS
    assert age + wait <= max(age, confirm) + 2 * SOONEST_LOOK_SECONDS


def test_a_hint_that_is_never_confirmed_costs_seven_calls() -> None:
    age, looks = 0.0, 1
    while age < 120.0:
        age += next_look(age, 120.0)
        looks += 1
    assert looks == 7
