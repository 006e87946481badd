"""The fault of each call, and the invalid bodies.

Rules: a call has at most one fault. A script (the faults of the next calls, in order) comes before chance. Chance is seeded; the
order in which calls arrive decides which call gets which draw.
"""

from __future__ import annotations

import threading
from collections import deque
from random import Random
from typing import Any, Final, Literal

from cardsync.dev.simulator.calls import Endpoint
from cardsync.dev.simulator.knobs import InvalidBody, Knobs

Fault = Literal["none", "throttle", "error", "hang", "cut", "truncated", "invalid", "transient_404"]
FAULTS: Final[tuple[Fault, ...]] = (
    *("none", "throttle", "error", "hang", "cut", "truncated", "invalid", "transient_404"),
)
# A fault without a meaning for an endpoint does nothing there: a deletion has no body to spoil, a list is never a 404.
_UNFIT: Final[dict[Endpoint, tuple[Fault, ...]]] = {
    "list": ("transient_404",),
    "delete": ("truncated", "invalid"),
    "inquiry": ("transient_404", "invalid"),
}

_ANY_BODY: Final[tuple[InvalidBody, ...]] = (
    *("html", "half", "empty", "null", "text", "unknown_object", "no_token", "other_customer", "wrong_count"),
)
HUGE_BYTES: Final = 32 * 1_048_576  # more than any list of cards


class Faults:
    """Decides on the fault of each call."""

    def __init__(self, seed: int) -> None:
        self._lock = threading.Lock()
        self._draws = Random(f"{seed}:faults")  # noqa: S311  # a replay, not a secret
        self._script: dict[Endpoint, deque[Fault]] = {"list": deque(), "delete": deque(), "inquiry": deque()}

    def script(self, endpoint: Endpoint, *faults: Fault) -> None:
        """The next calls of this endpoint have these faults, one each. Raises ``ValueError`` for a fault that it cannot have."""
        for fault in faults:
            if fault not in FAULTS or fault in _UNFIT[endpoint]:
                raise ValueError(f"{fault!r} is no fault of {endpoint}")
        with self._lock:
            self._script[endpoint].extend(faults)

    def next(self, endpoint: Endpoint, knobs: Knobs) -> Fault:
        """Return the fault of the current call."""
        with self._lock:
            if self._script[endpoint]:
                return self._script[endpoint].popleft()
            drawn, transient = self._draws.random(), self._draws.random()
        rates: tuple[tuple[Fault, float], ...] = (
            ("throttle", knobs.throttle_rate),
            ("error", knobs.error_rate),
            ("hang", knobs.hang_rate),
            ("cut", knobs.cut_rate),
            ("truncated", knobs.truncated_rate),
            ("invalid", knobs.invalid_rate),
        )
        for fault, rate in rates:
            if drawn < rate:
                return "none" if fault in _UNFIT[endpoint] else fault
            drawn -= rate
        return "transient_404" if endpoint == "delete" and transient < knobs.transient_404_rate else "none"

    def latency_seconds(self, knobs: Knobs) -> float:
        """Return how long the current call takes."""
        with self._lock:
            return knobs.latency_seconds + knobs.latency_jitter_seconds * self._draws.random()

    def invalid_kind(self, knobs: Knobs) -> InvalidBody:
        """Return what is wrong with the current body."""
        with self._lock:
            return self._draws.choice(_ANY_BODY) if knobs.invalid_body == "any" else knobs.invalid_body


def invalid_value(kind: InvalidBody, cards: list[dict[str, Any]]) -> Any:
    """Return a JSON answer of the wrong shape. ``html``, ``half``, ``empty`` and ``huge`` are not made of JSON."""
    card: dict[str, Any] = cards[0] if cards else {"token": "9999000000000000", "brand": None}
    match kind:
        case "empty_list":
            return []
        case "null":
            return None
        case "text":
            return "ok"
        case "unknown_object":
            return {"cards": cards, "status": "ok"}
        case "no_token":
            return [*cards, {name: value for name, value in card.items() if name != "token"}]
        case "other_customer":
            return [*cards, {**card, "customer_id": "somebody-else-entirely"}]
        case "wrong_count":
            return {"count": len(cards) + 1, "next": None, "previous": None, "results": cards}
    raise ValueError(f"{kind!r} is not made of JSON")
