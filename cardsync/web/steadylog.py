"""A log for what anybody can cause at will: so many lines a second, however many refusals there are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

log = structlog.get_logger(__name__)

LINES_A_SECOND: Final = 10  # enough to see what is going on; a flood of any size writes a few hundred bytes a second


class SteadyLog:
    """Writes so many lines a second at the most, and with the next one how many were left out."""

    def __init__(self, lines_a_second: int = LINES_A_SECOND, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._lines_a_second = lines_a_second
        self._clock = clock
        self._lock = threading.Lock()
        self._second = 0
        self._written = 0
        self._left_out = 0

    def warning(self, event: str, **facts: object) -> None:
        """Write a line, or count it as left out."""
        with self._lock:
            second = int(self._clock())
            if second != self._second:
                self._second, self._written = second, 0
            if self._written >= self._lines_a_second:
                self._left_out += 1
                return
            self._written += 1
            left_out, self._left_out = self._left_out, 0
        log.warning(event, **facts, **({"left_out_before": left_out} if left_out else {}))
