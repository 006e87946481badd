"""An event loop whose clock stands still until a test moves it: what nine seconds do is seen at once, on any machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final

ROUNDS: Final = 50  # of the loop: far more than the end of a call needs
SECONDS: Final = 60.0  # for what takes a moment on a machine that is not busy


class StandingClock(asyncio.SelectorEventLoop):
    """``bounds`` are the seconds of every wait that was asked for, in order."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.bounds = list[float]()
        super().__init__()

    def time(self) -> float:
        """Return the time that the test decided on."""
        return self.now

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Note the wait."""
        self.bounds.append(when - self.now)
        return super().call_at(when, callback, *args, context=context)

    def move(self, seconds: float) -> None:
        """Move the clock, and return when all that is due then has been done."""
        self.now += seconds
        asyncio.run_coroutine_threadsafe(self._turn(), self).result(SECONDS)

    @staticmethod
    async def _turn() -> None:
        for _ in range(ROUNDS):
            await asyncio.sleep(0)
