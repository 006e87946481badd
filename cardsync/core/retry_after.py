"""``Retry-After`` (RFC 9110, 10.2.3): the seconds, or the date, that the other side asks us to wait for."""

from __future__ import annotations

import datetime as dt
from email.utils import parsedate_to_datetime
from typing import Final

DIGITS_MAX: Final = 18  # far past any bound of ours; more digits are read as this many


def read_seconds(value: str | None, *, now: dt.datetime | None, longest_seconds: float) -> float | None:
    """Return the wish in seconds, bounded to 0..``longest_seconds``; ``None`` for none and for junk.

    A date counts from ``now``: our clock, or the answer's own ``Date``, so that clocks may differ. Without it a date is junk.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:DIGITS_MAX]), longest_seconds)
    until = read_date(text)
    if until is None or now is None:
        return None
    return min(max((until - now).total_seconds(), 0.0), longest_seconds)


def read_date(value: str | None) -> dt.datetime | None:
    """Return the moment that a date of HTTP names (RFC 9110, 5.6.7); ``None`` for none and for junk."""
    if value is None:
        return None
    try:
        moment = parsedate_to_datetime(value.strip())
        if moment.tzinfo is None:  # the zone "-0000": UTC, and nothing is known of the sender's
            return moment.replace(tzinfo=dt.UTC)
        return moment.astimezone(dt.UTC)  # two dates can then be compared whatever their zones
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
