"""Drift: what counts as a difference, why it is there, and how sure a share of a sample is."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardsync.core.cards import CardFacts
from cardsync.core.diff import LocalCard, RemoteCard
from cardsync.core.drift import Z_95, Cause, differences, wilson
from tests.core.test_diff import NOON, VISA, decide, local, remote

TODAY = NOON.date()


def found(
    *known: LocalCard,
    listed: tuple[RemoteCard, ...] = (),
    heard: tuple[str, ...] = (),
    never_looked: bool = False,
    allowed: bool = True,
) -> tuple[Cause, ...]:
    plan = decide(*known, listed=listed, allowed=allowed)
    names = {remote(name).fingerprint for name in heard}
    return differences(known, plan, on=TODAY, heard=names, never_looked=never_looked)


def test_a_customer_served_as_listed_is_right() -> None:
    assert found(local("a"), listed=(remote("a"),)) == ()
    assert found() == ()


def test_a_served_card_that_is_not_listed_was_deleted_in_silence() -> None:
    assert found(local("a"), local("b"), listed=(remote("b"),)) == ("silent_deletion",)


def test_one_that_the_brake_keeps_is_held() -> None:
    assert found(local("a"), allowed=False) == ("held",)


def test_a_listed_card_that_nothing_named_is_a_lost_hint() -> None:
    assert found(listed=(remote("a"), remote("b"))) == ("lost_hint", "lost_hint")
    assert found(local("a", "removed"), listed=(remote("a"),)) == ("lost_hint",)


def test_a_listed_card_that_a_waiting_notification_names_is_under_way() -> None:
    assert found(listed=(remote("a"), remote("b")), heard=("a",)) == ("lost_hint", "under_way")
    assert found(local("a", "removed"), listed=(remote("a"),), heard=("a",)) == ("under_way",)


def test_a_card_that_a_hint_named_and_a_list_shows_now_is_under_way() -> None:
    for status in ("unconfirmed", "removed"):
        assert found(local("a", status, awaited_no=50), listed=(remote("a"),)) == ("under_way",)


@pytest.mark.parametrize("age_seconds", [10, 1_000])
def test_a_served_card_that_a_hint_named_and_the_list_lacks_is_under_way(age_seconds: float) -> None:
    assert found(local("a", awaited_no=50, hint_age_seconds=age_seconds)) == ("under_way",)


def test_the_first_list_of_an_imported_customer_tells_nothing_of_hints() -> None:
    assert found(listed=(remote("a"),), never_looked=True) == ("never_looked",)


def test_other_facts_were_changed_elsewhere_unless_a_hint_says_so() -> None:
    other = remote("a", replace(VISA, brand="MADA"))
    assert found(local("a"), listed=(other,)) == ("changed_elsewhere",)
    assert found(local("a", awaited_no=50), listed=(other,)) == ("under_way",)
    assert found(local("a"), listed=(other,), heard=("a",)) == ("under_way",)


def test_what_is_served_to_nobody_is_no_difference() -> None:
    waiting = local("a", "unconfirmed", awaited_no=50, hint_age_seconds=1_000)
    assert found(waiting, local("b", "deleting"), local("c", "removed", awaited_no=50)) == ()
    assert found(local("b", "deleting"), listed=(remote("b", replace(VISA, brand="MADA")),)) == ()


def test_a_card_past_its_date_is_served_as_expired_before_ottu_says_so() -> None:
    old = replace(VISA, expiry_month="02", expiry_year="26", is_expired=False)
    assert old.expires_on is not None
    assert old.expires_on < TODAY
    assert found(local("a", facts=old), listed=(remote("a", replace(old, is_expired=True)),)) == ()
    good = replace(old, expiry_month="03")
    assert found(local("a", facts=good), listed=(remote("a", replace(good, is_expired=True)),)) == (
        "changed_elsewhere",
    )


def test_what_ottu_leaves_out_is_served_as_no() -> None:
    silent, spoken = CardFacts(agreements=()), CardFacts(agreements=(), is_preferred=False, is_expired=False)
    assert found(local("a", facts=silent), listed=(remote("a", spoken),)) == ()


@pytest.mark.parametrize(
    ("right", "sample", "low", "high"),
    # Worked out by hand from the formula (E. B. Wilson, 1927), without a correction for continuity.
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (95, 100, 0.8882, 0.9785)],
)
def test_the_interval_is_wilsons(right: int, sample: int, low: float, high: float) -> None:
    interval = wilson(right, sample)
    assert interval is not None
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)
    assert interval.share == right / sample


def test_without_a_sample_there_is_no_share() -> None:
    assert wilson(0, 0) is None


@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_bounds_are_the_shares_that_the_sample_just_does_not_rule_out(drawn: tuple[int, int]) -> None:
    right, sample = drawn
    interval = wilson(right, sample)
    assert interval is not None
    assert 0 <= interval.low <= interval.share <= interval.high <= 1
    for bound in (interval.low, interval.high):
        if 0 < bound < 1:  # the score test at the bound is exactly at its limit: that is what the interval inverts
            score = abs(interval.share - bound) / math.sqrt(bound * (1 - bound) / sample)
            assert score == pytest.approx(Z_95, rel=1e-3) or bound == interval.share
