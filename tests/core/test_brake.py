"""The brake's arithmetic: what a fault costs at most, and what shoppers may do without ever engaging it."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardsync.core.brake import COUNTED_MAX, HANDFUL, Evidence, Limits, lacked, must_engage, released, worn_off
from cardsync.settings import Settings

DEFAULTS = Limits(
    Settings.model_fields["removal_brake_share"].default, Settings.model_fields["removal_brake_floor"].default
)
LOOKS_A_DAY = 81_000
MOST = 29  # customers that lose cards to an Ottu that answers [] to everybody


def losers(evidence: Evidence, lacks: Iterable[bool], *, limits: Limits = DEFAULTS) -> int | None:
    """How many customers, one look each, lose cards before the brake engages; ``None`` if it does not."""
    confirmed, lost = evidence.confirmed, 0
    for customer, lacking in enumerate(lacks, start=1):
        if not lacking:
            confirmed += 1
            continue
        evidence = lacked(evidence, customer, confirmed, limits)
        if must_engage(evidence, limits):
            return lost
        lost += 1
    return None


@pytest.mark.parametrize("cards", [1_000, 1_000_000, 10_000_000])
def test_an_empty_list_for_everybody_costs_29_customers_in_a_registry_of_any_size(cards: int) -> None:
    after_good_years = Evidence(confirmed=cards * 100)
    assert losers(after_good_years, [True] * cards) == MOST


def test_good_years_earn_no_credit_for_a_bad_minute() -> None:
    evidence = Evidence(10.0, 0, (1, 2))
    assert worn_off(evidence, 10**9, DEFAULTS) == Evidence(confirmed=10**9)


@given(st.lists(st.booleans(), max_size=300))
def test_the_excess_is_that_of_a_look_by_look_sum_and_ends_with_its_customers(lacks: list[bool]) -> None:
    by_hand, evidence, confirmed = 0.0, Evidence(), 0
    limits = Limits(0.15, 10**6)
    for customer, lacking in enumerate(lacks):
        by_hand = max(0.0, by_hand + lacking - 0.15)
        if lacking:
            evidence = lacked(evidence, customer, confirmed, limits)
        else:
            confirmed += 1
    end = worn_off(evidence, confirmed, limits)
    assert end.excess == pytest.approx(by_hand, abs=1e-9)
    assert end.excess > 0 or end.counted == ()


@pytest.mark.parametrize(("share", "most"), [(1 / 2, 60), (1 / 3, 90)])
def test_lists_that_lack_cards_for_a_part_of_the_customers_engage_it_within_a_bounded_number(
    share: float, most: int
) -> None:
    for seed in range(50):
        chance = random.Random(seed)  # noqa: S311
        lost = losers(Evidence(), (chance.random() < share for _ in range(10_000)))
        assert lost is not None
        assert lost <= most


@pytest.mark.parametrize("share_lacking", [0.01, 0.04, 0.07])
def test_a_year_of_silent_deletions_at_ten_million_cards_never_engages_it(share_lacking: float) -> None:
    """At most 0.07 of 81,000 looks a day: ten million cards that live for five years each."""
    chance, evidence, confirmed, customer = random.Random(1), Evidence(), 0, 0  # noqa: S311
    while confirmed < 365 * LOOKS_A_DAY:
        confirmed += int(math.log(1.0 - chance.random()) / math.log(1.0 - share_lacking))  # until the next that lacks
        customer += 1
        evidence = lacked(evidence, customer, confirmed, DEFAULTS)
        assert not must_engage(evidence, DEFAULTS)


@pytest.mark.parametrize(("share_lacking", "years"), [(0.07, 1e6), (0.10, 50)])
def test_false_alarms_are_as_rare_as_the_theory_says(share_lacking: float, years: float) -> None:
    share, floor = DEFAULTS.share, DEFAULTS.floor

    def moment(rate: float) -> float:
        return share_lacking * math.exp(rate * (1 - share)) + (1 - share_lacking) * math.exp(-rate * share)

    low, high = 1e-6, 50.0  # below the root the sum is under 1, above it over
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if moment(middle) < 1 else (low, middle)
    assert math.exp(-low * floor) * 365 * LOOKS_A_DAY < 1 / years


def test_twenty_customers_that_an_agent_erases_at_once_do_not_engage_it() -> None:
    assert losers(Evidence(), [True] * 20) is None


def test_one_customer_who_deletes_the_only_card_of_a_registry_does_not_engage_it() -> None:
    assert losers(Evidence(), [True]) is None


def test_one_customer_who_removes_forty_cards_one_by_one_counts_once() -> None:
    evidence = Evidence()
    for _ in range(40):
        evidence = lacked(evidence, 1, 0, DEFAULTS)
    assert evidence.excess == pytest.approx(1 - DEFAULTS.share)


def test_what_was_worn_off_of_a_customers_weight_is_put_back_when_it_lacks_cards_again() -> None:
    """Deleted one by one, with looks in between that confirm: still one customer, and never more than its weight."""
    evidence, confirmed = Evidence(), 0
    for _ in range(40):
        evidence = lacked(evidence, 1, confirmed, DEFAULTS)
        assert evidence.excess == pytest.approx(1 - DEFAULTS.share)
        confirmed += 3


@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 9)), max_size=60),
    st.permutations(range(1, 13)),
    st.booleans(),
)
def test_whoever_was_counted_before_an_empty_list_for_everybody_costs_no_more_customers(
    before: list[tuple[int, int]], mad: list[int], is_released: bool
) -> None:
    """Customers of a past whose weight is worn off nearly, but not quite, are among those that lose cards now."""
    limits = Limits(0.05, 10)
    evidence, confirmed = released(0, limits) if is_released else Evidence(), 0
    for customer, confirming in before:
        evidence = lacked(evidence, customer, confirmed, limits)
        confirmed += confirming * 10
        if must_engage(evidence, limits):
            return
    lost = 0
    for customer in mad:
        evidence = lacked(evidence, customer, confirmed, limits)
        if must_engage(evidence, limits):
            break
        lost += 1
    assert lost <= limits.floor


def test_the_customers_that_are_kept_are_bounded() -> None:
    evidence = Evidence()
    for customer in range(1_000):
        evidence = lacked(evidence, customer, 0, Limits(0.15, 10**6))
    assert evidence.counted == tuple(range(1_000 - COUNTED_MAX, 1_000))


def test_after_a_release_it_engages_again_after_a_handful_of_customers() -> None:
    assert losers(released(5, DEFAULTS), [True] * 100) == HANDFUL
    assert losers(released(5, Limits(0.15, 0)), [True] * 100, limits=Limits(0.15, 0)) == 0


def test_after_a_release_it_is_as_patient_as_before_once_looks_have_confirmed_enough() -> None:
    assert losers(released(0, DEFAULTS), [*[False] * 200, *[True] * 100]) == MOST


def test_a_counter_that_runs_backwards_confirms_nothing() -> None:
    assert worn_off(Evidence(3.0, 100, (1,)), 10, DEFAULTS) == Evidence(3.0, 10, (1,))
