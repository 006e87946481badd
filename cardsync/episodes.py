"""Episodes: a state that a person should know of, with one line when it begins and one when it ends.

What repeats in between is counted and not logged: a line twice a second hides the line that matters. The count stands in the line
that ends the episode. The metrics show the state itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final, Literal

import structlog

Level = Literal["warning", "error"]
ENDED: Final = "_ended"


class Episode:
    """One kind of trouble of this process. ``event`` names its first line; its last line is ``event`` with ``_ended``.

    Safe to be used by several threads. ``clock`` is for intervals, in seconds.
    """

    def __init__(self, event: str, *, level: Level = "warning", clock: Callable[[], float] = time.monotonic) -> None:
        self._log: Any = structlog.get_logger(__name__)
        self._event, self._level, self._clock = event, level, clock
        self._lock = threading.Lock()
        self._began_at: float | None = None
        self._met_at = 0.0
        self._repeated = 0

    @property
    def is_on(self) -> bool:
        """Whether it has begun, and not ended."""
        return self._began_at is not None

    def goes_on(self, **facts: object) -> bool:
        """Log that it begins, or count that it repeats; tell whether it begins."""
        with self._lock:
            self._met_at = self._clock()
            if self._began_at is not None:
                self._repeated += 1
                return False
            self._began_at, self._repeated = self._met_at, 0
        getattr(self._log, self._level)(self._event, **facts)
        return True

    def is_over(self, **facts: object) -> None:
        """Log that it ended, if it had begun: how long it was, and how often it repeated."""
        if self._began_at is None:  # what nearly always holds costs no lock
            return
        with self._lock:
            if self._began_at is None:
                return
            seconds, self._began_at = self._clock() - self._began_at, None
            repeated = self._repeated
        self._log.warning(self._event + ENDED, seconds=round(seconds, 1), repeated=repeated, **facts)

    def is_over_unless_met(self, within_seconds: float, **facts: object) -> None:
        """The same, if it was not met within that time: where one thing may succeed and the next one fail."""
        if self._began_at is not None and self._clock() - self._met_at > within_seconds:
            self.is_over(**facts)

    def note(self, is_on: bool, **facts: object) -> None:
        """Say whether it is on now; ``facts`` are for the line."""
        if is_on:
            self.goes_on(**facts)
        else:
            self.is_over(**facts)
