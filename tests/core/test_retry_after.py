"""The wish of the other side to wait: seconds or a date, bounded, and junk is no wish."""

from __future__ import annotations

import datetime as dt
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardsync.core.retry_after import read_date, read_seconds

NOW = dt.datetime(2026, 11, 26, 12, 0, tzinfo=dt.UTC)
LONGEST = 3_600.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        (" 12 ", 12.0),
        ("86400", LONGEST),
        ("9" * 5000, LONGEST),
        (None, None),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("1e3", None),
        ("soon", None),
        ("٣", None),
        ("Thu, 26 Nov 2026 12:02:00 GMT", 120.0),
        ("Thu, 26 Nov 2026 12:02:00 -0000", 120.0),
        ("Thu, 26 Nov 2026 15:02:00 +0300", 120.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST),
        ("Fri, 31 Dec 9999 23:59:59 -0500", None),
        ("Wed, 99 Foo 2020 00:00:00 GMT", None),
    ],
)
def test_seconds_and_dates_are_read_within_bounds_and_all_else_is_no_wish(
    value: str | None, seconds: float | None
) -> None:
    assert read_seconds(value, now=NOW, longest_seconds=LONGEST) == seconds


def test_a_date_counts_from_the_moment_that_is_given_and_is_no_wish_without_one() -> None:
    date = format_datetime(NOW + dt.timedelta(seconds=90), usegmt=True)
    ahead = NOW + dt.timedelta(seconds=60)
    assert read_seconds(date, now=ahead, longest_seconds=LONGEST) == 30
    assert read_seconds(date, now=None, longest_seconds=LONGEST) is None
    assert read_seconds("9", now=None, longest_seconds=LONGEST) == 9


@given(st.text(), st.floats(1, 10**6))
def test_no_text_raises_or_leads_out_of_the_bounds(value: str, longest_seconds: float) -> None:
    seconds = read_seconds(value, now=NOW, longest_seconds=longest_seconds)
    assert seconds is None or 0 <= seconds <= longest_seconds


@given(st.integers(-2_000_000_000, 250_000_000_000), st.integers(-14, 14))
def test_a_date_is_the_same_moment_in_every_zone(seconds: int, hours: int) -> None:
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=seconds)
    there = moment.astimezone(dt.timezone(dt.timedelta(hours=hours)))
    assert read_date(format_datetime(there)) == moment
