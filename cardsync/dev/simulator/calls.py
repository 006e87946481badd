"""A record of each call to the stand-in, and the gates at which a test can hold a call.

Rules: a call is recorded when it arrives, so that a call that hangs counts too. No record contains a token. The number of records
is bounded: the oldest are dropped.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal, get_args

Endpoint = Literal["list", "delete", "inquiry"]
# Where a call can be held: when it arrives, or when its answer is ready and not yet sent.
Point = Literal["list:before", "list:after", "delete:before", "delete:after", "inquiry:before", "inquiry:after"]
POINTS: Final[tuple[Point, ...]] = get_args(Point)

MAX_KEPT: Final = 100_000
DAY_SECONDS: Final = 86_400
MAX_HELD_SECONDS: Final = 600  # then a held call continues by itself
WAIT_SECONDS: Final = 120.0  # for a call that is a moment away; on a busy machine its process still starts


@dataclass(slots=True)
class Call:
    """One call. Times are of the stand-in's clock. ``status`` is None while the call runs, and if it got no answer."""

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
        """Matching calls, oldest first; ``since`` is a time of the stand-in's clock."""
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
    """Points at which a test can make calls wait."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: set[Point] = set()
        self._waiting: Counter[Point] = Counter()

    def hold(self, point: Point) -> None:
        """From now on, hold every call that reaches the point."""
        with self._changed:
            self._held.add(point)

    def release(self, *points: Point) -> None:
        """Let calls continue at these points; at all points if none is named."""
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

    def wait_until_waiting(self, point: Point, count: int = 1, timeout_seconds: float = WAIT_SECONDS) -> None:
        """Wait until ``count`` calls wait at the point. Raises ``TimeoutError``."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting[point] >= count, timeout_seconds):
                raise TimeoutError(f"fewer than {count} calls reached {point} within {timeout_seconds} s")
