"""The first question: how many hints a second can be acknowledged durably, and how long does an answer take?

Every contender gets the same bodies in the same round. At the end each table must hold as many rows as were acknowledged:
a figure for something that was lost is no figure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from benchmarks import bodies, figures
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


def run(ground: Ground, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure all contenders in turn. Raises ``LostError`` or ``NotAcknowledgedError``."""
    ours = Cardsync(ground)
    contenders: list[Contender] = [ours, Pgbench(ground, ours)]
    rejected: list[DjangoPeer] = []
    if plan.with_django:
        peer, rejected = _best_peer(ground, plan, say)
        contenders.append(peer)
    if plan.with_worker:
        contenders.append(Cardsync(ground, beside=True))
    rounds: dict[str, list[Figures]] = {c.name: [] for c in contenders}
    prepared = round(BODIES_A_SECOND * plan.seconds)
    for number in range(1, plan.rounds + 1):
        sent = bodies.notifications(prepared, seed=f"round-{number}")
        for contender in contenders:
            measured = contender.measure(Round(plan.connections, plan.workers, plan.seconds, sent))
            prepared *= 2 if measured.ran_out else 1
            rounds[contender.name].append(figures.of_round(measured))
            rate = rounds[contender.name][-1]["per_second"]
            say(f"round {number} of {plan.rounds}: {contender.name}: {rate:,.0f} a second")
    return {
        "plan": {
            "rounds": plan.rounds,
            "seconds": plan.seconds,
            "connections": plan.connections,
            "workers": plan.workers,
        },
        "body_bytes": len(sent[0]),
        "contenders": {name: {"rounds": r, **figures.medians(r)} for name, r in rounds.items()},
        "ratios": {name: figures.ratio(rounds[ours.name], r) for name, r in rounds.items() if name != ours.name},
        "rows": {c.name: _rows(c) for c in (*contenders, *rejected)},
    }


def _best_peer(ground: Ground, plan: Plan, say: Callable[[str], None]) -> tuple[DjangoPeer, list[DjangoPeer]]:
    """The peer with that kind of gunicorn's workers which serves it best here, and those with the others."""
    sent = bodies.notifications(round(BODIES_A_SECOND * plan.seconds), seed="choice")
    asked = Round(plan.connections, plan.workers, plan.seconds, sent)
    found: list[tuple[float, DjangoPeer]] = []
    for kind in GUNICORNS:
        peer = DjangoPeer(ground, kind, threads=plan.threads)
        rate = figures.of_round(peer.measure(asked))["per_second"]
        say(f"choosing the peer's best: {peer.name}: {rate:,.0f} a second")
        found.append((rate, peer))
    best = max(found, key=lambda pair: pair[0])[1]
    return best, [peer for _, peer in found if peer is not best]


def _rows(contender: Contender) -> dict[str, int]:
    """What was acknowledged and what is there. Raises ``LostError`` if they differ."""
    acknowledged, stored = contender.acknowledged_in_all, contender.stored()
    if stored != acknowledged:
        raise LostError(f"{contender.name}: {acknowledged} acknowledged, {stored} stored")
    return {"acknowledged": acknowledged, "stored": stored}
