"""What keeping bodies for an endpoint costs the way in: acknowledged hints a second with one endpoint, beside none.

With the endpoint each body is compressed, encrypted, and inserted with its delivery, in its hint's statement. No worker runs:
delivering is another process's work, and has other cores in a deployment. At the end as many bodies as hints must be there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks import bodies, figures, hints, stack
from benchmarks.contenders import Cardsync, Round
from benchmarks.figures import Figures
from benchmarks.stack import Ground

WANTED: Final = 0.7  # with one endpoint at least this share of the hints a second


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run."""

    rounds: int = 6
    seconds: float = 3.0
    connections: int = 32
    workers: int = 2


def run(ground: Ground, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure both in turn, with the same bodies. Raises ``LostError``."""
    without, with_one = Cardsync(ground), Cardsync(ground, relaying=True)
    rounds: dict[str, list[Figures]] = {without.name: [], with_one.name: []}
    for number, contender in figures.in_turn([without, with_one], plan.rounds):
        sent = bodies.notifications(round(hints.BODIES_A_SECOND * plan.seconds), seed=f"relay-{number}")
        asked = Round(plan.connections, plan.workers, plan.seconds, sent, len(sent) // 10)
        rounds[contender.name].append(figures.of_round(contender.measure(asked)))
        say(
            f"round {number} of {plan.rounds}: {contender.name}: {rounds[contender.name][-1]['per_second']:,.0f} a second"
        )
    rows = {one.name: hints.counted(one) for one in (without, with_one)}
    kept = stack.value(with_one.database_url, "SELECT count(*) FROM cardsync.kept_bodies WHERE body IS NOT NULL")
    if kept != rows[with_one.name]["stored"]:
        raise hints.LostError(f"{rows[with_one.name]['stored']} hints stored, {kept} bodies kept")
    return {
        "contenders": {name: {"rounds": found, **figures.medians(found)} for name, found in rounds.items()},
        "ratio": figures.ratio(rounds[with_one.name], rounds[without.name]),
        "wanted": WANTED,
        "rows": rows,
    }


def show(console: Console, found: dict[str, Any]) -> None:
    """Print the figures as a table."""
    console.print("\nAcknowledged durable hints, without and with an endpoint that gets notifications. Medians.")
    table = Table(box=SIMPLE)
    table.add_column("", overflow="fold")
    for name in ("a second", "p50 ms", "p99 ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in found["contenders"].items():
        table.add_row(name, f"{row['per_second']:,.0f}", f"{row['p50_ms']:.1f}", f"{row['p99_ms']:.1f}")
    console.print(table)
    console.print(f"With the endpoint {figures.as_times(found['ratio'])} (wanted: at least {found['wanted']:g}).")
