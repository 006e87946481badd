"""How many connections to PostgreSQL a process may hold at most, and how its pools share them.

Without a cap each pool has its usual size and as many more for a moment. With ``CARDSYNC_DATABASE_CONNECTIONS`` the pools of one
process hold no more than that together. What must go on first gets its part first: hints before readers, and a worker's listener,
couriers and health before its work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# The fewest that any kind of process works with: in the web seven for hints, of which four may hang in probes of a database that
# is away, and three for readers.
FEWEST: Final = 10
HINTS_FEWEST: Final = 7
READERS_FEWEST: Final = 3
AT_WORK: Final = 32  # a worker's threads that may hold a connection at once: the others wait for Ottu
TASK_THREADS: Final = 4  # Celery's own, beside those of the dispatcher
LISTENER: Final = 1
COURIER: Final = 2
HEALTH: Final = 2
WATCHDOG: Final = 1  # while another session gets no answer
BEAT: Final = 5
CONSOLE: Final = 2


@dataclass(frozen=True, slots=True)
class Web:
    """The most connections of one web process, by pool."""

    hints: int
    readers: int

    @property
    def all(self) -> int:
        return self.hints + self.readers


@dataclass(frozen=True, slots=True)
class Worker:
    """The most connections of one worker, by pool; ``health`` are those of its own port, and one is the watchdog's."""

    work: int
    listener: int = LISTENER
    courier: int = COURIER
    health: int = HEALTH
    watchdog: int = WATCHDOG

    @property
    def all(self) -> int:
        return self.work + self.listener + self.courier + self.health + self.watchdog


def of_web(threads: int, cap: int | None) -> Web:
    """Share out what a web process may hold: half for readers, if hints keep what they need."""
    hints, readers = 2 * max(HINTS_FEWEST, threads), 2 * threads
    if cap is None or cap >= hints + readers:
        return Web(hints, readers)
    readers = min(readers, max(READERS_FEWEST, min(cap // 2, cap - HINTS_FEWEST)))
    return Web(min(hints, cap - readers), readers)


def of_worker(threads: int, cap: int | None) -> Worker:
    """Share out what a worker may hold: all that the small pools leave is for its work."""
    work = 2 * (min(threads, AT_WORK) // 2 + TASK_THREADS)
    return Worker(work if cap is None else min(work, cap - LISTENER - COURIER - HEALTH - WATCHDOG))


def of_beat(cap: int | None) -> int:
    """The most connections of one beat, with those of its health port."""
    most = BEAT + WATCHDOG + HEALTH
    return most if cap is None else min(most, cap)


def of_console() -> int:
    """The most connections of one console, with those of its health port."""
    return CONSOLE + WATCHDOG + HEALTH
