"""``make bench``, or ``python benchmarks/run.py``: all benchmarks, as tables or as JSON.

    python benchmarks/run.py [--only hints|active|imports|forgetting|schedule ...] [--rounds N] [--seconds S] [--json]

The schedule is a simulation, and needs the processor alone. Of the machine nothing is used but a folder under /var/tmp and free
ports of 127.0.0.1, and nothing is left behind.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

# Run as a file, Python looks beside it; the package `benchmarks` stands one up.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import active, figures, forgetting, hints, imports, schedule, stack
from benchmarks.stack import Ground

QUESTIONS: Final = ("hints", "active", "imports", "forgetting", "schedule")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", type=click.Choice(QUESTIONS), multiple=True, help="This one; may be repeated.")
@click.option("--rounds", default=6, show_default=True, type=click.IntRange(1), help="Rounds of each contender.")
@click.option("--seconds", default=3.0, show_default=True, type=click.FloatRange(0.2), help="One round.")
@click.option("--connections", default=32, show_default=True, type=click.IntRange(1, 1_000), help="At once.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 64), help="Web processes of each.")
@click.option("--without-django", is_flag=True, help="Leave the peer out.")
@click.option("--without-worker", is_flag=True, help="Leave out the rounds with a worker running beside.")
@click.option("--hints", "hint_count", default=300, show_default=True, type=click.IntRange(1), help="Hint to active.")
@click.option("--rate", default=10.0, show_default=True, type=click.FloatRange(0.1), help="Hint to active: a second.")
@click.option("--lines", default=300_000, show_default=True, type=click.IntRange(1), help="Imports: the file's lines.")
@click.option("--folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Where data are kept.")
@click.option("--json", "as_json", is_flag=True, help="The figures of every round, for programs.")
def main(
    only: tuple[str, ...],
    rounds: int,
    seconds: float,
    connections: int,
    workers: int,
    without_django: bool,
    without_worker: bool,
    hint_count: int,
    rate: float,
    lines: int,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Measure cardsync beside PostgreSQL alone and the webhook view of ottu.contrib.django; its schedule beside a round."""
    told = Console(stderr=True, highlight=False)
    wanted = only or QUESTIONS
    found: dict[str, Any] = {}
    plan = hints.Plan(
        rounds=rounds,
        seconds=seconds,
        connections=connections,
        workers=workers,
        with_django=not without_django,
        with_worker=not without_worker,
    )
    served: dict[str, Callable[[Ground], Any]] = {
        "hints": lambda ground: hints.run(ground, plan, told.print),
        "active": lambda ground: active.run(ground, active.Plan(hint_count, rate, workers), told.print),
        "imports": lambda ground: imports.run(ground, imports.Plan(lines, min(rounds, 3)), told.print),
        "forgetting": lambda ground: forgetting.run(
            ground, forgetting.Plan(rounds, seconds, workers=workers), told.print
        ),
    }
    if "schedule" in wanted:
        found["schedule"] = schedule.run(told.print)
    if asked := {name: run for name, run in served.items() if name in wanted}:
        found |= _measure(asked, folder)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _show(found)


def _measure(served: Mapping[str, Callable[[Ground], Any]], folder: Path | None) -> dict[str, Any]:
    """Measure what needs servers, on a ground of its own."""
    with Ground.laid(folder) as ground:
        settings = {name: str(stack.value(ground.postgres.url, f"SHOW {name}")) for name in stack.DURABLE}
        machine = figures.machine(ground.postgres.version, settings)
        return {"machine": machine, **{name: run(ground) for name, run in served.items()}}


def _show(found: dict[str, Any]) -> None:
    console = Console(highlight=False)
    for compared in found.get("schedule", []):
        _show_schedule(console, compared)
    if "machine" in found:
        _show_machine(console, found["machine"])
    if "hints" in found:
        _show_hints(console, found["hints"])
    if "active" in found:
        _show_active(console, found["active"])
    if "imports" in found:
        _show_imports(console, found["imports"])
    if "forgetting" in found:
        _show_forgetting(console, found["forgetting"])


def _show_machine(console: Console, machine: dict[str, Any]) -> None:
    console.print(
        f"{machine['cores']} cores, {machine['processor']}, load {machine['load_before']}, {machine['system']}"
    )
    durable = ", ".join(f"{name} {value}" for name, value in machine["postgresql_settings"].items())
    console.print(f"PostgreSQL {machine['postgresql']} ({durable}), Python {machine['python']}")
    console.print(", ".join(f"{name} {number}" for name, number in machine["packages"].items() if number))


def _show_schedule(console: Console, compared: dict[str, Any]) -> None:
    console.print(
        f"\n{compared['name']}: {compared['customers']:,} customers, a round in {compared['round_days']:g} days.\n"
        "Calls in a year, for a look that finds something, for a change; days until a change is found; the oldest look."
    )
    table = Table("", box=SIMPLE)
    for name in ("calls", "a find", "a change", "p50 d", "p95 d", "worst d"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, run in compared["runs"].items():
        figures_of_run = [f"{run[key]:.1f}" for key in schedule.FIGURES]
        table.add_row(name, f"{run['calls']:,}", *figures_of_run)
    console.print(table)


def _show_hints(console: Console, found: dict[str, Any]) -> None:
    plan = found["plan"]
    console.print(
        f"\nAcknowledged durable hints: {plan['connections']} connections, {plan['workers']} workers, {plan['rounds']}"
        f" rounds of {plan['seconds']:g} s in turn, {found['body_bytes']:,} bytes each. Medians (lowest to highest)."
    )
    table = Table(box=SIMPLE)
    table.add_column("", overflow="fold")
    for name in ("a second", "p50 ms", "p99 ms", "cardsync is"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in found["contenders"].items():
        rate = f"{row['per_second']:,.0f} ({row['lowest_per_second']:,.0f} to {row['highest_per_second']:,.0f})"
        ratio = found["ratios"].get(name)
        times = f"{ratio['median']:.2f} x ({ratio['lowest']:.2f} to {ratio['highest']:.2f})" if ratio else ""
        table.add_row(name, rate, f"{row['p50_ms']:.1f}", f"{row['p99_ms']:.1f}", times)
    console.print(table)
    rows = sum(r["stored"] for r in found["rows"].values())
    console.print(f"Every acknowledged hint is in its table: {rows:,} rows counted, none missing.")


def _show_active(console: Console, found: dict[str, Any]) -> None:
    plan = found["plan"]
    console.print(
        f"\nHint to active card: {plan['hints']} hints, {plan['per_second']:g} a second,"
        f" Ottu answers in {plan['ottu_ms']:g} ms (the floor)."
    )
    table = Table("", box=SIMPLE)
    for name in ("p50 ms", "p99 ms"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row("sent to seen as active", f"{found['p50_ms']:.1f}", f"{found['p99_ms']:.1f}", style="bold")
    table.add_row("above the floor", *(f"{found[k] - plan['ottu_ms']:.1f}" for k in ("p50_ms", "p99_ms")))
    for label, step in found["steps"].items():
        table.add_row(f"  {label}", f"{step['p50_ms']:.1f}", f"{step['p99_ms']:.1f}")
    console.print(table)


def _show_imports(console: Console, found: dict[str, Any]) -> None:
    plan = found["plan"]
    console.print(
        f"\nImports: {plan['lines']:,} lines ({plan['file_bytes'] / 1e6:,.0f} MB), rounds in turn: {plan['rounds']}."
    )
    table = Table("", box=SIMPLE)
    for name in ("lines a second", "seconds", "peak MB", "cardsync is"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in found["ways"].items():
        ratio = found["ratios"].get(name)
        times = f"{ratio['median']:.2f} x ({ratio['lowest']:.2f} to {ratio['highest']:.2f})" if ratio else ""
        cells = (f"{row['per_second']:,.0f}", f"{row['seconds']:,.1f}", f"{row['peak_megabytes']:,.0f}", times)
        table.add_row(name, *cells)
    console.print(table)


def _show_forgetting(console: Console, found: dict[str, Any]) -> None:
    plan, beside = found["plan"], found["beside"]
    console.print(
        f"\nForgetting beside {plan['per_second']:g} hints a second: {plan['rounds']} pairs of rounds of"
        f" {plan['seconds']:g} s. Medians (lowest to highest)."
    )
    table = Table("", box=SIMPLE)
    for name in ("p50 ms", "p99 ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for label, row in (("hints alone", found["alone"]), ("while old rows are forgotten", beside)):
        table.add_row(label, f"{row['p50_ms']:.1f}", f"{row['p99_ms']:.1f}")
    ratios = [found["ratios"][name] for name in ("p50_ms", "p99_ms")]
    table.add_row("ratio", *(f"{r['median']:.2f} x ({r['lowest']:.2f} to {r['highest']:.2f})" for r in ratios))
    console.print(table)
    console.print(f"{beside['content']:,.0f} rows a second shed their content, {beside['hint']:,.0f} a second went.")


if __name__ == "__main__":
    main()
