"""Ottu as it sends, through a proxy as a deployment has it: the second web server is asked where the first does not answer.

A notification that neither server answers is lost, as Ottu would lose it: what it was about is left to the sweeps.
"""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

THREADS: Final = 48
WAITING_MAX: Final = 1_000
NO_ANSWER_SECONDS: Final = 5.0  # then the other server is asked; the proxy of the compose file waits for twelve
SUCCESS: Final = (200, 201)


@dataclass(frozen=True, slots=True)
class Sent:
    """How a notification ended. ``status`` is ``None`` if nobody answered; ``tries`` counts the servers that were asked.

    ``began`` is the monotonic clock's.
    """

    status: int | None
    began: float
    seconds: float
    tries: int
    event_id: uuid.UUID | None


class Senders:
    """Threads that send what they are given."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.sent: list[Sent] = []
        self._urls = list(urls)
        self._bodies: queue.Queue[bytes | None] = queue.Queue(WAITING_MAX)
        self._turn = 0
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def send(self, body: bytes) -> None:
        """Hand a body over; waits while too many wait to be sent, so that a run ends when its time is over."""
        self._bodies.put(body)

    def close(self) -> None:
        """Wait until all is sent that was handed over."""
        for _ in self._threads:
            self._bodies.put(None)
        for thread in self._threads:
            thread.join(300)

    def _run(self) -> None:
        with httpx.Client(trust_env=False, timeout=NO_ANSWER_SECONDS) as client:
            while (body := self._bodies.get()) is not None:
                self.sent.append(self._one(client, body))

    def _one(self, client: httpx.Client, body: bytes) -> Sent:
        self._turn += 1
        urls = self._urls if self._turn % 2 else self._urls[::-1]
        began = time.monotonic()
        for tries, url in enumerate(urls, start=1):
            try:
                answer = client.post(f"{url}/webhooks/ottu", content=body, headers={"Content-Type": "application/json"})
            except httpx.HTTPError:
                continue
            return Sent(answer.status_code, began, time.monotonic() - began, tries, _event_id(answer))
        return Sent(None, began, time.monotonic() - began, len(urls), None)


def _event_id(answer: httpx.Response) -> uuid.UUID | None:
    if answer.status_code not in SUCCESS:
        return None
    content: dict[str, Any] = answer.json()
    return uuid.UUID(content["event_id"])
