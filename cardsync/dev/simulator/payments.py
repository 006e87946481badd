"""What was paid, by session, and how often anybody asked about it: what the inquiry endpoint answers from.

The rules: every event of a payment that the checkout makes is kept, also one that is never sent; the newest is the answer. The
throttling is the documented one, by knobs. Bounded: the oldest payments give way.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from cardsync.dev.simulator.knobs import Knobs

MAX_KEPT: Final = 20_000
MINUTE_SECONDS: Final = 60.0
DAY_SECONDS: Final = 86_400.0


@dataclass(slots=True)
class _Payment:
    made_at: float
    event: dict[str, Any]
    asked_at: list[float] = field(default_factory=list)


class Payments:
    """All payments by session, and when each was asked about. Thread-safe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._payments: OrderedDict[str, _Payment] = OrderedDict()
        self._lately: deque[float] = deque()

    def note(self, event: dict[str, Any]) -> None:
        """Keep what Ottu says of a payment now; operation events are not of payments."""
        session_id = event.get("session_id")
        if not isinstance(session_id, str) or "operation" in event:
            return
        with self._lock:
            known = self._payments.get(session_id)
            if known is not None:
                known.event = event
                return
            self._payments[session_id] = _Payment(self._clock(), event)
            while len(self._payments) > MAX_KEPT:
                self._payments.popitem(last=False)

    def ask(self, asked: dict[str, Any], knobs: Knobs) -> dict[str, Any] | float | None:
        """The payment's payload; ``None`` if there is none; the seconds to wait if it is asked about too often."""
        with self._lock:
            payment = self._find(asked)
            now = self._clock()
            while self._lately and self._lately[0] <= now - MINUTE_SECONDS:
                self._lately.popleft()
            if len(self._lately) >= knobs.inquiries_a_minute:
                return MINUTE_SECONDS - (now - self._lately[0])
            self._lately.append(now)
            if payment is None:
                return None
            wait = _seconds_to_wait(payment, now, knobs)
            if wait > 0:
                return wait
            payment.asked_at = [*payment.asked_at, now][-knobs.inquiries_a_day :]
            return payment.event

    def _find(self, asked: dict[str, Any]) -> _Payment | None:
        if isinstance(asked.get("session_id"), str):
            return self._payments.get(asked["session_id"])
        order_no = asked.get("order_no")
        return next((p for p in reversed(self._payments.values()) if p.event.get("order_no") == order_no), None)


def _seconds_to_wait(payment: _Payment, now: float, knobs: Knobs) -> float:
    waits = [payment.made_at + knobs.inquiry_after_seconds - now]
    if payment.asked_at:
        waits.append(payment.asked_at[-1] + knobs.inquiry_apart_seconds - now)
    if len(payment.asked_at) >= knobs.inquiries_a_day:
        waits.append(payment.asked_at[0] + DAY_SECONDS - now)
    return max(waits)
