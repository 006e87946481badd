"""The second question: how long from a hint to the card that others see as active, with an Ottu that answers in 50 ms?

One whole system runs: web, worker, beat, broker, the stand-in for Ottu. Cards are saved there beforehand without a word;
then their notifications are sent at a steady rate, and a listener of ``registry_card_changes`` looks each card up in
``registry.active_cards``. The floor is Ottu's own answer; what lies above it is ours.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks import figures, stack, stand_in
from benchmarks.checkouts import HERE
from benchmarks.load import Pace
from benchmarks.stack import Ground

PER_SECOND: Final = 10.0
WARM_UP: Final = 20
PATIENCE_SECONDS: Final = 240.0
LISTEN_SECONDS: Final = 0.5
STAGES: Final = (
    ("received", "sent to stored"),
    ("settled", "stored to folded, its ticket taken: bell, broker, worker"),
    ("asked", "folded to ticket taken: bell, broker, worker"),
    ("finished", "ticket to list applied: Ottu's answer within"),
    ("seen", "applied to seen by a listener"),
)


class NeverActiveError(Exception):
    """Not every hinted card became active in time."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The number of hints, in all and in a second."""

    hints: int = 300
    per_second: float = PER_SECOND
    workers: int = 2


@dataclass(slots=True)
class Listener:
    """Notes when each customer's card is first seen as active, as a service of the merchant's would."""

    database_url: str
    seen: dict[str, float] = field(default_factory=dict)
    stopping: threading.Event = field(default_factory=threading.Event)
    ready: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Listen until told to stop."""
        last = 0
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute("LISTEN registry_card_changes")
            self.ready.set()
            while not self.stopping.is_set():
                for _ in connection.notifies(timeout=LISTEN_SECONDS, stop_after=1):
                    pass
                rows = connection.execute(
                    "SELECT f.seq, f.customer_id, a.card_id FROM registry.card_changes AS f"
                    " LEFT JOIN registry.active_cards AS a USING (card_id) WHERE f.seq > %s ORDER BY f.seq",
                    [last],
                ).fetchall()
                now = time.time()
                for seq, customer_id, card_id in rows:
                    last = seq
                    if card_id is not None:
                        self.seen.setdefault(customer_id, now)


def run(ground: Ground, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure. Raises ``NeverActiveError``."""
    database_url = ground.database("active", schema_of=HERE)
    ground.valkey.flush()
    with contextlib.ExitStack() as running:
        ottu = running.enter_context(stand_in.running(ground))
        requests = stand_in.save_cards(ottu, WARM_UP + plan.hints, seed="shopper")
        environment = ground.settings(database_url, OTTU_BASE_URL=ottu)
        _, web_port = running.enter_context(stack.web(ground, environment, workers=plan.workers))
        running.enter_context(stack.worker(ground, environment))
        beat = running.enter_context(stack.cardsync(ground, "beat", "beat", environment=environment))
        beat.wait_for_line("beat_leads")
        sent, seen, _ = send_and_watch(database_url, web_port, requests, plan.per_second, say)
    return _report(plan, sent, seen, _stages(database_url))


def send_and_watch(
    database_url: str, port: int, requests: Sequence[tuple[str, bytes]], per_second: float, say: Callable[[str], None]
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Send at this rate; return by customer, but for the warm-up, when each was sent; and when seen, and how long answered.

    Raises ``NeverActiveError``.
    """
    listener = Listener(database_url)
    thread = threading.Thread(target=listener.run, name="listener")
    thread.start()
    try:
        listener.ready.wait(PATIENCE_SECONDS)
        sent, answered = _send(port, requests, per_second)
        say(f"{len(sent)} hints are sent; waiting for the last cards")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not sent.keys() <= listener.seen.keys():
            if time.monotonic() > deadline:
                raise NeverActiveError(f"{len(sent.keys() & listener.seen.keys())} of {len(sent)} cards became active")
            time.sleep(stack.POLL_SECONDS)
    finally:
        listener.stopping.set()
        thread.join()
    warm = {customer_id for customer_id, _ in requests[:WARM_UP]}
    return {c: at for c, at in sent.items() if c not in warm}, listener.seen, answered


def _send(
    port: int, requests: Sequence[tuple[str, bytes]], per_second: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Send them on the beat of the clock; when each was sent, and how many seconds its answer took."""
    pace = Pace(("127.0.0.1", port))
    sent, answered = {}, {}
    began = time.monotonic()
    try:
        for number, (customer_id, request) in enumerate(requests):
            time.sleep(max(0.0, began + number / per_second - time.monotonic()))
            sent[customer_id] = time.time()
            began_one, ended_one = pace.send(request)
            answered[customer_id] = ended_one - began_one
    finally:
        pace.close()
    return sent, answered


def _stages(database_url: str) -> dict[str, dict[str, float]]:
    """When each customer's hint reached which stage, by the database's clock, which is this machine's too."""
    query = """
        SELECT e.customer_id, extract(epoch FROM e.received_at), extract(epoch FROM e.settled_at),
            extract(epoch FROM o.asked_at), extract(epoch FROM o.finished_at)
        FROM cardsync.events AS e
        JOIN cardsync.customers AS c USING (environment, customer_id)
        JOIN LATERAL (
            SELECT asked_at, finished_at FROM cardsync.observations
            WHERE customer = c.id AND outcome = 'changed' ORDER BY observation_no LIMIT 1
        ) AS o ON true
    """
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(query).fetchall()
    names = [name for name, _ in STAGES[:-1]]
    return {customer_id: dict(zip(names, map(float, times), strict=True)) for customer_id, *times in rows}


def _report(
    plan: Plan, sent: dict[str, float], seen: dict[str, float], stages: dict[str, dict[str, float]]
) -> dict[str, Any]:
    taken = [seen[c] - at for c, at in sent.items()]
    walked = [{"sent": at, **stages[c], "seen": seen[c]} for c, at in sent.items() if c in stages]
    names = ["sent", *(name for name, _ in STAGES)]
    steps = {}
    for (name, label), before in zip(STAGES, names, strict=False):
        times = [w[name] - w[before] for w in walked]
        steps[label] = {
            "p50_ms": figures.percentile(times, 0.50) * 1_000,
            "p99_ms": figures.percentile(times, 0.99) * 1_000,
        }
    return {
        "plan": {"hints": plan.hints, "per_second": plan.per_second, "ottu_ms": stand_in.OTTU_SECONDS * 1_000},
        "active": len(taken),
        "p50_ms": figures.percentile(taken, 0.50) * 1_000,
        "p99_ms": figures.percentile(taken, 0.99) * 1_000,
        "slowest_ms": max(taken) * 1_000,
        "steps": steps,
    }


def show(console: Console, found: dict[str, Any]) -> None:
    """Print the figures as a table."""
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
