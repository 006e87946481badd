"""The first question: how many hints a second can be acknowledged durably, and how long does an answer take?

Every contender gets the same bodies in the same round. At the end each table must hold as many rows as were acknowledged:
a figure for something that was lost is no figure. With another checkout to compare with, the two are the only contenders: the
fewer there are, the closer in time are the rounds of a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks import bodies, figures
from benchmarks.checkouts import Checkout
from benchmarks.contenders import Cardsync, Contender, DjangoPeer, Pgbench, Round
from benchmarks.figures import Figures
from benchmarks.stack import Ground

BODIES_A_SECOND: Final = 8_000  # more than any contender takes on two cores; doubled when they run out
GUNICORNS: Final = ("gthread", "sync")


class LostError(Exception):
    """A table does not hold what was acknowledged."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run. ``threads`` are the peer's where it has any; ours are cardsync's own default."""

    rounds: int = 6
    seconds: float = 3.0
    connections: int = 32
    workers: int = 2
    threads: int = 8
    with_django: bool = True
    with_worker: bool = True
    against: Checkout | None = None


def run(ground: Ground, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure all contenders in turn. Raises ``LostError`` or ``NotAcknowledgedError``."""
    ours = Cardsync(ground)
    rejected: list[DjangoPeer] = []
    contenders: list[Contender] = [ours]
    if plan.against:
        contenders.append(Cardsync(ground, plan.against))
    else:
        contenders.append(Pgbench(ground, ours))
        if plan.with_django:
            peer, rejected = _best_peer(ground, plan, say)
            contenders.append(peer)
        if plan.with_worker:
            contenders.append(Cardsync(ground, beside=True))
    rounds, body_bytes = _rounds(contenders, plan, say)
    return {
        "plan": {
            "rounds": plan.rounds,
            "seconds": plan.seconds,
            "connections": plan.connections,
            "workers": plan.workers,
        },
        "body_bytes": body_bytes,
        **compared(rounds, ours.name),
        "rows": {c.name: counted(c) for c in (*contenders, *rejected)},
    }


def compared(rounds: Mapping[str, list[Figures]], ours: str) -> dict[str, Any]:
    """Each contender's medians and rounds, and what ``ours`` is beside each of the others."""
    others = {name: r for name, r in rounds.items() if name != ours}
    return {
        "contenders": {name: {"rounds": r, **figures.medians(r)} for name, r in rounds.items()},
        "ratios": {name: figures.ratio(rounds[ours], r) for name, r in others.items()},
        "ratios_of_p99": {name: figures.ratio(rounds[ours], r, "p99_ms") for name, r in others.items()},
    }


def counted(contender: Contender) -> dict[str, int]:
    """What was acknowledged and what is there. Raises ``LostError`` if they differ."""
    acknowledged, stored = contender.acknowledged_in_all, contender.stored()
    if stored != acknowledged:
        raise LostError(f"{contender.name}: {acknowledged} acknowledged, {stored} stored")
    return {"acknowledged": acknowledged, "stored": stored}


def _rounds(
    contenders: Sequence[Contender], plan: Plan, say: Callable[[str], None]
) -> tuple[dict[str, list[Figures]], int]:
    """All rounds in turn, in the same round the same bodies for all; and the bytes of one."""
    rounds: dict[str, list[Figures]] = {c.name: [] for c in contenders}
    prepared = round(BODIES_A_SECOND * plan.seconds)
    sent: list[bytes] = []
    seed = ""
    for number, contender in figures.in_turn(contenders, plan.rounds):
        if seed != f"round-{number}":
            seed = f"round-{number}"
            sent = bodies.notifications(prepared, seed=seed)
        measured = contender.measure(Round(plan.connections, plan.workers, plan.seconds, sent, len(sent) // 10))
        prepared *= 2 if measured.ran_out else 1
        rounds[contender.name].append(figures.of_round(measured))
        rate = rounds[contender.name][-1]["per_second"]
        say(f"round {number} of {plan.rounds}: {contender.name}: {rate:,.0f} a second")
    return rounds, len(sent[0])


def _best_peer(ground: Ground, plan: Plan, say: Callable[[str], None]) -> tuple[DjangoPeer, list[DjangoPeer]]:
    """The peer with that kind of gunicorn's workers which serves it best here, and those with the others."""
    sent = bodies.notifications(round(BODIES_A_SECOND * plan.seconds), seed="choice")
    asked = Round(plan.connections, plan.workers, plan.seconds, sent, len(sent) // 10)
    found: list[tuple[float, DjangoPeer]] = []
    for kind in GUNICORNS:
        peer = DjangoPeer(ground, kind, threads=plan.threads)
        rate = figures.of_round(peer.measure(asked))["per_second"]
        say(f"choosing the peer's best: {peer.name}: {rate:,.0f} a second")
        found.append((rate, peer))
    best = max(found, key=lambda pair: pair[0])[1]
    return best, [peer for _, peer in found if peer is not best]


def show(console: Console, found: dict[str, Any]) -> None:
    """Print the figures as a table."""
    plan = found["plan"]
    console.print(
        f"\nAcknowledged durable hints: {plan['connections']} connections, {plan['workers']} workers, {plan['rounds']}"
        f" rounds of {plan['seconds']:g} s in turn, {found['body_bytes']:,} bytes each. Medians (lowest to highest)."
    )
    table = Table(box=SIMPLE)
    table.add_column("", overflow="fold")
    for name in ("a second", "p50 ms", "p99 ms", "web", "PG", "cardsync is"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in found["contenders"].items():
        rate = f"{row['per_second']:,.0f} ({row['lowest_per_second']:,.0f} to {row['highest_per_second']:,.0f})"
        times = (f"{row['p50_ms']:.1f}", f"{row['p99_ms']:.1f}", *processor_cells(row))
        table.add_row(name, rate, *times, figures.as_times(found["ratios"].get(name)))
    console.print(table)
    say_counted(console, found)


def processor_cells(row: Figures) -> tuple[str, str]:
    """Processor time a hint of the web's processes and of PostgreSQL's, in milliseconds; PostgreSQL alone has no web."""
    web, postgresql = (row.get(f"{part}_processor_ms") for part in ("web", "postgresql"))
    return "" if web is None else f"{web:.3f}", "" if postgresql is None else f"{postgresql:.3f}"


def say_counted(console: Console, found: dict[str, Any]) -> None:
    """Say what stands in the tables, and that the processor's columns are for one hint."""
    rows = sum(r["stored"] for r in found["rows"].values())
    console.print(
        f"web, PG: processor ms for one hint, of the web's and PostgreSQL's processes. {rows:,} acknowledged, {rows:,} counted."
    )
