"""The arithmetic of leases: a ticket outlasts its call, and a waiter outlasts the ticket."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cardsync.core.leases import APPLY_SECONDS, lease_seconds, list_seconds, wait_for_another_seconds

CALLS = st.floats(0.1, 120.0)


@given(CALLS)
def test_a_ticket_outlasts_its_call_and_the_applying_and_a_waiter_outlasts_the_ticket(call_seconds: float) -> None:
    assert lease_seconds(call_seconds) >= call_seconds + APPLY_SECONDS
    assert wait_for_another_seconds(call_seconds) > lease_seconds(call_seconds)


@given(CALLS)
def test_a_list_of_many_pages_may_take_longer_than_one_call_within_a_bound(call_seconds: float) -> None:
    assert call_seconds < list_seconds(call_seconds) < 11 * call_seconds


@given(CALLS, CALLS)
def test_a_longer_call_never_has_a_shorter_ticket(one: float, other: float) -> None:
    shorter, longer = sorted((one, other))
    assert lease_seconds(shorter) <= lease_seconds(longer)
