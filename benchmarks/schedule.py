"""Simulated years of routine looks: ``core.schedule`` beside a plain round, on the same shoppers and the same changes.

What decides here is what decides in production: ``core.change_rate`` and ``core.schedule``, called in the order in which
``apply_list`` and ``sweep`` call them. Around them is only time that passes faster: shoppers change their cards in silence, by
chance; some also pay, and a notification tells of that, so that they are looked at outside the routine. One seed decides all.

Beside each other, on the same happenings: a *round* through everybody in one fixed order; *scheduled*, with as many calls, in
year 1, when nothing is known of anybody, and in year 2; *known*: all habits from the start, which no history can better; a *slow
round*, with only as many calls as keep the worst age that the schedule guarantees; and a *quick round*, with as many as it takes
to find half of the changes as soon as the schedule does in year 2.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Final

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.figures import percentile
from cardsync.core import change_rate
from cardsync.core.change_rate import CADENCES, NEWCOMERS
from cardsync.core.schedule import LINE_SHARE, Candidates, Waiting, choose

YEAR_DAYS: Final = 365.0
SECONDS_A_DAY: Final = 86_400.0
CALLS_A_TICK: Final = 8
CUSTOMERS: Final = 10_000  # only proportions count: a million under a hundred times the budget come to the same
SEED: Final = 20_261_124
FIGURES: Final = ("calls_for_a_find", "calls_for_a_change", "detect_p50_days", "detect_p95_days", "worst_age_days")


@dataclass(frozen=True, slots=True)
class Population:
    """Shoppers of two kinds; rates are a year's, of one customer. ``payments`` are those of the restless that are told of.

    ``round_days`` is how long the budget takes to go round once: 14 for a million customers under 90,000 calls a day.
    """

    name: str
    restless_share: float
    restless_changes: float
    quiet_changes: float
    payments: float = 0.0
    round_days: float = 14.0

    def rates(self, customers: int) -> list[float]:
        """Each customer's silent changes a day; the restless stand first."""
        restless = round(customers * self.restless_share)
        often, seldom = self.restless_changes / YEAR_DAYS, self.quiet_changes / YEAR_DAYS
        return [often if c < restless else seldom for c in range(customers)]


# With a tenth that makes nine tenths, one of the others changes 81 times less often; where it makes 99 in 100, 891 times.
POPULATIONS: Final = (
    Population("a tenth makes 90 %, each 12 changes a year", 0.1, 12, 12 / 81),
    Population("a tenth makes 90 %, each 4 changes a year", 0.1, 4, 4 / 81),
    Population("... 12 changes, and pays every month", 0.1, 12, 12 / 81, payments=12),
    Population("a tenth makes 99 %, each 12 changes a year", 0.1, 12, 12 / 891),
    Population("a tenth makes 99 %, each 26, five million customers", 0.1, 26, 26 / 891, round_days=70),
    Population("all alike, 1 change a year", 0.0, 0, 1),
)


@dataclass(frozen=True, slots=True)
class Happening:
    """Something a shopper does: a silent change, or a payment that a notification tells of. ``at`` is in days."""

    at: float
    customer: int
    told: bool


@dataclass(slots=True)
class Tally:
    """What a run came to: calls, those that found something, changes that those found; all delays and ages, in days."""

    calls: int = 0
    finds: int = 0
    found: int = 0
    worst_age: float = 0.0
    delays: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """What is told of it."""
        return {
            "calls": self.calls,
            "calls_for_a_find": self.calls / max(1, self.finds),
            "calls_for_a_change": self.calls / max(1, self.found),
            "detect_p50_days": percentile(self.delays, 0.50),
            "detect_p95_days": percentile(self.delays, 0.95),
            "worst_age_days": self.worst_age,
        }


class World:
    """The customers of one run: what has changed at Ottu and was not seen yet, and when each was looked at last."""

    def __init__(self, customers: int, round_days: float) -> None:
        self.unseen: list[list[float]] = [[] for _ in range(customers)]
        # Looked at in the course of one round before, in order: a year that begins in the middle of things.
        self.looked_at = [-round_days * (customers - c) / customers for c in range(customers)]
        self.tally = Tally()

    def look(self, customer: int, now: float, *, routine: bool) -> bool:
        """Look at a customer; whether anything had changed."""
        unseen = self.unseen[customer]
        found = bool(unseen)
        self.tally.delays += [now - at for at in unseen]
        self.tally.worst_age = max(self.tally.worst_age, now - self.looked_at[customer])
        if routine:
            self.tally.calls += 1
            self.tally.finds += found
            self.tally.found += len(unseen)
        unseen.clear()
        self.looked_at[customer] = now
        return found


def happenings(population: Population, customers: int, days: float, seed: int) -> list[Happening]:
    """What all shoppers do in that time, in order."""
    dice = random.Random(seed)  # noqa: S311  (not for secrets)
    found: list[Happening] = []
    restless = round(customers * population.restless_share)
    for customer, rate in enumerate(population.rates(customers)):
        payments = population.payments / YEAR_DAYS if customer < restless else 0.0
        for often, told in ((rate, False), (payments, True)):
            at = dice.expovariate(often) if often else days
            while at < days:
                found.append(Happening(at, customer, told))
                at += dice.expovariate(often)
    return sorted(found, key=lambda h: h.at)


class Scheduled:
    """The registry's side of a run: what it keeps of each customer, and the lines that an index keeps in production."""

    def __init__(self, world: World, known: Sequence[float] | None) -> None:
        customers = len(world.looked_at)
        self._world, self._known = world, known
        self._changes, self._days = [0.0] * customers, [0.0] * customers
        self._cadence = [NEWCOMERS] * customers if known is None else [change_rate.cadence_of(rate) for rate in known]
        self._lines: list[deque[tuple[float, int]]] = [deque() for _ in range(CADENCES)]
        for customer, cadence in enumerate(self._cadence):
            self._lines[cadence].append((world.looked_at[customer], customer))
        self._dealt = 0

    def next(self, calls: int, now: float) -> list[int]:
        """Choose the customers that a tick's calls go to."""
        candidates = Candidates(
            {c: list(islice(self._waiting(c, now), calls)) for c in range(CADENCES) if self._lines[c]}
        )
        chosen = choose(candidates, turn=self._dealt, limit=calls)
        self._dealt += len(chosen)
        return chosen

    def look(self, customer: int, now: float, *, routine: bool) -> None:
        """Look at a customer, and take into account what was found."""
        gap = now - self._world.looked_at[customer]
        found = self._world.look(customer, now, routine=routine)
        changes, days = change_rate.watched(self._changes[customer], self._days[customer], gap, found)
        self._changes[customer], self._days[customer] = changes, days
        rate = change_rate.rate(changes, days, active=not routine, has_cards=True)
        cadence = change_rate.cadence_of(rate if self._known is None else self._known[customer])
        self._cadence[customer] = cadence
        self._lines[cadence].append((now, customer))

    def by_cadence(self) -> list[int]:
        """How many customers have each cadence."""
        return [self._cadence.count(c) for c in range(CADENCES)]

    def _waiting(self, cadence: int, now: float) -> Iterator[Waiting]:
        """Those of one cadence in the order of their last looks; what was noted before a later look is dropped at the head."""
        line = self._lines[cadence]
        while line and not self._stands(cadence, line[0]):
            line.popleft()
        for at, customer in line:
            if self._stands(cadence, (at, customer)):
                yield Waiting(customer, (now - at) * SECONDS_A_DAY)

    def _stands(self, cadence: int, entry: tuple[float, int]) -> bool:
        at, customer = entry
        return self._world.looked_at[customer] == at and self._cadence[customer] == cadence


def round_robin(told: Sequence[Happening], customers: int, round_days: float, years: int = 1) -> list[Tally]:
    """Go through all customers in one order, over and over; a tally for each year."""
    world, turn = World(customers, round_days), 0

    def hint(customer: int, now: float) -> None:
        world.look(customer, now, routine=False)

    tallies = []
    for year in range(years):
        world.tally = Tally()
        tallies.append(world.tally)
        for now in _ticks(world, told, customers / round_days, year, hint):
            for customer in range(turn, turn + CALLS_A_TICK):
                world.look(customer % customers, now, routine=True)
            turn += CALLS_A_TICK
    return tallies


def scheduled(
    told: Sequence[Happening],
    customers: int,
    round_days: float,
    years: int = 1,
    *,
    known: Sequence[float] | None = None,
) -> tuple[list[Tally], list[int]]:
    """Let the schedule decide, by history or by ``known`` rates; a tally for each year, and the cadences at the end."""
    world = World(customers, round_days)
    registry = Scheduled(world, known)

    def hint(customer: int, now: float) -> None:
        registry.look(customer, now, routine=False)

    tallies = []
    for year in range(years):
        world.tally = Tally()
        tallies.append(world.tally)
        for now in _ticks(world, told, customers / round_days, year, hint):
            for customer in registry.next(CALLS_A_TICK, now):
                registry.look(customer, now, routine=True)
    return tallies, registry.by_cadence()


def _ticks(
    world: World, told: Sequence[Happening], calls_a_day: float, year: int, hint: Callable[[int, float], None]
) -> Iterator[float]:
    """Let a year pass in ticks of a few calls; what shoppers do meanwhile has happened by the tick's end."""
    tick, begin, end = CALLS_A_TICK / calls_a_day, year * YEAR_DAYS, (year + 1) * YEAR_DAYS
    now, happenings_left = begin, (happening for happening in told if happening.at >= begin)
    happening = next(happenings_left, None)
    while (now := now + tick) < end:
        while happening is not None and happening.at <= now:
            if happening.told:
                hint(happening.customer, happening.at)
            else:
                world.unseen[happening.customer].append(happening.at)
            happening = next(happenings_left, None)
        yield now


def compare(population: Population, customers: int = CUSTOMERS, seed: int = SEED) -> dict[str, Any]:
    """Run all policies on one population."""
    told = happenings(population, customers, 2 * YEAR_DAYS, seed)
    days = population.round_days
    (first, second), cadences = scheduled(told, customers, days, years=2)
    (known,), _ = scheduled(told, customers, days, known=population.rates(customers))
    runs = {
        "round": round_robin(told, customers, days)[0],
        "scheduled, year 1": first,
        "scheduled, year 2": second,
        "scheduled, known": known,
        "slow round": round_robin(told, customers, days / LINE_SHARE)[0],
    }
    rows = {name: tally.figures() for name, tally in runs.items()}
    # In a round half of the changes are found within half of it: this one finds them as soon as the schedule does.
    as_soon = 2 * rows["scheduled, year 2"]["detect_p50_days"]
    rows["quick round"] = round_robin(told, customers, as_soon)[0].figures()
    return {**asdict(population), "customers": customers, "cadences": cadences, "runs": rows}


def run(tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Run all populations; a minute or so on one core."""
    found = []
    for population in POPULATIONS:
        tell(f"schedule: {population.name}")
        found.append(compare(population))
    return found


def show(console: Console, compared: dict[str, Any]) -> None:
    """Print the figures of one population as a table."""
    console.print(
        f"\n{compared['name']}: {compared['customers']:,} customers, a round in {compared['round_days']:g} days.\n"
        "Calls in a year, for a look that finds something, for a change; days until a change is found; the oldest look."
    )
    table = Table("", box=SIMPLE)
    for name in ("calls", "a find", "a change", "p50 d", "p95 d", "worst d"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, run_of in compared["runs"].items():
        table.add_row(name, f"{run_of['calls']:,}", *(f"{run_of[key]:.1f}" for key in FIGURES))
    console.print(table)
