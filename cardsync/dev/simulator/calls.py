"""What was asked of the stand-in, call by call, and the gates at which a test can hold a call.

The rules: a call is recorded when it arrives, so that one that hangs counts too; no record holds a token.
Bounded: the oldest records give way.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

Endpoint = Literal["list", "delete"]
# Where a call can be held: as it arrives, or with its answer made and not yet sent.
Point = Literal["list:before", "list:after", "delete:before", "delete:after"]
POINTS: Final[tuple[Point, ...]] = ("list:before", "list:after", "delete:before", "delete:after")

MAX_KEPT: Final = 100_000
DAY_SECONDS: Final = 86_400
MAX_HELD_SECONDS: Final = 600  # a call that nobody releases goes on


@dataclass(slots=True)
class Call:
    """One call. Times are those of the stand-in's clock; ``status`` is None while it runs and if it got no
    answer.
    """

    number: int
    endpoint: Endpoint
    environment: str
    customer_id: str
    began_at: float
    ended_at: float | None = None
    status: int | None = None
    fault: str = "none"


class CallLog:
    """All calls, oldest first."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._calls: deque[Call] = deque(maxlen=MAX_KEPT)
        self._last_day: deque[float] = deque()
        self._total = 0

    @contextmanager
    def recording(self, endpoint: Endpoint, environment: str, customer_id: str) -> Iterator[Call]:
        """Record a call from here to the end of the block; the block sets ``status`` and ``fault``."""
        with self._lock:
            self._total += 1
            call = Call(self._total, endpoint, environment, customer_id, self._clock())
            self._calls.append(call)
            self._last_day.append(call.began_at)
        try:
            yield call
        finally:
            call.ended_at = self._clock()

    def within_day(self) -> int:
        """How many calls arrived in the last 24 hours."""
        with self._lock:
            while self._last_day and self._last_day[0] <= self._clock() - DAY_SECONDS:
                self._last_day.popleft()
            return len(self._last_day)

    def find(
        self,
        *,
        endpoint: str | None = None,
        environment: str | None = None,
        customer_id: str | None = None,
        since: float | None = None,
    ) -> list[Call]:
        """Calls that match, oldest first; ``since`` is a time of the stand-in's clock."""
        with self._lock:
            return [
                call
                for call in self._calls
                if (endpoint is None or call.endpoint == endpoint)
                and (environment is None or call.environment == environment)
                and (customer_id is None or call.customer_id == customer_id)
                and (since is None or call.began_at >= since)
            ]


class Gates:
    """Points at which calls wait while they are held."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: set[Point] = set()
        self._waiting: Counter[Point] = Counter()

    def hold(self, point: Point) -> None:
        """Hold every call that reaches the point from now on."""
        with self._changed:
            self._held.add(point)

    def release(self, *points: Point) -> None:
        """Let calls go on at these points, or at all."""
        with self._changed:
            self._held -= set(points or POINTS)
            self._changed.notify_all()

    def pass_through(self, point: Point) -> None:
        """Wait here while the point is held."""
        with self._changed:
            if point in self._held:
                self._waiting[point] += 1
                self._changed.notify_all()
                self._changed.wait_for(lambda: point not in self._held, MAX_HELD_SECONDS)
                self._waiting[point] -= 1
                self._changed.notify_all()

    def waiting(self, point: Point) -> int:
        """How many calls wait at the point."""
        with self._changed:
            return self._waiting[point]

    def wait_until_waiting(self, point: Point, count: int = 1, timeout_seconds: float = 10) -> None:
        """Wait until ``count`` calls wait at the point. Raises ``TimeoutError``."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting[point] >= count, timeout_seconds):
                raise TimeoutError(f"fewer than {count} calls reached {point} within {timeout_seconds} s")
