"""What notifications say of agreements, and when the next charge is expected."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardsync.core.agreements import (
    FREQUENCIES,
    Agreement,
    Cycle,
    Terms,
    cycle,
    next_charge,
    read_terms,
    terms_from_json,
)

NOW = dt.datetime(2027, 3, 10, 9, 30, tzinfo=dt.UTC)
LAST = dt.datetime(2027, 3, 1, 6, tzinfo=dt.UTC)


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


def test_terms_are_read_as_ottu_writes_them() -> None:
    said = {
        "id": "A1",
        "type": "Recurring",
        "frequency": "monthly",
        "cycle_interval_days": "30",
        "total_cycles": 12,
        "start_date": "31/01/2027",
        "expiry_date": "31/12/2027",
        "seller": {"name": "not kept"},
    }
    terms = read_terms(said)
    assert terms == Terms(
        type="recurring",
        frequency="monthly",
        cycle_interval_days=30,
        total_cycles=12,
        starts_on=dt.date(2027, 1, 31),
        expires_on=dt.date(2027, 12, 31),
    )
    assert terms_from_json(terms.as_json()) == terms


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda children: st.lists(children, max_size=2)
)
NAMES = st.sampled_from(["type", "frequency", "cycle_interval_days", "total_cycles", "start_date", "expiry_date", "x"])


@given(st.dictionaries(NAMES, JSON))
def test_whatever_is_said_is_read_or_passed_over_and_the_next_charge_is_later(said: dict[str, object]) -> None:
    terms = read_terms(said)
    assert terms_from_json(terms.as_json()) == terms
    found = next_charge(Agreement(terms, (LAST,)), after=NOW)
    assert found is None or found > NOW


@pytest.mark.parametrize("wrong", ["2027-02-30", "32/01/2027", "01/13/2027", "tomorrow", "", None, 5, "0/0/0"])
def test_a_day_that_is_none_is_not_said(wrong: object) -> None:
    assert read_terms({"start_date": wrong, "expiry_date": wrong}) == Terms()


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        (Terms(cycle_interval_days=10, frequency="monthly"), "2027-03-11 06:00"),
        (Terms(frequency="daily"), "2027-03-11 06:00"),
        (Terms(frequency="weekly"), "2027-03-15 06:00"),
        (Terms(frequency="monthly"), "2027-04-01 06:00"),
        (Terms(frequency="quarterly"), "2027-06-01 06:00"),
        (Terms(frequency="yearly"), "2028-03-01 06:00"),
        (Terms(frequency="other"), "2027-04-01 06:00"),
        (Terms(), "2027-04-01 06:00"),
        (Terms(type="unscheduled"), None),
        (Terms(type="unscheduled", frequency="weekly"), "2027-03-15 06:00"),
        (Terms(starts_on=dt.date(2027, 3, 20)), "2027-03-20 00:00"),
        (Terms(starts_on=dt.date(2027, 3, 20), type="unscheduled"), "2027-03-20 00:00"),
        (Terms(starts_on=dt.date(2027, 3, 5), frequency="weekly"), "2027-03-12 00:00"),
        (Terms(frequency="weekly", expires_on=dt.date(2027, 3, 15)), "2027-03-15 06:00"),
        (Terms(frequency="weekly", expires_on=dt.date(2027, 3, 14)), None),
        (Terms(frequency="weekly", starts_on=dt.date(2027, 3, 1), total_cycles=2), "2027-03-15 06:00"),
        (Terms(frequency="weekly", starts_on=dt.date(2027, 3, 1), total_cycles=1), None),
    ],
)
def test_the_next_charge_follows_the_agreements_calendar(terms: Terms, expected: str | None) -> None:
    assert next_charge(Agreement(terms, (LAST,)), after=NOW) == (None if expected is None else at(expected))


def test_a_charge_that_does_not_come_is_expected_again_at_the_next_cycle() -> None:
    agreement = Agreement(Terms(frequency="monthly"), (at("2027-01-31 06:00"),))
    found = []
    moment: dt.datetime | None = at("2027-01-31 06:00")
    while moment is not None and len(found) < 4:
        moment = next_charge(agreement, after=moment)
        found.append(moment)
    assert found == [at(f"{day} 06:00") for day in ("2027-02-28", "2027-03-31", "2027-04-30", "2027-05-31")]


def test_what_billing_told_counts_and_later_cycles_follow_from_it() -> None:
    agreement = Agreement(Terms(frequency="weekly"), (LAST,), told_next_at=at("2027-03-20 08:00"))
    assert next_charge(agreement, after=NOW) == at("2027-03-20 08:00")
    assert next_charge(agreement, after=at("2027-03-20 08:00")) == at("2027-03-27 08:00")
    unscheduled = replace(agreement, terms=Terms(type="unscheduled"))
    assert next_charge(unscheduled, after=NOW) == at("2027-03-20 08:00")
    assert next_charge(unscheduled, after=at("2027-03-20 08:00")) is None


def test_without_a_calendar_the_usual_gap_counts_and_attempts_at_one_charge_are_passed_over() -> None:
    charges = (LAST, LAST - dt.timedelta(hours=2), LAST - dt.timedelta(days=14))
    assert cycle(Agreement(Terms(), charges)) == Cycle(days=14)
    assert next_charge(Agreement(Terms(type="unscheduled"), charges), after=NOW) == LAST + dt.timedelta(days=14)


def test_nothing_is_expected_where_nothing_is_known() -> None:
    assert next_charge(Agreement(Terms(frequency="monthly")), after=NOW) is None


@given(
    st.sampled_from([*FREQUENCIES, None]),
    st.integers(1, 3_660) | st.none(),
    st.datetimes(timezones=st.just(dt.UTC)),
    st.datetimes(timezones=st.just(dt.UTC)).map(lambda moment: moment.replace(year=2000 + moment.year % 100, day=1)),
)
def test_the_next_charge_is_at_most_one_cycle_away(
    frequency: str | None, days: int | None, last: dt.datetime, after: dt.datetime
) -> None:
    agreement = Agreement(Terms(frequency=frequency, cycle_interval_days=days), (last,))
    found = next_charge(agreement, after=after)
    assert found is not None
    if last < after:
        longest = days or {"yearly": 366, "semi_annually": 184, "quarterly": 92}.get(frequency or "", 31)
        assert after < found <= after + dt.timedelta(days=longest)
