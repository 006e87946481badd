"""The database's clock, as a process knows it: told at each look or claim, and carried on by this host's steady clock.

A host's own clock may be minutes off, and what one host dates another one judges. A hint that goes to disk brings its time of
arrival along, and hints are ordered by that: by the clock of a host that is ten minutes behind it would come before rows that the
host stored itself. A message to an endpoint is signed with its time, and a receiver refuses one that is five minutes off. By this
clock both are dated as rows are. Until the database was asked for the first time the host's clock has to do.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable


class DatabaseClock:
    """Safe to be used by several threads: what is told is one value that is replaced."""

    def __init__(
        self,
        *,
        steady: Callable[[], float] = time.monotonic,
        host: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._steady, self._host = steady, host
        self._told: tuple[dt.datetime, float] | None = None

    def told(self, moment: dt.datetime) -> None:
        """The database's time, just now; it was later than that when the answer came, never earlier."""
        self._told = (moment, self._steady())

    def now(self) -> dt.datetime:
        """The database's time, as far as known."""
        told = self._told
        return self._host() if told is None else told[0] + dt.timedelta(seconds=self._steady() - told[1])
