"""``cardsync plan``: forecast the schedule under the budget: ages, times to detect, and what another budget changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import click

from cardsync.cli import console
from cardsync.core import change_rate, planner
from cardsync.core.call_budget import SECONDS_A_DAY, allowed, sweeps_a_day
from cardsync.core.planner import Forecast, Group
from cardsync.settings import Settings
from cardsync.store import schedule
from cardsync.store.calls import ledger
from cardsync.store.schedule import Roll

BUDGETS: Final = {"half": 0.5, "today's": 1.0, "double": 2.0}
BAR_CHARACTERS: Final = 40
# The rungs of the plot, in days.
RUNGS: Final = {"1 h": 1 / 24, "6 h": 0.25} | {f"{days} d": float(days) for days in (1, 3, 7, 14, 30, 90, 180, 365)}


@dataclass(frozen=True, slots=True)
class Basis:
    """What a plan is made for. ``lanes`` are shares of the budget: of the last 24 hours, or estimated."""

    groups: tuple[Group, ...]
    daily_calls: int
    urgent_calls_a_day: int
    shortest_days: float
    lanes: Mapping[str, float]
    roll: Roll | None
    changes_from: str

    def forecast(self, factor: float = 1.0) -> Forecast:
        """The forecast for ``factor`` times the budget, while hints and deletions need as many calls as now."""
        routine = max(1.0, sweeps_a_day(round(self.daily_calls * factor), self.urgent_calls_a_day))
        return planner.forecast(self.groups, routine, shortest_days=self.shortest_days)


@click.command()
@click.option("--customers", type=click.IntRange(1), help="Plan for this number instead of the database's.")
@click.option("--changes-per-day", type=click.FloatRange(0, min_open=True), help="Silent changes of them all together.")
@console.json_option
def plan(customers: int | None, changes_per_day: float | None, as_json: bool) -> None:
    """Forecast how stale customers get under the budget, and how soon a silent deletion is found.

    The figures come from the database. With --customers no database is needed: a tenth of these customers is then assumed to
    make nine tenths of the changes.
    """
    if customers is None and changes_per_day is not None:
        raise click.UsageError("--changes-per-day says how --customers change; those in the database are known")
    basis = _of_the_database() if customers is None else _imagined(console.load(), customers, changes_per_day)
    forecasts = {name: basis.forecast(factor) for name, factor in BUDGETS.items()}
    if as_json:
        console.print_json(_as_data(basis, forecasts))
    else:
        _show(basis, forecasts)


def _imagined(loaded: Settings, customers: int, changes_a_day: float | None) -> Basis:
    sweeps = allowed("sweep", loaded.ottu_daily_calls) / loaded.ottu_daily_calls
    changes = changes_a_day or customers * change_rate.PRIOR_CHANGES / change_rate.PRIOR_DAYS
    return Basis(
        groups=planner.imagined(customers, changes),
        daily_calls=loaded.ottu_daily_calls,
        urgent_calls_a_day=0,
        shortest_days=loaded.look_again_seconds / SECONDS_A_DAY,
        lanes={"sweep": sweeps, "kept for hints, reads and deletions": 1 - sweeps},
        roll=None,
        changes_from="an assumption" if changes_a_day is None else "as given",
    )


def _of_the_database() -> Basis:
    loaded = console.load("database")
    with console.engine(loaded) as engine, engine.connect() as connection:
        roll = schedule.roll(connection)
        calls = ledger.spent_by_lane(connection)
    counts = list(roll.by_cadence)
    counts[change_rate.NEWCOMERS] += roll.newcomers
    if not sum(counts):
        console.fail("no customer is known yet; plan for a number of them with --customers")
    return Basis(
        groups=planner.of_cadences(counts),
        daily_calls=loaded.ottu_daily_calls,
        urgent_calls_a_day=sum(number for lane, number in calls.items() if lane != "sweep"),
        shortest_days=loaded.look_again_seconds / SECONDS_A_DAY,
        lanes={lane: number / loaded.ottu_daily_calls for lane, number in sorted(calls.items())},
        roll=roll,
        changes_from="by the customers' history",
    )


def _as_data(basis: Basis, forecasts: Mapping[str, Forecast]) -> dict[str, Any]:
    today = forecasts["today's"]
    intervals = planner.intervals_for(basis.groups, today.routine_calls_a_day, shortest_days=basis.shortest_days)
    return {
        "from": "database" if basis.roll else "estimate",
        "daily_calls": basis.daily_calls,
        "lanes": dict(basis.lanes),
        "now": None if basis.roll is None else asdict(basis.roll),
        **_counted(asdict(today)),
        "cadences": [
            {**_counted(asdict(group)), "interval_days": intervals.intervals_days[group.cadence]}
            for group in basis.groups
        ],
        "budgets": [
            {"daily_calls": round(basis.daily_calls * BUDGETS[name]), **_counted(asdict(forecast))}
            for name, forecast in forecasts.items()
        ],
    }


def _counted(facts: dict[str, Any]) -> dict[str, Any]:
    """Customers are counted in whole numbers, though the arithmetic would take fractions."""
    return {**facts, "customers": round(facts["customers"])}


def _show(basis: Basis, forecasts: Mapping[str, Forecast]) -> None:
    today = forecasts["today's"]
    console.print_facts(_facts(basis, today))
    click.echo("\nWhat another budget would change:")
    rows = [
        {
            "budget": name,
            "calls a day": f"{basis.daily_calls * BUDGETS[name]:,.0f}",
            "worst age": span(forecast.worst_age_days),
            "median age": span(forecast.median_age_days),
            "found, half": span(forecast.detect_p50_days),
            "found, 95 %": span(forecast.detect_p95_days),
        }
        for name, forecast in forecasts.items()
    ]
    console.print_rows(list(rows[0]), rows)
    click.echo("\nSilent changes found within:")
    for name, days in RUNGS.items():
        share = planner.found_within(basis.groups, today, days, shortest_days=basis.shortest_days)
        click.echo(f"{name:>6}  {'#' * round(share * BAR_CHARACTERS):<{BAR_CHARACTERS}}  {share:4.0%}")
        if share >= 1:
            break


def _facts(basis: Basis, today: Forecast) -> dict[str, object]:
    facts: dict[str, object] = {
        "customers": f"{today.customers:,.0f}",
        "budget": f"{basis.daily_calls:,} calls a day, {today.routine_calls_a_day:,.0f} of them for routine looks",
        "worst age": f"{span(today.worst_age_days)} at the most, {span(today.oldest_days)} as a rule",
        "median age": span(today.median_age_days),
        "silent changes": f"{today.changes_a_day:,.1f} a day, {basis.changes_from}",
        "found after": f"{span(today.detect_p50_days)} (half of them), {span(today.detect_p95_days)} (95 %)",
        "looks for a find": "-" if today.looks_for_a_find is None else f"{today.looks_for_a_find:,.1f}",
    }
    lanes = ", ".join(f"{lane} {share:.1%}" for lane, share in basis.lanes.items()) or "none"
    facts["lanes, of the budget"] = f"{lanes} " + ("(last 24 hours)" if basis.roll else "(estimate)")
    if basis.roll is not None:
        now = basis.roll
        ages = [span(s / SECONDS_A_DAY) for s in (now.worst_age_seconds, now.median_age_seconds) if s is not None]
        facts["now"] = f"oldest {ages[0]}, median {ages[1]}" if ages else "no customer was looked at yet"
        facts["never looked at"] = f"{now.newcomers:,}"
        facts["dated in 30 days"] = f"{now.dated_in_a_month:,} looks, for expiring cards and expected charges"
    return facts


def span(days: float) -> str:
    """A time for people: days, hours or minutes."""
    if days >= 1:
        return f"{days:,.1f} d"
    return f"{days * 24:.1f} h" if days * 24 >= 1 else f"{days * 24 * 60:.0f} min"
