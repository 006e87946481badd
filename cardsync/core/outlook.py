"""What a customer's history says of the next look: how often its cards change in silence, and by when a look is worth a call.

A *silent change* is a difference that a list shows and that no hint and no deletion of ours explains. Counted against the days
watched it gives a rate, with a prior for whoever was watched little and a half-life for what was long ago (Gamma-Poisson). The
rate is kept as a *cadence*, a small integer: one more is a rate twice as high. ``core.schedule`` decides by it, and
``core.planner`` says in advance what comes of it.
"""

from __future__ import annotations

import calendar
import datetime as dt
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cardsync.core.diff import Plan

SECONDS_A_DAY: Final = 86_400.0

# Habits last for months and not for ever: half a year of quiet halves what a restless month had said.
HALF_LIFE_DAYS: Final = 180.0
# A newcomer's rate is one silent change in 600 days, and worth a tenth of one observation: most customers change next to never,
# a few often, so that the first change that is found says more than any guess, and two quiet months little. Half or twice of
# either moved the median time to detect of simulated years by some tenths, mostly fewer than one and a half.
PRIOR_CHANGES: Final = 0.1
PRIOR_DAYS: Final = 60.0
# Who has just paid, or is being asked about, is at the checkout where cards are also deleted.
ACTIVE_FACTOR: Final = 2.0
# Without an active card nothing can be deleted in silence; what remains is a card that was saved while its hint was lost.
EMPTY_FACTOR: Final = 0.125

# Twelve octaves: cadence 0 is a change in three years or fewer, cadence 11 one a day or more.
CADENCES: Final = 12
SLOWEST_DAYS: Final = 2_048.0

# A card is good until its month ends, wherever Ottu's clock stands: the last place on earth follows UTC by twelve hours.
MONTH_ENDS_AFTER: Final = dt.timedelta(days=1, hours=12)
# Early enough to charge another card, late enough to see what the payer did last.
BEFORE_A_CHARGE: Final = dt.timedelta(hours=12)
# Charges closer than this are attempts at one charge, and say nothing of when the next is due.
SHORTEST_GAP: Final = dt.timedelta(days=5)
LONGEST_GAP: Final = dt.timedelta(days=400)


@dataclass(frozen=True, slots=True)
class History:
    """What is kept of a customer between two looks; ``changes`` and ``days`` have halved with every half-life since."""

    looked_at: dt.datetime | None
    changes: float
    days: float
    look_by: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Look:
    """What one believed list showed.

    ``charges`` are the moments at which each agreement was charged, as far as notifications told, the newest first.
    """

    asked_at: dt.datetime
    found: bool
    active: bool
    has_cards: bool
    expiries: Iterable[dt.date] = ()
    charges: Mapping[str, Sequence[dt.datetime]] | None = None  # by agreement; one never charged has no moments


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is kept of a customer after a look, and what follows from it; ``look_by`` is later than the look."""

    cadence: int
    changes: float
    days: float
    look_by: dt.datetime | None


def outlook(history: History, look: Look) -> Outlook:
    """Take one look into account."""
    changes, days = watched(history.changes, history.days, _days_between(history.looked_at, look.asked_at), look.found)
    return Outlook(
        cadence_of(rate(changes, days, active=look.active, has_cards=look.has_cards)),
        changes,
        days,
        _look_by(history, look),
    )


def watched(changes: float, days: float, gap_days: float, found: bool) -> tuple[float, float]:
    """Return the changes and the days after ``gap_days`` more, at whose end a change was found or not.

    How many cards a look finds changed does not say how many times the shopper changed some, but a long time does: a find counts
    for as many changes as are to be expected, at the rate so far, of a time in which there was one at least.
    """
    decay = math.log(2) / HALF_LIFE_DAYS
    faded = math.exp(-decay * gap_days)
    expected = gap_days * (PRIOR_CHANGES + changes) / (PRIOR_DAYS + days)
    several = expected / -math.expm1(-expected) if expected > 0 else 1.0
    return changes * faded + (several if found else 0.0), days * faded + (1 - faded) / decay


def rate(changes: float, days: float, *, active: bool, has_cards: bool) -> float:
    """Return the silent changes a day to expect."""
    expected = (PRIOR_CHANGES * (ACTIVE_FACTOR if active else 1.0) + changes) / (PRIOR_DAYS + days)
    return expected if has_cards else expected * EMPTY_FACTOR


def cadence_of(changes_a_day: float) -> int:
    """Return the cadence of a rate: a higher rate never has a lower one."""
    octave = math.floor(math.log2(max(changes_a_day, 1e-9) * SLOWEST_DAYS))
    return min(CADENCES - 1, max(0, octave))


def rate_of(cadence: int) -> float:
    """Return the changes a day that a cadence stands for: the middle of its octave."""
    return float(2 ** (cadence + 0.5)) / SLOWEST_DAYS


NEWCOMERS: Final = cadence_of(PRIOR_CHANGES / PRIOR_DAYS)  # the cadence of one of whom nothing is known


def found_in_silence(plan: Plan, *, first: bool, routine: bool) -> bool:
    """Tell whether a list shows a change of which nothing had told us.

    The first list of a customer shows what there is, not what changed. A card that a hint named is explained by it; changed
    facts count in a routine look alone, since what a hint says of a card may be why they changed.
    """
    if first:
        return False
    returned = any(s.revive and s.was == "removed" and not s.answered for s in plan.shown)
    changed = routine and any(s.changed and not s.revive for s in plan.shown)
    return bool(plan.removed or plan.added) or returned or changed


def _days_between(before: dt.datetime | None, after: dt.datetime) -> float:
    return 0.0 if before is None else max(0.0, (after - before).total_seconds() / SECONDS_A_DAY)


def _look_by(history: History, look: Look) -> dt.datetime | None:
    """The next moment after this look at which another is worth a call, whatever the cadence."""
    ends = [
        dt.datetime.combine(day, dt.time(), dt.UTC) + MONTH_ENDS_AFTER for day in look.expiries if day < dt.date.max
    ]
    charges = look.charges or {}
    expected = [next_charge(moments) - BEFORE_A_CHARGE for moments in charges.values() if moments]
    # What was expected before stays so while there are agreements: notifications are forgotten sooner than a yearly charge comes.
    standing = [history.look_by] if history.look_by is not None and charges else []
    return min((moment for moment in (*ends, *expected, *standing) if moment > look.asked_at), default=None)


def next_charge(moments: Sequence[dt.datetime]) -> dt.datetime:
    """Return when an agreement is charged next: the usual gap after the last time, else a month.

    ``moments`` are the charges so far, the newest first, at least one. A charge that does not come is not expected again.
    """
    last = moments[0]
    gaps = (last - earlier for earlier in moments[1:])
    usual = next((gap for gap in gaps if SHORTEST_GAP <= gap <= LONGEST_GAP), None)
    return _a_month_after(last) if usual is None else last + usual


def _a_month_after(moment: dt.datetime) -> dt.datetime:
    year, month = (moment.year + 1, 1) if moment.month == 12 else (moment.year, moment.month + 1)
    return moment.replace(year=year, month=month, day=min(moment.day, calendar.monthrange(year, month)[1]))
