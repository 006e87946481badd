"""When cards expire: a card is good until the last day of its month, so few days are the last day of any card."""

from __future__ import annotations

import calendar
import datetime as dt


def month_ends(first: dt.date, last: dt.date) -> list[dt.date]:
    """Return the days from ``first`` to ``last`` on which a month ends, in order."""
    ends = []
    year, month = first.year, first.month
    while (end := dt.date(year, month, calendar.monthrange(year, month)[1])) <= last:
        ends.append(end)
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)
    return ends
