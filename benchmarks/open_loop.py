"""How long does an answer take at a rate that others choose, as payers do (``offered``), counted from the planned moment?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks import bodies, figures
from benchmarks.checkouts import HERE, Checkout
from benchmarks.contenders import Cardsync, Round
from benchmarks.figures import Figures
from benchmarks.hints import compared, counted, processor_cells, say_counted
from benchmarks.stack import Ground

PER_SECOND: Final = 500.0
WARM_UP: Final = 1_000


@dataclass(frozen=True, slots=True)
class Plan:
    """The number of rounds, their seconds, and the hints planned for each second."""

    rounds: int = 6
    seconds: float = 3.0
    per_second: float = PER_SECOND
    connections: int = 32
    workers: int = 2
    against: Checkout | None = None


def run(ground: Ground, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure this checkout, and the other one in turn. Raises ``LostError`` or ``NotAcknowledgedError``."""
    contenders = [Cardsync(ground, of) for of in (HERE, *([plan.against] if plan.against else ()))]
    rounds: dict[str, list[Figures]] = {c.name: [] for c in contenders}
    prepared = WARM_UP + round(plan.per_second * plan.seconds)
    for number, contender in figures.in_turn(contenders, plan.rounds):
        sent = bodies.notifications(prepared, seed=f"open-{number}")
        asked = Round(plan.connections, plan.workers, plan.seconds, sent, WARM_UP, plan.per_second)
        found = figures.of_round(contender.measure(asked))
        rounds[contender.name].append(found)
        say(
            f"round {number} of {plan.rounds}: {contender.name}: p50 {found['p50_ms']:.1f}, p99 {found['p99_ms']:.1f} ms"
        )
    return {
        "plan": {
            "rounds": plan.rounds,
            "seconds": plan.seconds,
            "per_second": plan.per_second,
            "connections": plan.connections,
            "workers": plan.workers,
        },
        **compared(rounds, HERE.name),
        "rows": {c.name: counted(c) for c in contenders},
    }


def show(console: Console, found: dict[str, Any]) -> None:
    """Print the figures as a table."""
    plan = found["plan"]
    console.print(
        f"\nHints offered at {plan['per_second']:g} a second: {plan['rounds']} rounds of {plan['seconds']:g} s in turn,"
        f" {plan['connections']} connections, {plan['workers']} workers. Times from the planned moment; medians of the rounds."
    )
    table = Table("", box=SIMPLE)
    for name in ("p50 ms", "p99 ms", "max ms", "web", "PG", "cardsync's p99 is"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in found["contenders"].items():
        times = (f"{row[key]:.1f}" for key in ("p50_ms", "p99_ms", "max_ms"))
        table.add_row(name, *times, *processor_cells(row), figures.as_times(found["ratios_of_p99"].get(name)))
    console.print(table)
    say_counted(console, found)
