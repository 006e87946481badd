"""Quotas of API keys: how many requests a second, counted in PostgreSQL for all web processes together, and calls a day.

A process takes permits in blocks of a tenth of a second's (``store.access.key_use``), and uses them within a second. So a busy
key costs ten writes a second in each process, and an idle one a write for each request; the same write notes when the key was
used last. What N processes hold and never use is at most N blocks.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import Engine

from cardsync.core.call_budget import calls_of_a_key
from cardsync.store.access import key_use
from cardsync.store.access.key_use import CallQuota
from cardsync.store.access.keys import ApiKey

BLOCKS_A_SECOND: Final = 10
PERMITS_SECONDS: Final = 1.0
KEYS_MAX: Final = 1_024  # real keys alone come in


@dataclass(frozen=True, slots=True)
class _Permits:
    """What a process holds of a key: permits, until when, and how many more the key could have taken with them."""

    permits: int
    until: float
    left: int


_NONE: Final = _Permits(0, 0.0, 0)


class KeyQuotas:
    """The permits that this process holds. Safe to be used by several threads."""

    def __init__(self, engine: Engine, daily_calls: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._daily_calls = daily_calls
        self._clock = clock
        self._lock = threading.Lock()
        self._permits: dict[uuid.UUID, _Permits] = {}

    def lets_pass(self, key: ApiKey) -> bool:
        """Count one request of the key's; false if it has used up its rate. Raises ``DBAPIError``."""
        if self._use_one(key.key_id):
            return True
        block = max(1, key.requests_per_second // BLOCKS_A_SECOND)
        with self._engine.begin() as connection:
            taken = key_use.take_requests(connection, key.key_id, permits=block, per_second=key.requests_per_second)
        if taken is not None:
            self._keep(key.key_id, block - 1, left=taken)
        return taken is not None

    def left(self, key: ApiKey) -> int:
        """How many more requests the key may send now, as far as this process knows: other processes take from the same."""
        with self._lock:
            held = self._permits.get(key.key_id, _NONE)
            return held.permits + held.left if self._clock() < held.until else 0

    def calls(self, key: ApiKey) -> CallQuota:
        """The calls to Ottu that the key may cause."""
        own = key.calls_per_day
        return CallQuota(key.key_id, calls_of_a_key(self._daily_calls) if own is None else own)

    def _use_one(self, key_id: uuid.UUID) -> bool:
        with self._lock:
            held = self._permits.get(key_id, _NONE)
            if held.permits < 1 or self._clock() >= held.until:
                return False
            self._permits[key_id] = replace(held, permits=held.permits - 1)
            return True

    def _keep(self, key_id: uuid.UUID, permits: int, *, left: int) -> None:
        now = self._clock()
        with self._lock:
            held = self._permits.get(key_id, _NONE)
            if len(self._permits) >= KEYS_MAX and key_id not in self._permits:
                self._permits.clear()
            more = held.permits if now < held.until else 0
            self._permits[key_id] = _Permits(permits + more, now + PERMITS_SECONDS, left)
