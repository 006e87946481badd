"""The last days of cards."""

from __future__ import annotations

import datetime as dt

from cardsync.core.expiry import month_ends


def test_the_days_on_which_months_end_are_those_from_the_first_to_the_last() -> None:
    assert month_ends(dt.date(2027, 12, 31), dt.date(2028, 2, 29)) == [
        dt.date(2027, 12, 31),
        dt.date(2028, 1, 31),
        dt.date(2028, 2, 29),
    ]
    assert month_ends(dt.date(2027, 1, 1), dt.date(2027, 1, 30)) == []
    assert len(month_ends(dt.date(2027, 1, 31), dt.date(2028, 1, 31))) == 13
