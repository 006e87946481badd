"""The second question: how long from a hint to the card that others see as active, with an Ottu that answers in 50 ms?

One whole system runs: web, worker, beat, broker, the stand-in for Ottu. Cards are saved there beforehand without a word;
then their notifications are sent at a steady rate, and a listener of ``registry_card_changes`` looks each card up in
``registry.active_cards``. The floor is Ottu's own answer; what lies above it is ours.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import psycopg

from benchmarks import bodies, figures, stack
from benchmarks.load import Pace
from benchmarks.stack import Ground
from cardsync.dev.ports import free_port
from cardsync.dev.simulator.cards import SimCard, draw_facts
from cardsync.dev.simulator.payloads import draw_purchase, payment_event

OTTU_SECONDS: Final = 0.05
WARM_UP: Final = 20
PATIENCE_SECONDS: Final = 60.0
LISTEN_SECONDS: Final = 0.5
STAGES: Final = (
    ("received", "sent to stored"),
    ("settled", "stored to folded: bell, broker, worker"),
    ("asked", "folded to ticket taken: bell, broker, worker"),
    ("finished", "ticket to list applied: Ottu's answer within"),
    ("seen", "applied to seen by a listener"),
)


class NeverActiveError(Exception):
    """Not every hinted card became active in time."""


@dataclass(frozen=True, slots=True)
class Plan:
    """So many hints, so many a second."""

    hints: int = 300
    per_second: float = 10.0
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
    database_url = ground.database("active", migrated=True)
    ground.valkey.flush()
    port = free_port()
    with contextlib.ExitStack() as running:
        arguments = ("--port", str(port), "--api-key", stack.API_KEY, "--latency-seconds", str(OTTU_SECONDS))
        stand_in = stack.cardsync(ground, "ottu", "simulator", *arguments, environment={})
        running.enter_context(stand_in).wait_for_port(port)
        requests = _save_cards(port, WARM_UP + plan.hints)
        environment = ground.settings(database_url, OTTU_BASE_URL=f"http://127.0.0.1:{port}")
        _, web_port = running.enter_context(stack.web(ground, environment, workers=plan.workers))
        running.enter_context(stack.worker(ground, environment))
        beat = running.enter_context(stack.cardsync(ground, "beat", "beat", environment=environment))
        beat.wait_for_line("beat_leads")
        sent, seen = _send_and_watch(database_url, web_port, requests, plan, say)
    return _report(plan, sent, seen, _stages(database_url))


def _save_cards(port: int, count: int) -> list[tuple[str, bytes]]:
    """Save a card for each of so many customers at the stand-in, which tells nobody; the notifications of it."""
    draws = Random("active")  # noqa: S311  (invented data, not a secret)
    requests = []
    for number in range(count):
        customer_id, facts = f"shopper-{number:05d}", draw_facts(draws)
        wanted = {"action": "save_card", "environment": "sandbox", "customer_id": customer_id, "notify": False, **facts}
        request = urllib.request.Request(  # an address of ours
            f"http://127.0.0.1:{port}/_simulator/actions",
            data=json.dumps(wanted).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            token = json.load(answer)["token"]
        card = SimCard(environment="sandbox", customer_id=customer_id, token=token, label=customer_id, **facts)
        purchase = draw_purchase(draws, "sandbox", customer_id, amount="0.000")
        body = bodies.signed(payment_event(purchase, at=bodies.AT, payment_type="save_card", card=card))
        requests.append((customer_id, bodies.posts("/webhooks/ottu", [body])[0]))
    return requests


def _send_and_watch(
    database_url: str, port: int, requests: Sequence[tuple[str, bytes]], plan: Plan, say: Callable[[str], None]
) -> tuple[dict[str, float], dict[str, float]]:
    listener = Listener(database_url)
    thread = threading.Thread(target=listener.run, name="listener")
    thread.start()
    try:
        listener.ready.wait(PATIENCE_SECONDS)
        sent = _send(port, requests, plan.per_second)
        say(f"{len(sent)} hints are sent; waiting for the last cards")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(listener.seen) < len(sent):
            if time.monotonic() > deadline:
                raise NeverActiveError(f"{len(listener.seen)} of {len(sent)} cards became active")
            time.sleep(stack.POLL_SECONDS)
    finally:
        listener.stopping.set()
        thread.join()
    warm = {customer_id for customer_id, _ in requests[:WARM_UP]}
    return {c: at for c, at in sent.items() if c not in warm}, listener.seen


def _send(port: int, requests: Sequence[tuple[str, bytes]], per_second: float) -> dict[str, float]:
    """Send them on the beat of the clock; when each was sent."""
    pace = Pace(("127.0.0.1", port))
    sent = {}
    began = time.monotonic()
    try:
        for number, (customer_id, request) in enumerate(requests):
            time.sleep(max(0.0, began + number / per_second - time.monotonic()))
            sent[customer_id] = time.time()
            pace.send(request)
    finally:
        pace.close()
    return sent


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
        "plan": {"hints": plan.hints, "per_second": plan.per_second, "ottu_ms": OTTU_SECONDS * 1_000},
        "active": len(taken),
        "p50_ms": figures.percentile(taken, 0.50) * 1_000,
        "p99_ms": figures.percentile(taken, 0.99) * 1_000,
        "slowest_ms": max(taken) * 1_000,
        "steps": steps,
    }
