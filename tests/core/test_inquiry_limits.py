"""Ottu's throttling of inquiries, kept from our side: whatever is asked when it may be, no limit is passed."""

from __future__ import annotations

import datetime as dt
import itertools

from hypothesis import given
from hypothesis import strategies as st

from cardsync.core.inquiry_limits import A_DAY, AFTER_CREATION, APART, DAY, hints_left, may_be_asked_at

NOON = dt.datetime(2026, 11, 26, 12, 0, tzinfo=dt.UTC)


@given(st.none() | st.just(NOON), st.lists(st.integers(0, 86_400), max_size=30))
def test_a_payment_that_is_asked_about_as_soon_as_it_may_be_never_meets_a_limit(
    heard_at: dt.datetime | None, delays: list[int]
) -> None:
    asked: list[dt.datetime] = []
    for delay in delays:
        earliest = may_be_asked_at(asked[-A_DAY:], heard_at) or NOON
        asked.append(earliest + dt.timedelta(seconds=delay))
    if heard_at is not None:
        assert all(moment > heard_at + AFTER_CREATION for moment in asked)
    assert all(later - earlier > APART for earlier, later in itertools.pairwise(asked))
    assert all(later - earlier > DAY for earlier, later in zip(asked, asked[A_DAY:], strict=False))


def test_a_payment_of_which_only_an_operator_knows_may_be_asked_about_at_once() -> None:
    assert may_be_asked_at((), None) is None


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_hints_cause_at_most_half_of_the_days_calls_rounded_up(daily_calls: int, spent: int) -> None:
    left = hints_left(daily_calls, spent)
    assert left >= 0
    assert min(spent, hints_left(daily_calls, 0)) + left == hints_left(daily_calls, 0) == (daily_calls + 1) // 2
