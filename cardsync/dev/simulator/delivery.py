"""Send webhooks as Ottu does: once, and again only after a time-out; the knobs make that go wrong.

Rules: every answer is final (200 and 201 are success), and so is a refused or broken connection; only a time-out is retried.
Random decisions (drop, duplicate, hold back) are made when a body is handed over, in that order, so that a seed replays them.
There is one heap of due jobs and a few threads: a job that waits for a retry uses no thread. The heap is bounded: when it is
full, the sender waits.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

import httpx

from cardsync.dev.simulator.handlers import Address
from cardsync.dev.simulator.knobs import Knobs

Outcome = Literal["delivered", "refused", "timed_out", "unreachable", "dropped"]

# Ottu's User-Agent imitates a browser. So does ours, to find a receiver that filters robots.
USER_AGENT: Final = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"
)
MAX_PENDING: Final = 10_000
MAX_KEPT: Final = 100_000  # deliveries that are kept
SUCCESS: Final = (200, 201)
MAX_WORD: Final = 20  # characters of the receiver's `status` that are kept


@dataclass(frozen=True, slots=True)
class Delivery:
    """How one notification ended. ``number`` counts notifications; a duplicate has the number of its original."""

    number: int
    label: str
    outcome: Outcome
    status: int | None
    attempts: int
    seconds: float  # from the first attempt to the end
    duplicate: bool
    handler: str = "configured"  # who it was sent to, in the words of ``handlers``
    answer: str | None = None  # the receiver's `status`, if its answer has one


@dataclass(slots=True)
class _Job:
    number: int
    label: str
    body: bytes
    address: Address
    duplicate: bool
    future: Future[Delivery]
    attempts: int = 0
    began_at: float = 0.0


class Courier:
    """Sends webhooks; one without a URL counts as dropped. ``close()`` ends it and cancels pending futures."""

    def __init__(
        self,
        knobs: Callable[[], Knobs],
        seed: int,
        *,
        on_delivery: Callable[[Delivery], None] | None = None,
        workers: int = 16,
    ) -> None:
        self._knobs = knobs
        self._draws = Random(f"{seed}:delivery")  # noqa: S311  # a replay, not a secret
        self._on_delivery = on_delivery
        self._workers = workers
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, _Job]] = []
        self._order = itertools.count()
        self._numbers = itertools.count(1)
        self._in_hand = 0
        self._closed = False
        self._ended: deque[Delivery] = deque(maxlen=MAX_KEPT)
        # Ottu does not verify the merchant's certificate by default. No proxy of the environment: the receiver
        # is on this machine or near it.
        self._client = httpx.Client(
            verify=False,  # noqa: S501
            trust_env=False,
            headers={"User-Agent": USER_AGENT, "Content-Type": "application/json"},
            limits=httpx.Limits(max_connections=workers),
        )

    def send(self, body: bytes, label: str, address: Address) -> Future[Delivery]:
        """Hand over a body; the future returns how it ended. Waits while ``MAX_PENDING`` bodies are under way."""
        knobs, future = self._knobs(), Future[Delivery]()
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._due) < MAX_PENDING)
            job = _Job(next(self._numbers), label, body, address, False, future)
            # All are drawn each time, so that changing one knob does not shift the draws of the others.
            drop, double, hold, held_for = (self._draws.random() for _ in range(4))
            if self._closed:
                future.cancel()
                return future
            if address.url is not None and drop >= knobs.webhook_drop_rate:
                delay = held_for * knobs.webhook_reorder_seconds if hold < knobs.webhook_reorder_rate else 0.0
                self._put(job, delay)
                if double < knobs.webhook_duplicate_rate:
                    self._put(_Job(job.number, label, body, address, True, Future()), delay)
                return future
        self._end(job, "dropped", None)
        return future

    def deliveries(self) -> list[Delivery]:
        """How notifications ended, in the order in which they did."""
        with self._changed:
            return list(self._ended)

    def drain(self, timeout_seconds: float) -> bool:
        """Wait until nothing is under way, retries included; tell whether that happened in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._due and not self._in_hand, timeout_seconds)

    def close(self) -> None:
        """Stop sending: running attempts may end, waiting ones are cancelled."""
        with self._changed:
            self._closed = True
            waiting, self._due = self._due, []
            self._changed.notify_all()
        for _, _, job in waiting:
            job.future.cancel()
        for thread in self._threads:
            thread.join(timeout=1)  # a thread may still wait for an answer; it is a daemon and owns nothing
        self._client.close()

    def _put(self, job: _Job, delay_seconds: float) -> None:
        heapq.heappush(self._due, (time.monotonic() + delay_seconds, next(self._order), job))
        if len(self._threads) < self._workers:
            thread = threading.Thread(target=self._work, name=f"courier-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._changed.notify_all()

    def _work(self) -> None:
        while (job := self._take()) is not None:
            try:
                self._attempt(job)
            finally:
                with self._changed:
                    self._in_hand -= 1
                    self._changed.notify_all()

    def _take(self) -> _Job | None:
        with self._changed:
            while not self._closed:
                wait = self._due[0][0] - time.monotonic() if self._due else None
                if wait is not None and wait <= 0:
                    self._in_hand += 1
                    return heapq.heappop(self._due)[2]
                self._changed.wait(wait)
            return None

    def _attempt(self, job: _Job) -> None:
        knobs = self._knobs()
        job.began_at = job.began_at or time.monotonic()
        job.attempts += 1
        try:
            answer = self._client.post(job.address.url or "", content=job.body, timeout=knobs.webhook_timeout_seconds)
        except httpx.TimeoutException:
            with self._changed:
                if job.attempts < knobs.webhook_attempts and not self._closed:
                    self._put(job, knobs.webhook_retry_seconds)
                    return
            self._end(job, "timed_out", None)
        except (httpx.HTTPError, RuntimeError):  # RuntimeError: the client was closed meanwhile
            self._end(job, "unreachable", None)
        else:
            outcome: Outcome = "delivered" if answer.status_code in SUCCESS else "refused"
            self._end(job, outcome, answer.status_code, _status_word(answer))

    def _end(self, job: _Job, outcome: Outcome, status: int | None, word: str | None = None) -> None:
        seconds = time.monotonic() - job.began_at if job.began_at else 0.0
        facts = (job.attempts, seconds, job.duplicate, job.address.handler, word)
        delivery = Delivery(job.number, job.label, outcome, status, *facts)
        with self._changed:
            self._ended.append(delivery)
        if job.future.set_running_or_notify_cancel():
            job.future.set_result(delivery)
        if self._on_delivery is not None:
            self._on_delivery(delivery)


def _status_word(answer: httpx.Response) -> str | None:
    """The ``status`` in the receiver's answer. Ottu reads no body; the live lines show it."""
    try:
        word = answer.json()["status"]
    except (ValueError, LookupError, TypeError):
        return None
    return word[:MAX_WORD] if isinstance(word, str) else None
