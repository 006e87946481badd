"""Times, dates and numbers as the viewer's language and time zone write them."""

from __future__ import annotations

import datetime as dt

from babel.dates import format_date, format_datetime
from babel.numbers import format_decimal, format_percent
from flask import g
from markupsafe import Markup

from cardsync.web.console.words import _, locale

DASH = "\N{EN DASH}"  # where there is no value


def when(moment: dt.datetime | None) -> Markup:
    """A moment in the viewer's zone, with UTC in its title."""
    if moment is None:
        return Markup('<span class="none">{}</span>').format(_("never"))
    utc = moment.astimezone(dt.UTC)
    local = moment.astimezone(g.preferences.zone_info)
    language = locale(g.preferences.language)
    shown = format_datetime(local, "d MMM y HH:mm:ss", locale=language)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        utc.isoformat(timespec="milliseconds").replace("+00:00", "Z"), utc.strftime("%Y-%m-%d %H:%M:%S UTC"), shown
    )


def day(date: dt.date | None) -> str:
    """A date."""
    return DASH if date is None else format_date(date, "d MMM y", locale=locale(g.preferences.language))


def number(value: float) -> str:
    """A number as the viewer's language writes it."""
    return format_decimal(value, locale=locale(g.preferences.language))


def percent(value: float, pattern: str | None = None) -> str:
    """A share of one."""
    return format_percent(value, format=pattern, locale=locale(g.preferences.language))
