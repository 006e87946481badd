"""Time limits of one length on one event loop: one timer for all that wait, and not one for each.

A timer of the loop's own, made and cancelled for each body and each write, cost a twentieth of what answering a hint costs. All
limits here have the same length, so that they run out in the order in which they began: a dict in that order is the whole queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

Waiting = TypeVar("Waiting")


class Deadlines(Generic[Waiting]):
    """Calls ``expire`` with what waits, and the loop's time at which it was due, once ``seconds`` are over. For one loop."""

    __slots__ = ("_due", "_expire", "_is_set", "loop", "seconds")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, expire: Callable[[Waiting, float], None]
    ) -> None:
        self.loop, self.seconds = loop, seconds
        self._expire = expire
        self._due: dict[Waiting, float] = {}
        self._is_set = False

    def begin(self, waiting: Waiting) -> None:
        """Let its time begin now."""
        self._due[waiting] = self.loop.time() + self.seconds
        if not self._is_set:
            self._is_set = True
            self.loop.call_later(self.seconds, self._look)

    def end(self, waiting: Waiting) -> None:
        """It waits no longer. Also for one that expired."""
        self._due.pop(waiting, None)

    def _look(self) -> None:
        """Expire what is due, and come back for the first that is not."""
        now = self.loop.time()
        for waiting, due_at in list(self._due.items()):
            if due_at > now:
                break
            del self._due[waiting]
            self._expire(waiting, due_at)
        first = next(iter(self._due.values()), None)
        self._is_set = first is not None
        if first is not None:
            self.loop.call_later(max(0.0, first - now), self._look)
