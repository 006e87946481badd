"""Agreements as Ottu has them: what a notification says of one, and when it is charged next.

What is said of an agreement is a hint: no signature covers it but the id's, so it decides when to look and is shown as said, and
never which card is charged.

When the next charge is expected, the first that holds:

1. Billing told of it (``POST /v1/charges``), and it is still to come.
2. The agreement begins later than everything known: the day on which it starts.
3. A whole number of cycles after the last charge that is known, or that billing told of. A charge that does not come is expected
   again at the next cycle. The cycle is what Ottu said: days (``cycle_interval_days``), else a ``frequency``. Where neither is
   known it is the usual gap between charges, else a month; an ``unscheduled`` agreement has none.

None is expected after the agreement's last day, nor after its ``total_cycles``.
"""

from __future__ import annotations

import calendar
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from cardsync.core.fields import as_text, is_storable, read_count

WORD_MAX: Final = 32  # characters of a type or a frequency; Ottu's longest has thirteen
INTERVAL_MAX: Final = 3_660  # days: ten years
CYCLES_MAX: Final = 100_000
CHARGES_KEPT: Final = 5  # the newest: two make a gap, and attempts at one charge stand between
UNSCHEDULED: Final = "unscheduled"

# Charges closer than this are attempts at one charge, and say nothing of when the next is due.
SHORTEST_GAP: Final = dt.timedelta(days=5)
LONGEST_GAP: Final = dt.timedelta(days=400)
_LAST_DAY: Final = dt.date(9998, 12, 31)  # a year before the calendar's end, so that adding a cycle stays inside it


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a notification says of an agreement; ``None`` means not said, or not readable."""

    type: str | None = None
    frequency: str | None = None
    cycle_interval_days: int | None = None
    total_cycles: int | None = None
    starts_on: dt.date | None = None
    expires_on: dt.date | None = None

    def as_json(self) -> dict[str, Any]:
        """What is said, in JSON's types."""
        return {
            name: value.isoformat() if isinstance(value, dt.date) else value
            for name, value in asdict(self).items()
            if value is not None
        }


@dataclass(frozen=True, slots=True)
class Cycle:
    """The time between two charges: months of the calendar, or days."""

    months: int = 0
    days: int = 0


# Ottu's words. Half a month is fifteen days, which is early enough for either half.
FREQUENCIES: Final[Mapping[str, Cycle]] = {
    "daily": Cycle(days=1),
    "weekly": Cycle(days=7),
    "semi_monthly": Cycle(days=15),
    "monthly": Cycle(months=1),
    "quarterly": Cycle(months=3),
    "semi_annually": Cycle(months=6),
    "yearly": Cycle(months=12),
}


@dataclass(frozen=True, slots=True)
class Agreement:
    """What is known of an agreement's calendar. ``charges`` are the known ones, the newest first."""

    terms: Terms
    charges: Sequence[dt.datetime] = ()
    told_next_at: dt.datetime | None = None


def read_terms(source: Mapping[str, object]) -> Terms:
    """Read what a notification's ``agreement`` says; what is absent or cannot be read is ``None``. It never raises."""
    return Terms(
        type=_word(source.get("type")),
        frequency=_word(source.get("frequency")),
        cycle_interval_days=_between(source.get("cycle_interval_days"), INTERVAL_MAX),
        total_cycles=_between(source.get("total_cycles"), CYCLES_MAX),
        starts_on=_day(source.get("start_date")),
        expires_on=_day(source.get("expiry_date")),
    )


def terms_from_json(stored: object) -> Terms:
    """Rebuild what ``Terms.as_json`` wrote; what cannot be read is not said."""
    found = stored if isinstance(stored, dict) else {}
    return read_terms({**found, "start_date": found.get("starts_on"), "expiry_date": found.get("expires_on")})


def cycle(agreement: Agreement) -> Cycle | None:
    """Return the time between two charges; ``None`` if nothing tells."""
    terms = agreement.terms
    if terms.cycle_interval_days is not None:
        return Cycle(days=terms.cycle_interval_days)
    if terms.frequency is not None and terms.frequency in FREQUENCIES:
        return FREQUENCIES[terms.frequency]
    usual = _usual_gap(agreement.charges)
    if usual is not None:
        return Cycle(days=usual.days)
    return None if terms.type == UNSCHEDULED else Cycle(months=1)


def next_charge(agreement: Agreement, *, after: dt.datetime) -> dt.datetime | None:
    """Return the first charge to expect later than ``after``; ``None`` if there is none, or nothing tells."""
    told, terms = agreement.told_next_at, agreement.terms
    if told is not None and told > after:
        return told
    known = max((moment for moment in (*agreement.charges[:1], told) if moment is not None), default=None)
    start = None if terms.starts_on is None else dt.datetime.combine(terms.starts_on, dt.time(), dt.UTC)
    anchor = max((moment for moment in (known, start) if moment is not None), default=None)
    if anchor is None:
        return None
    step = cycle(agreement)
    if anchor == start and start > after:
        found: dt.datetime | None = start
    else:
        found = None if step is None else _first_after(anchor, step, after)
    return None if found is None or is_over(terms, step, found) else found


def is_over(terms: Terms, step: Cycle | None, moment: dt.datetime) -> bool:
    """Return whether a moment is after the agreement's last day or its last cycle. The views of ``registry`` have this rule."""
    if terms.expires_on is not None and moment.date() > terms.expires_on:
        return True
    if terms.total_cycles is None or terms.starts_on is None or step is None:
        return False
    # Whether the first payment counts as a cycle is not documented: one more is a look too many, one fewer a charge unseen.
    begins = dt.datetime.combine(terms.starts_on, dt.time(), dt.UTC)
    return moment > _added(begins, step, terms.total_cycles) + dt.timedelta(days=1)


def _first_after(anchor: dt.datetime, step: Cycle, after: dt.datetime) -> dt.datetime:
    """The first whole number of cycles after ``anchor``, at least one, that is later than ``after``."""
    shortest_days = step.days + 28 * step.months
    count = max(1, (after - anchor).days * 28 // (31 * shortest_days))  # never too many, at most a tenth too few
    while (found := _added(anchor, step, count)) <= after:
        count += 1
    return found


def _added(moment: dt.datetime, step: Cycle, count: int) -> dt.datetime:
    """``count`` cycles later; of months, on the same day or on the month's last one."""
    if moment.date() > _LAST_DAY:
        return moment
    later = min(moment.toordinal() + step.days * count, _LAST_DAY.toordinal()) - moment.toordinal()
    moment += dt.timedelta(days=later)
    months = moment.year * 12 + moment.month - 1 + step.months * count
    year, month = divmod(months, 12)
    if year > _LAST_DAY.year:
        return moment.replace(year=_LAST_DAY.year, month=12, day=31)
    return moment.replace(year=year, month=month + 1, day=min(moment.day, calendar.monthrange(year, month + 1)[1]))


def _usual_gap(charges: Sequence[dt.datetime]) -> dt.timedelta | None:
    gaps = (charges[0] - earlier for earlier in charges[1:])
    return next((gap for gap in gaps if SHORTEST_GAP <= gap <= LONGEST_GAP), None)


def _word(value: object) -> str | None:
    text = (as_text(value) or "").strip().lower()
    return text[:WORD_MAX] if text and is_storable(text) else None


def _between(value: object, largest: int) -> int | None:
    count = read_count(value)
    return count if count is not None and 1 <= count <= largest else None


def _day(value: object) -> dt.date | None:
    """A day as ``DD/MM/YYYY``, as Ottu writes it, or as ISO 8601 writes it."""
    text = (as_text(value) or "").strip()
    for form in ("%d/%m/%Y", "%Y-%m-%d"):
        try:
            return dt.datetime.strptime(text, form).replace(tzinfo=dt.UTC).date()
        except ValueError:
            continue
    return None
