"""What do altered bodies of one genuine signature cost the honest hints beside them?

A whole system runs, and honest notifications come at a steady rate. Three conditions take turns: nothing else; as many requests
to ``/livez``, which say what the load alone costs on these cores; the flood, half of it copies, half altered bodies with another
customer and card each. Its difference from the second condition is what cardsync does with it. The flood comes from a process of
its own, over as many connections as one address may have.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import random
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks import active, bodies, figures, stack, stand_in
from benchmarks.checkouts import HERE
from benchmarks.figures import Figures
from benchmarks.offered import offer
from benchmarks.stack import Ground

PER_SECOND: Final = 20.0
FLOOD_PER_SECOND: Final = 1_000.0
CONNECTIONS: Final = 256
AHEAD_SECONDS: Final = 2.0  # the flood is under way before the first honest hint
NOTHING, AS_MANY, FLOOD = "nothing beside", "as many requests to /livez", "flood of one signature"
CONDITIONS: Final = (NOTHING, AS_MANY, FLOOD)


@dataclass(frozen=True, slots=True)
class Plan:
    """The number of rounds, and of honest hints in a round and in a second."""

    rounds: int = 3
    hints: int = 200
    per_second: float = PER_SECOND
    workers: int = 2
    connections: int = CONNECTIONS


def run(ground: Ground, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure. Raises ``NeverActiveError`` or ``NotAcknowledgedError``."""
    database_url = ground.database("flood", schema_of=HERE)
    ground.valkey.flush()
    rounds: dict[str, list[Figures]] = {condition: [] for condition in CONDITIONS}
    with contextlib.ExitStack() as running:
        ottu = running.enter_context(stand_in.running(ground))
        environment = ground.settings(database_url, OTTU_BASE_URL=ottu, OTTU_DAILY_CALLS="10000000")
        _, port = running.enter_context(stack.web(ground, environment, workers=plan.workers))
        running.enter_context(stack.worker(ground, environment))
        beat = running.enter_context(stack.cardsync(ground, "beat", "beat", environment=environment))
        beat.wait_for_line("beat_leads")
        for number, condition in figures.in_turn(CONDITIONS, plan.rounds):
            seed = f"{CONDITIONS.index(condition)}-{number}"
            requests = stand_in.save_cards(ottu, active.WARM_UP + plan.hints, seed=seed)
            with _beside(condition, port, plan, seed):
                sent, seen, answered = active.send_and_watch(database_url, port, requests, plan.per_second, say)
            taken = [seen[c] - at for c, at in sent.items()]
            waited = [answered[c] for c in sent]
            rounds[condition].append(
                {
                    "per_second": plan.per_second,
                    "acknowledged_p50_ms": figures.percentile(waited, 0.50) * 1_000,
                    "acknowledged_p99_ms": figures.percentile(waited, 0.99) * 1_000,
                    "active_p50_ms": figures.percentile(taken, 0.50) * 1_000,
                    "active_p99_ms": figures.percentile(taken, 0.99) * 1_000,
                }
            )
            say(f"round {number} of {plan.rounds}: {condition}")
    return {
        "plan": {
            "rounds": plan.rounds,
            "hints": plan.hints,
            "per_second": plan.per_second,
            "flood_per_second": FLOOD_PER_SECOND,
            "connections": plan.connections,
        },
        "conditions": {name: {"rounds": found, **figures.medians(found)} for name, found in rounds.items()},
        "ratios": {
            name: figures.ratio(rounds[FLOOD], rounds[AS_MANY], name)
            for name in ("acknowledged_p50_ms", "acknowledged_p99_ms", "active_p50_ms", "active_p99_ms")
        },
        "rows_of_the_flood": stack.value(
            database_url,
            "SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM cardsync.events GROUP BY signature_hash) AS s",
        ),
    }


@contextlib.contextmanager
def _beside(condition: str, port: int, plan: Plan, seed: str) -> Iterator[None]:
    """Send what this condition sends beside the honest hints, until they are all active; then wait for its end."""
    if condition == NOTHING:
        yield
        return
    seconds = AHEAD_SECONDS + (active.WARM_UP + plan.hints) / plan.per_second
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_send, args=(condition, port, plan.connections, seconds, seed))
    process.start()
    try:
        yield
    finally:
        process.join(seconds + stack.READY_SECONDS)
    if process.exitcode != 0:
        raise active.NeverActiveError(f"what was sent beside ended with {process.exitcode}")


def _send(condition: str, port: int, connections: int, seconds: float, seed: str) -> None:
    count = round(FLOOD_PER_SECOND * seconds)
    if condition == AS_MANY:
        requests = [b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"] * count
    else:
        requests = bodies.posts("/webhooks/ottu", _of_one_signature(count, seed))
    offer(("127.0.0.1", port), requests, connections=connections, per_second=FLOOD_PER_SECOND)


def _of_one_signature(count: int, seed: str) -> list[bytes]:
    """Copies and altered bodies of one that was signed: session, customer and card are not what its key vouched for."""
    draws = random.Random(seed)  # noqa: S311  (invented data, not a secret)
    (genuine,) = bodies.notifications(1, seed=f"genuine-{seed}")
    event = json.loads(genuine)

    def altered() -> bytes:
        card = {
            **event["token"],
            "token": f"{draws.randrange(10**16):016d}",
            "customer_id": f"invented-{draws.random()}",
        }
        return json.dumps({**event, "session_id": uuid.UUID(int=draws.getrandbits(128)).hex, "token": card}).encode()

    return [genuine if number % 2 == 0 else altered() for number in range(count)]


def show(console: Console, found: dict[str, Any]) -> None:
    """Print the figures as a table."""
    plan = found["plan"]
    console.print(
        f"\nHonest hints in a flood of {plan['flood_per_second']:,.0f} a second over {plan['connections']} connections:"
        f" {plan['rounds']} rounds of {plan['hints']} hints, {plan['per_second']:g} a second. Medians of the rounds, in ms."
    )
    table = Table("", box=SIMPLE)
    names = ("acknowledged_p50_ms", "acknowledged_p99_ms", "active_p50_ms", "active_p99_ms")
    for name in names:
        table.add_column(name.removesuffix("_ms").replace("_", " "), justify="right", no_wrap=True)
    for condition, row in found["conditions"].items():
        table.add_row(condition, *(f"{row[name]:.1f}" for name in names))
    table.add_row("flood beside /livez", *(f"{found['ratios'][name]['median']:.2f} x" for name in names))
    console.print(table)
    console.print(f"The flood left {found['rows_of_the_flood']} rows in the inbox for its signature.")
