"""What an answer means, how long to wait, and when an endpoint's circuit breaker opens and closes."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardsync.core import delivery
from cardsync.core.delivery import CLOSED, FAILED_IN_A_ROW, Breaker, heard

DAY = 86_400
NOW = dt.datetime(2026, 11, 26, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, "delivered"),
        (204, "delivered"),
        (301, "failed"),
        (410, "gone"),
        (429, "failed"),
        (500, "failed"),
        (None, "failed"),
    ],
)
def test_2xx_is_success_410_is_gone_and_all_else_is_tried_again(status: int | None, verdict: str) -> None:
    assert delivery.verdict(status) == verdict


@given(st.integers(1, 10**6), st.floats(0, 1, exclude_max=True), st.none() | st.floats(0, 10**9))
def test_a_wait_is_between_five_seconds_and_six_hours_unless_more_was_asked_for(
    failures: int, jitter: float, asked: float | None
) -> None:
    wait = delivery.wait_seconds(failures, jitter=jitter, retry_after_seconds=asked)
    assert 5 <= wait <= max(21_600, min(asked or 0, 86_400) * 1.1)
    assert wait >= min(asked or 0, 86_400)


@pytest.mark.parametrize(
    ("age", "wished", "wait"),
    [
        (0, 5, 5),
        (DAY, DAY, DAY),
        (2 * DAY, DAY, DAY - 60),  # an endpoint that asked for a day
        (3 * DAY - 7_200, 21_600, 7_140),
        (3 * DAY - 61, 21_600, 5),
        (3 * DAY - 60, 5, None),
        (4 * DAY, 5, None),
    ],
)
def test_a_notification_is_tried_until_shortly_before_three_days_are_over(
    age: float, wished: float, wait: float | None
) -> None:
    assert delivery.wait_within_days(age, wished) == wait


@given(st.floats(0, 4 * DAY), st.floats(5, DAY * 1.1))
def test_a_try_that_is_due_comes_before_the_notification_is_given_up(age: float, wished: float) -> None:
    wait = delivery.wait_within_days(age, wished)
    claim_seconds = 2 * delivery.CALL_SECONDS  # at most this long after its claim, which tells the age, the wait begins
    assert wait is None or age + claim_seconds + wait < delivery.GIVE_UP_SECONDS


def test_one_delivery_that_fails_for_ever_opens_no_breaker_and_five_different_ones_do() -> None:
    breaker = CLOSED
    for _ in range(50):
        breaker = heard(breaker, "1", NOW, delivered=False)
    assert breaker.opened_at is None
    for number in range(2, FAILED_IN_A_ROW + 1):
        breaker = heard(breaker, str(number), NOW, delivered=False)
    assert breaker.opened_at == NOW
    assert heard(breaker, "9", NOW, delivered=True) == CLOSED


def test_probes_are_five_seconds_to_a_minute_apart() -> None:
    opened = Breaker(("1",), NOW, NOW)
    for open_seconds, wait in ((0, 5), (60, 30), (86_400, 60)):
        now = NOW + dt.timedelta(seconds=open_seconds)
        assert heard(opened, "1", now, delivered=False).shut_until == now + dt.timedelta(seconds=wait)


@pytest.mark.parametrize(
    ("before", "after", "failing_seconds", "woken"),
    [
        (Breaker(("1",), NOW, NOW), CLOSED, 3_600, "all"),
        (Breaker(("1",), NOW, NOW), Breaker(("2",), NOW, NOW), 0, None),  # it opened again in the same turn
        (Breaker(("1",)), CLOSED, 3_600, "recent"),
        (Breaker(("1",)), CLOSED, 59, None),
        (CLOSED, CLOSED, 0, None),
    ],
)
def test_a_success_wakes_all_where_it_closes_the_breaker_and_what_is_recent_after_a_minute_of_failing(
    before: Breaker, after: Breaker, failing_seconds: float, woken: str | None
) -> None:
    assert delivery.woken(before, after, failing_seconds) == woken
