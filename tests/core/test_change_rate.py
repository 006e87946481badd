"""What history says: rates that follow what was found, and dates by which a look is worth a call."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardsync.core import change_rate as o
from cardsync.core.agreements import Agreement, Terms
from cardsync.core.cards import CardFacts, Token
from cardsync.core.change_rate import History, Look, estimate
from cardsync.core.diff import Plan, RemoteCard, Shown

NOW = dt.datetime(2026, 3, 14, 9, 30, tzinfo=dt.UTC)
LOOK = Look(asked_at=NOW, found=False, active=False, has_cards=True)
NOBODY = History(None, 0.0, 0.0, None)
CARD = RemoteCard(b"f" * 32, Token("9999000000000001"), CardFacts(agreements=()))
SHOWN = Shown(uuid.UUID(int=1), CARD, was="active", revive=False, changed=False, answered=False)
RATES = st.floats(1e-9, 1e3)


@given(RATES, RATES)
def test_a_higher_rate_never_has_a_lower_cadence(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert 0 <= o.cadence_of(low) <= o.cadence_of(high) < o.CADENCES


@pytest.mark.parametrize("cadence", range(o.CADENCES))
def test_a_cadence_stands_for_a_rate_of_its_own(cadence: int) -> None:
    assert o.cadence_of(o.rate_of(cadence)) == cadence


@given(st.floats(0, 50), st.floats(0, 400), st.floats(0, 400))
def test_finding_a_change_raises_the_rate_and_finding_none_lowers_it(changes: float, days: float, gap: float) -> None:
    quiet, found = (o.rate(*o.watched(changes, days, gap, f), active=False, has_cards=True) for f in (False, True))
    assert quiet < found


def test_one_who_changes_every_month_is_told_from_one_who_never_does_within_half_a_year() -> None:
    restless = quiet = NOBODY
    for day in range(0, 180, 10):
        look = replace(LOOK, asked_at=NOW + dt.timedelta(days=day))
        after = estimate(restless, replace(look, found=day % 30 == 20))
        restless = History(look.asked_at, after.changes, after.days, None)
        calm = estimate(quiet, look)
        quiet = History(look.asked_at, calm.changes, calm.days, None)
    assert after.cadence >= calm.cadence + 4


def test_what_was_long_ago_counts_for_half_after_a_half_life() -> None:
    changes, days = o.watched(8.0, 100.0, o.HALF_LIFE_DAYS, False)
    assert changes == pytest.approx(4.0)
    assert days > 50.0


def test_a_newcomer_has_a_cadence_of_its_own_and_one_without_cards_a_lower_one() -> None:
    seen = estimate(NOBODY, LOOK)
    assert seen.cadence == o.NEWCOMERS > estimate(NOBODY, replace(LOOK, has_cards=False)).cadence
    assert estimate(NOBODY, replace(LOOK, active=True)).cadence > seen.cadence


def test_a_card_is_looked_at_when_its_month_is_over_everywhere() -> None:
    look = replace(LOOK, expiries=[dt.date(2026, 5, 31), dt.date(2026, 3, 31), dt.date(2025, 12, 31), dt.date.max])
    assert estimate(NOBODY, look).look_by == dt.datetime(2026, 4, 1, 12, tzinfo=dt.UTC)
    after = replace(look, asked_at=dt.datetime(2026, 4, 1, 12, tzinfo=dt.UTC))
    assert estimate(NOBODY, after).look_by == dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)


def agreement(*charges: dt.datetime, **terms: Any) -> Agreement:
    return Agreement(Terms(**terms), charges)


def test_an_agreement_is_looked_at_shortly_before_its_next_charge() -> None:
    last = dt.datetime(2026, 3, 10, tzinfo=dt.UTC)
    look = replace(LOOK, agreements=[agreement(last), agreement(last, frequency="weekly"), agreement()])
    assert estimate(NOBODY, look).look_by == last + dt.timedelta(days=7) - o.BEFORE_A_CHARGE
    look = replace(LOOK, agreements=[agreement(last)])
    assert estimate(NOBODY, look).look_by == dt.datetime(2026, 4, 10, tzinfo=dt.UTC) - o.BEFORE_A_CHARGE


def test_after_the_look_before_a_charge_the_next_look_is_before_the_following_one() -> None:
    last = dt.datetime(2026, 3, 10, tzinfo=dt.UTC)
    looks, asked_at = [], NOW
    for _ in range(3):
        history = History(asked_at, 0.0, 1.0, looks[-1] if looks else None)
        look_by = estimate(history, replace(LOOK, asked_at=asked_at, agreements=[agreement(last)])).look_by
        assert look_by is not None
        looks.append(look_by)
        asked_at = look_by + dt.timedelta(minutes=1)
    assert looks == [dt.datetime(2026, month, 10, tzinfo=dt.UTC) - o.BEFORE_A_CHARGE for month in (4, 5, 6)]


def test_an_expected_charge_stands_while_there_are_agreements_of_which_no_charge_is_known() -> None:
    history = History(NOW, 0.0, 1.0, NOW + dt.timedelta(days=200))
    assert estimate(history, replace(LOOK, agreements=[agreement()])).look_by == history.look_by
    assert estimate(history, LOOK).look_by is None


@given(st.lists(st.integers(-500, 300), min_size=1, max_size=5), st.dates())
def test_a_date_is_always_later_than_the_look_so_that_it_never_comes_twice(days: list[int], expiry: dt.date) -> None:
    charges = sorted((NOW + dt.timedelta(days=d) for d in days), reverse=True)
    history = History(NOW, 0.0, 0.0, charges[0])
    look_by = estimate(history, replace(LOOK, agreements=[agreement(*charges)], expiries=[expiry])).look_by
    assert look_by is None or look_by > NOW


@pytest.mark.parametrize(
    ("plan", "routine", "found"),
    [
        (Plan(), True, False),
        (Plan(removed=(uuid.UUID(int=1),)), False, True),
        (Plan(added=(CARD,)), False, True),
        (Plan(proved=(uuid.UUID(int=1),)), True, False),
        (Plan(shown=(replace(SHOWN, was="unconfirmed", revive=True, changed=True, answered=True),)), True, False),
        (Plan(shown=(replace(SHOWN, was="removed", revive=True, answered=True),)), True, False),
        (Plan(shown=(replace(SHOWN, was="removed", revive=True),)), False, True),
        (Plan(shown=(replace(SHOWN, changed=True),)), True, True),
        (Plan(shown=(replace(SHOWN, changed=True),)), False, False),
        (Plan(held=(uuid.UUID(int=1),)), True, False),
    ],
)
def test_a_change_is_silent_where_no_hint_and_no_deletion_explains_it(plan: Plan, routine: bool, found: bool) -> None:
    assert o.found_in_silence(plan, first=False, routine=routine) is found
    assert not o.found_in_silence(plan, first=True, routine=routine)
