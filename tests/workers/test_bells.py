"""Whoever rings never waits for the broker: not when it answers, not when it is gone, not when it is frozen."""

from __future__ import annotations

import contextlib
import queue
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from cardsync.dev.ports import free_port
from cardsync.dev.valkey import EmbeddedValkey
from cardsync.settings import Settings
from workers import bells
from workers.app import CUSTOMERS, DELETIONS, INBOX, create_app

EVENT = uuid.UUID("00000000-0000-4000-8000-000000000001")
NO_WAIT_SECONDS = 0.2  # a thousand rings; a single wait for the broker is a second


def ringer(url: str) -> bells.Ringer:
    return bells.Ringer(create_app(Settings(broker_url=url), publisher=True))  # type: ignore[arg-type]


@pytest.fixture
def broker(valkey: EmbeddedValkey) -> Iterator[EmbeddedValkey]:
    valkey.flush()
    yield valkey
    valkey.resume()
    valkey.flush()


def waiting(url: str) -> dict[str, list[Any]]:
    """What is in the queues: the first argument of each message."""
    app = create_app(Settings(broker_url=url))  # type: ignore[arg-type]
    found: dict[str, list[Any]] = {}
    with app.connection_for_read() as connection:
        for name in (INBOX, CUSTOMERS, DELETIONS):
            with connection.SimpleQueue(name) as messages, contextlib.suppress(queue.Empty):
                while True:
                    found.setdefault(name, []).append(messages.get(block=False).payload[0][0])
    return found


def test_rings_of_a_moment_become_few_messages_and_a_customer_is_rung_for_once(broker: EmbeddedValkey) -> None:
    ring = ringer(broker.url)
    events = [uuid.uuid4() for _ in range(250)]
    ring.ring_events(events)
    ring.ring_customers([7, 7, 7])
    ring.ring_deletions([events[0], events[0]])
    ring.close()
    found = waiting(broker.url)
    assert sorted(i for message in found[INBOX] for i in message) == sorted(map(str, events))
    assert all(len(message) <= bells.EVENTS_A_MESSAGE for message in found[INBOX])
    assert set(found[CUSTOMERS]) == {7}
    assert set(found[DELETIONS]) == {str(events[0])}


def test_a_broker_that_is_gone_costs_the_caller_nothing() -> None:
    ring = ringer(f"redis://127.0.0.1:{free_port()}/0")
    began = time.monotonic()
    for _ in range(1_000):
        ring.ring_events([EVENT])
    assert time.monotonic() - began < NO_WAIT_SECONDS
    ring.close()


def test_a_frozen_broker_costs_the_caller_nothing_and_closing_is_bounded(broker: EmbeddedValkey) -> None:
    ring = ringer(broker.url)
    broker.pause()
    began = time.monotonic()
    for _ in range(1_000):
        ring.ring_events([EVENT])
    assert time.monotonic() - began < NO_WAIT_SECONDS
    ring.close()
    assert time.monotonic() - began < 2 * bells.CLOSE_SECONDS + 1


def test_a_full_queue_drops_bells_instead_of_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bells, "WAITING_MAX", 10)
    ring = ringer(f"redis://127.0.0.1:{free_port()}/0")
    began = time.monotonic()
    ring.ring_customers(range(10_000))
    assert time.monotonic() - began < NO_WAIT_SECONDS
    ring.close()
