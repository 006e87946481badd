"""The stand-in for Ottu as benchmarks use it: it answers in 50 ms, and cards are saved there that no notification told of."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from collections.abc import Iterator
from random import Random
from typing import Final

from benchmarks import bodies, stack
from benchmarks.stack import Ground
from cardsync.dev.servers.ports import free_port
from cardsync.dev.simulator.cards import SimCard, draw_facts
from cardsync.dev.simulator.payloads import draw_purchase, payment_event

OTTU_SECONDS: Final = 0.05


@contextlib.contextmanager
def running(ground: Ground) -> Iterator[str]:
    """Run it; yields its address."""
    port = free_port()
    arguments = ("simulator", "--port", str(port), "--api-key", stack.API_KEY, "--latency-seconds", str(OTTU_SECONDS))
    with stack.cardsync(ground, "simulator", *arguments, environment={}) as process:
        process.wait_for_port(port)
        yield f"http://127.0.0.1:{port}"


def save_cards(address: str, count: int, *, seed: str) -> list[tuple[str, bytes]]:
    """Save a card for each of ``count`` customers, without a notification; return each customer and its notification, as HTTP."""
    draws = Random(seed)  # noqa: S311  (invented data, not a secret)
    requests = []
    for number in range(count):
        customer_id, facts = f"{seed}-{number:05d}", draw_facts(draws)
        wanted = {"action": "save_card", "environment": "sandbox", "customer_id": customer_id, "notify": False, **facts}
        request = urllib.request.Request(  # noqa: S310  # an address of ours
            f"{address}/_simulator/actions",
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
