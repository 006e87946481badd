"""``make bench``, or ``python benchmarks/run.py``: all benchmarks, as tables or as JSON.

    python benchmarks/run.py [--only hints|open-loop|active|capacity|flood|imports|forgetting|relay|console|schedule ...]
                             [--against REF] [--json]

``--against REF`` measures the commit REF beside this checkout, in turn, and prints ratios (``checkouts``).

To add a benchmark: a module with a ``Plan``, ``run(ground, plan, say)`` and ``show(console, found)``, and a line in ``SERVED``.
One that can compare has ``against`` in its plan, and hands a ``Checkout`` to ``Ground.database``, ``stack.web``, ``stack.worker``
or ``stack.cardsync``.

The schedule is a simulation, and needs the processor alone. Of the machine nothing is used but a folder under /var/tmp, free
ports of 127.0.0.1 and, for another commit, a folder in .venv. Only that one stays, for the next time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

# Run as a file, Python looks beside it; the package `benchmarks` stands one up.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import (
    active,
    capacity,
    checkouts,
    console,
    figures,
    flood,
    forgetting,
    hints,
    imports,
    open_loop,
    relay,
    schedule,
    stack,
)
from benchmarks.checkouts import Checkout
from benchmarks.stack import Ground

PAPER_WIDTH: Final = 110  # characters, where no terminal says its own
IMPORT_ROUNDS_MAX: Final = 3  # one takes as long as all rounds of hints
FLOOD_ROUNDS_MAX: Final = 3
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What the command was asked for; ``None`` where a benchmark has its own default."""

    rounds: int
    seconds: float
    connections: int
    workers: int
    without_django: bool
    without_worker: bool
    hint_count: int
    rate: float | None
    lines: int
    customers: int
    against: Checkout | None


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One that needs servers. ``compares``: it can measure another checkout beside this one."""

    run: Callable[[Ground, Options, Say], dict[str, Any]]
    show: Callable[[Console, dict[str, Any]], None]
    compares: bool = False


def _hints(ground: Ground, asked: Options, say: Say) -> dict[str, Any]:
    plan = hints.Plan(
        rounds=asked.rounds,
        seconds=asked.seconds,
        connections=asked.connections,
        workers=asked.workers,
        with_django=not asked.without_django,
        with_worker=not asked.without_worker,
        against=asked.against,
    )
    return hints.run(ground, plan, say)


def _open_loop(ground: Ground, asked: Options, say: Say) -> dict[str, Any]:
    rate = asked.rate or open_loop.PER_SECOND
    plan = open_loop.Plan(asked.rounds, asked.seconds, rate, asked.connections, asked.workers, asked.against)
    return open_loop.run(ground, plan, say)


def _active(ground: Ground, asked: Options, say: Say) -> dict[str, Any]:
    return active.run(ground, active.Plan(asked.hint_count, asked.rate or active.PER_SECOND, asked.workers), say)


def _capacity(ground: Ground, asked: Options, say: Say) -> dict[str, Any]:
    return capacity.run(ground, capacity.Plan(asked.rounds, asked.hint_count, asked.workers, asked.against), say)


def _flood(ground: Ground, asked: Options, say: Say) -> dict[str, Any]:
    rate = asked.rate or flood.PER_SECOND
    return flood.run(
        ground, flood.Plan(min(asked.rounds, FLOOD_ROUNDS_MAX), asked.hint_count, rate, asked.workers), say
    )


def _imports(ground: Ground, asked: Options, say: Say) -> dict[str, Any]:
    plan = imports.Plan(asked.lines, min(asked.rounds, IMPORT_ROUNDS_MAX), asked.against)
    return imports.run(ground, plan, say)


def _forgetting(ground: Ground, asked: Options, say: Say) -> dict[str, Any]:
    return forgetting.run(ground, forgetting.Plan(asked.rounds, asked.seconds, workers=asked.workers), say)


def _relay(ground: Ground, asked: Options, say: Say) -> dict[str, Any]:
    return relay.run(ground, relay.Plan(asked.rounds, asked.seconds, asked.connections, asked.workers), say)


def _console(ground: Ground, asked: Options, say: Say) -> dict[str, Any]:
    return console.run(ground, console.Plan(asked.customers, asked.rounds), say)


SERVED: Final[dict[str, Benchmark]] = {
    "hints": Benchmark(_hints, hints.show, compares=True),
    "open-loop": Benchmark(_open_loop, open_loop.show, compares=True),
    "active": Benchmark(_active, active.show),
    "capacity": Benchmark(_capacity, capacity.show, compares=True),
    "flood": Benchmark(_flood, flood.show),
    "imports": Benchmark(_imports, imports.show, compares=True),
    "forgetting": Benchmark(_forgetting, forgetting.show),
    "relay": Benchmark(_relay, relay.show),
    "console": Benchmark(_console, console.show),
}
QUESTIONS: Final = (*SERVED, "schedule")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", type=click.Choice(QUESTIONS), multiple=True, help="This one; may be repeated.")
@click.option("--against", "ref", metavar="REF", help="Measure this commit beside, and only what can compare.")
@click.option("--rounds", default=6, show_default=True, type=click.IntRange(1), help="Rounds of each contender.")
@click.option("--seconds", default=3.0, show_default=True, type=click.FloatRange(0.2), help="One round.")
@click.option("--connections", default=32, show_default=True, type=click.IntRange(1, 1_000), help="At once.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 64), help="Web processes of each.")
@click.option("--without-django", is_flag=True, help="Leave the peer out.")
@click.option("--without-worker", is_flag=True, help="Leave out the rounds with a worker running beside.")
@click.option(
    "--hints",
    "hint_count",
    default=300,
    show_default=True,
    type=click.IntRange(1),
    help="Hint to active, capacity, flood.",
)
@click.option("--rate", type=click.FloatRange(0.1), help="Open loop, hint to active, flood: hints a second.")
@click.option("--lines", default=300_000, show_default=True, type=click.IntRange(1), help="Imports: the file's lines.")
@click.option("--customers", default=100_000, show_default=True, type=click.IntRange(1_000), help="Console: how many.")
@click.option("--folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Where data are kept.")
@click.option("--json", "as_json", is_flag=True, help="The figures of every round, for programs.")
def main(only: tuple[str, ...], ref: str | None, folder: Path | None, as_json: bool, **given: Any) -> None:
    """Measure cardsync beside PostgreSQL alone, the webhook view of ottu.contrib.django, or another commit of itself."""
    told = Console(stderr=True, highlight=False)
    wanted = only or tuple(name for name in QUESTIONS if ref is None or _compares(name))
    if ref is not None and (alone := [name for name in wanted if not _compares(name)]):
        raise click.UsageError(f"--against has no meaning for {', '.join(alone)}")
    try:
        against = None if ref is None else checkouts.installed(ref, told.print)
    except checkouts.NoSuchCommitError as error:
        raise click.UsageError(str(error)) from None
    found: dict[str, Any] = {}
    if "schedule" in wanted:
        found["schedule"] = schedule.run(told.print)
    if served := {name: one for name, one in SERVED.items() if name in wanted}:
        found |= _measure(served, Options(**given, against=against), folder, told.print)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _show(found)


def _compares(name: str) -> bool:
    return name in SERVED and SERVED[name].compares


def _measure(served: Mapping[str, Benchmark], asked: Options, folder: Path | None, say: Say) -> dict[str, Any]:
    """Measure what needs servers, on a ground of its own."""
    with Ground.laid(folder) as ground:
        settings = {name: str(stack.value(ground.postgres.url, f"SHOW {name}")) for name in stack.DURABLE}
        machine = figures.machine(ground.postgres.version, settings)
        return {"machine": machine, **{name: one.run(ground, asked, say) for name, one in served.items()}}


def _show(found: dict[str, Any]) -> None:
    paper = Console(highlight=False)
    if not paper.is_terminal:
        paper.width = PAPER_WIDTH
    for compared in found.get("schedule", []):
        schedule.show(paper, compared)
    if "machine" in found:
        _show_machine(paper, found["machine"])
    for name, one in SERVED.items():
        if name in found:
            one.show(paper, found[name])


def _show_machine(paper: Console, machine: dict[str, Any]) -> None:
    paper.print(f"{machine['cores']} cores, {machine['processor']}, load {machine['load_before']}, {machine['system']}")
    durable = ", ".join(f"{name} {value}" for name, value in machine["postgresql_settings"].items())
    paper.print(f"PostgreSQL {machine['postgresql']} ({durable}), Python {machine['python']}")
    paper.print(", ".join(f"{name} {number}" for name, number in machine["packages"].items() if number))


if __name__ == "__main__":
    main()
