"""A forecast of the schedule: ages, times to detect, and what another budget would change.

The arithmetic is that of ``core.schedule`` in its steady state. Half of the calls keep one line in motion. The others go where
the age is greatest in proportion, so every cadence has one interval. Silent changes come by chance, so the time until a change is
found is spread evenly between nothing and its customer's interval. Times are in days, rates are per day.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cardsync.core.change_rate import CADENCES, cadence_of, rate_of
from cardsync.core.schedule import LINE_SHARE

HALVINGS: Final = 60  # past the precision of a float from any interval to any other

# How changes are spread where there is no history: as merchants describe their shoppers, and as benchmarks/schedule.py assumes.
RESTLESS_SHARE: Final = 0.1
RESTLESS_CHANGES_SHARE: Final = 0.9


@dataclass(frozen=True, slots=True)
class Group:
    """Customers who are alike: their number, their cadence, and how often each changes in silence."""

    customers: float
    cadence: int
    changes_a_day: float


@dataclass(frozen=True, slots=True)
class Intervals:
    """The time between two looks at a customer of each cadence, and the time that the line takes to go round."""

    intervals_days: tuple[float, ...]
    line_days: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The expected figures. ``worst_age_days`` is guaranteed; ``oldest_days`` is the oldest age to expect."""

    customers: float
    routine_calls_a_day: float
    worst_age_days: float
    oldest_days: float
    median_age_days: float
    changes_a_day: float
    detect_p50_days: float
    detect_p95_days: float
    looks_a_day: float
    looks_for_a_find: float | None


def of_cadences(customers: Sequence[float]) -> tuple[Group, ...]:
    """Groups for customers whose cadences alone are known: each is assumed to change as its cadence says."""
    return tuple(Group(count, c, rate_of(c)) for c, count in enumerate(customers) if count)


def imagined(customers: int, changes_a_day: float) -> tuple[Group, ...]:
    """A population in which a tenth of the customers makes nine tenths of the changes, once its habits are known."""
    restless, quiet = customers * RESTLESS_SHARE, customers * (1 - RESTLESS_SHARE)
    often = changes_a_day * RESTLESS_CHANGES_SHARE / restless
    seldom = changes_a_day * (1 - RESTLESS_CHANGES_SHARE) / quiet
    return (Group(quiet, cadence_of(seldom), seldom), Group(restless, cadence_of(often), often))


def worst_age_days(customers: float, routine_calls_a_day: float, *, shortest_days: float) -> float:
    """Return the greatest age that a last look can reach: the shortest interval, then a whole line at half of the calls."""
    return shortest_days + customers / (routine_calls_a_day * LINE_SHARE)


def intervals_for(groups: Sequence[Group], routine_calls_a_day: float, *, shortest_days: float) -> Intervals:
    """Find the intervals at which the calls are used up, half of them by the line.

    For each length of the line there is one scale of the intervals that uses up all calls. A longer line takes fewer calls. No
    interval is shorter than ``shortest_days``. Where that leaves calls over, every customer has this shortest interval.
    """
    counts = [sum(g.customers for g in groups if g.cadence == c) for c in range(CADENCES)]
    everybody = sum(counts)
    if everybody <= routine_calls_a_day * shortest_days:
        return Intervals((shortest_days,) * CADENCES, shortest_days)
    shortest_line = everybody / routine_calls_a_day
    line = _least(
        lambda days: (
            _line_calls(counts, days, _scale(counts, days, routine_calls_a_day, shortest_days))
            <= LINE_SHARE * routine_calls_a_day
        ),
        shortest_line,
        shortest_line / LINE_SHARE,
    )
    scale = _scale(counts, line, routine_calls_a_day, shortest_days)
    return Intervals(tuple(_interval(c, line, scale, shortest_days) for c in range(CADENCES)), line)


def forecast(groups: Sequence[Group], routine_calls_a_day: float, *, shortest_days: float) -> Forecast:
    """Forecast the schedule for these customers; there must be at least one."""
    intervals = intervals_for(groups, routine_calls_a_day, shortest_days=shortest_days)
    days_of_groups = [intervals.intervals_days[g.cadence] for g in groups]
    customers = sum(g.customers for g in groups)
    changes = [g.customers * g.changes_a_day for g in groups]
    looks = sum(g.customers / days for g, days in zip(groups, days_of_groups, strict=True))
    finds = sum(
        g.customers / d * chance_of_a_find(g.changes_a_day, d) for g, d in zip(groups, days_of_groups, strict=True)
    )
    return Forecast(
        customers=customers,
        routine_calls_a_day=routine_calls_a_day,
        worst_age_days=worst_age_days(customers, routine_calls_a_day, shortest_days=shortest_days),
        oldest_days=max(days_of_groups),
        median_age_days=_quantile([g.customers for g in groups], days_of_groups, 0.5),
        changes_a_day=sum(changes),
        detect_p50_days=_quantile(changes, days_of_groups, 0.5),
        detect_p95_days=_quantile(changes, days_of_groups, 0.95),
        looks_a_day=looks,
        looks_for_a_find=looks / finds if finds else None,
    )


def found_within(groups: Sequence[Group], at: Forecast, days: float, *, shortest_days: float) -> float:
    """Return the share of the silent changes that is found within ``days``."""
    intervals = intervals_for(groups, at.routine_calls_a_day, shortest_days=shortest_days)
    found = sum(g.customers * g.changes_a_day * min(1.0, days / intervals.intervals_days[g.cadence]) for g in groups)
    return min(1.0, found / at.changes_a_day)


def chance_of_a_find(changes_a_day: float, interval_days: float) -> float:
    """Return the chance that a look after the interval finds a change."""
    return -math.expm1(-changes_a_day * interval_days)


def _interval(cadence: int, line_days: float, scale_days: float, shortest_days: float) -> float:
    return max(shortest_days, min(line_days, scale_days * float(2 ** (-cadence / 2))))


def _calls(counts: Sequence[float], line_days: float, scale_days: float, shortest_days: float) -> float:
    return sum(n / _interval(c, line_days, scale_days, shortest_days) for c, n in enumerate(counts))


def _line_calls(counts: Sequence[float], line_days: float, scale_days: float) -> float:
    return sum(n / line_days for c, n in enumerate(counts) if scale_days * float(2 ** (-c / 2)) >= line_days)


def _scale(counts: Sequence[float], line_days: float, calls: float, shortest_days: float) -> float:
    """The interval of cadence 0 at which a line of this length uses up the calls: the shortest that they are enough for."""
    longest = line_days * float(2 ** (CADENCES / 2))
    return _least(lambda days: _calls(counts, line_days, days, shortest_days) <= calls, 0.0, longest)


def _quantile(weights: Sequence[float], intervals: Sequence[float], share: float) -> float:
    """The time within which ``share`` of the weights is found, if each weight is spread evenly over its interval."""
    wanted = share * sum(weights)
    return _least(
        lambda days: sum(w * min(1.0, days / i) for w, i in zip(weights, intervals, strict=True)) >= wanted,
        0.0,
        max(intervals),
    )


def _least(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The least value in the range at which ``holds`` is true, by bisection; ``high`` if there is none below it.

    ``holds`` must be monotone: where it is true for one value, it is true for all greater ones.
    """
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
