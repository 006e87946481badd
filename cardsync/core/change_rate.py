"""The change-rate estimator: how often a customer's cards change in silence, and by when another look is worth a call.

A *silent change* is a difference that a list shows and that no hint and no deletion of ours explains. The silent changes found,
divided by the days watched, give a rate. A prior stands in where a customer was watched for a short time, and old evidence counts
half after each half-life (a Gamma-Poisson estimate). The rate is kept as a *cadence*, a small integer: one more is a rate twice
as high. ``core.schedule`` decides by the cadence, and ``core.planner`` calculates in advance what comes of it.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cardsync.core.agreements import Agreement, next_charge
from cardsync.core.diff import Plan

SECONDS_A_DAY: Final = 86_400.0

# Habits last for months, not for ever: after half a year of quiet, a restless month counts half.
HALF_LIFE_DAYS: Final = 180.0
# The prior: a newcomer's rate is one silent change in 600 days, and the prior weighs as much as a tenth of one observation.
# Most customers almost never change and a few change often. So the first change that is found says more than any guess, and two
# quiet months say little. Half or twice of either number moved the median time to detect, in simulated years, by some tenths of
# its value, mostly by fewer than one and a half.
PRIOR_CHANGES: Final = 0.1
PRIOR_DAYS: Final = 60.0
# A customer who has just paid, or is being asked about, is at the checkout, and cards are deleted there too.
ACTIVE_FACTOR: Final = 2.0
# Without an active card nothing can be deleted in silence. A card may still have been saved while its hint was lost.
EMPTY_FACTOR: Final = 0.125

# Twelve octaves: cadence 0 is a change in three years or fewer, cadence 11 one a day or more.
CADENCES: Final = 12
SLOWEST_DAYS: Final = 2_048.0

# A card is good until its month ends. Ottu's clock may stand anywhere, and the last place on earth is twelve hours behind UTC.
MONTH_ENDS_AFTER: Final = dt.timedelta(days=1, hours=12)
# Early enough to charge another card, late enough to see what the payer did last.
BEFORE_A_CHARGE: Final = dt.timedelta(hours=12)


@dataclass(frozen=True, slots=True)
class History:
    """What is kept of a customer between two looks; ``changes`` and ``days`` have halved with every half-life since."""

    looked_at: dt.datetime | None
    changes: float
    days: float
    look_by: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Look:
    """What one believed list showed. ``agreements`` are those known of the customer."""

    asked_at: dt.datetime
    found: bool
    active: bool
    has_cards: bool
    expiries: Iterable[dt.date] = ()
    agreements: Sequence[Agreement] = ()


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is kept of a customer after a look, and what follows from it; ``look_by`` is later than the look."""

    cadence: int
    changes: float
    days: float
    look_by: dt.datetime | None


def estimate(history: History, look: Look) -> Estimate:
    """Take one look into account."""
    changes, days = watched(history.changes, history.days, _days_between(history.looked_at, look.asked_at), look.found)
    return Estimate(
        cadence_of(rate(changes, days, active=look.active, has_cards=look.has_cards)),
        changes,
        days,
        _look_by(history, look),
    )


def watched(changes: float, days: float, gap_days: float, found: bool) -> tuple[float, float]:
    """Return the changes and the days after ``gap_days`` more, at whose end a change was found or not.

    The number of cards that differ does not say how many times the shopper changed something, but the length of the gap does. So
    a find counts as the number of changes to expect in that gap, at the rate so far, given that there was at least one.
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


NEWCOMERS: Final = cadence_of(PRIOR_CHANGES / PRIOR_DAYS)  # the cadence of a customer without a history


def found_in_silence(plan: Plan, *, first: bool, routine: bool) -> bool:
    """Tell whether a list shows a change that no hint and no deletion of ours explains.

    The first list of a customer shows what there is, not what changed. A hint explains the card that it names. Changed facts
    count in a routine look alone: after a hint, the hint may be the reason why they changed.
    """
    if first:
        return False
    returned = any(s.revive and s.was == "removed" and not s.answered for s in plan.shown)
    changed = routine and any(s.changed and not s.revive for s in plan.shown)
    return bool(plan.removed or plan.added) or returned or changed


def _days_between(before: dt.datetime | None, after: dt.datetime) -> float:
    return 0.0 if before is None else max(0.0, (after - before).total_seconds() / SECONDS_A_DAY)


def _look_by(history: History, look: Look) -> dt.datetime | None:
    """The next moment after this look at which another look is worth a call, at any cadence."""
    ends = [
        dt.datetime.combine(day, dt.time(), dt.UTC) + MONTH_ENDS_AFTER for day in look.expiries if day < dt.date.max
    ]
    # A look that is due now is this one: the charge that the next look comes before is later.
    charges = [next_charge(one, after=look.asked_at + BEFORE_A_CHARGE) for one in look.agreements]
    expected = [charge - BEFORE_A_CHARGE for charge in charges if charge is not None]
    # What was expected before stays so while there are agreements: a release before this one kept no charges.
    standing = [history.look_by] if history.look_by is not None and look.agreements else []
    return min((moment for moment in (*ends, *expected, *standing) if moment > look.asked_at), default=None)
