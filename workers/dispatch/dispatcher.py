"""The dispatcher: it claims the most urgent work that is due, as much as there are free threads for it, and hands it to them.

One thread asks and claims, for all. It asks in one statement whether some of each kind is due, by the beginning of an index: at
once after a bell, a moment after a claim that found something, and else every ``QUIET_SECONDS``. So a lost bell costs no more,
and work is found also while the broker is away. Nothing is claimed that no thread is free for: what waits stays in the
database, where the next claim, of any process, goes by urgency again.

**Which kind may have a thread.** Kinds are claimed in the order of their table, the most urgent first. Each kind has threads that
are *kept* for it: no other kind gets these while it does not use them. All others go to the first kind that wants them. So a slow
Ottu and a long line of sweeps leave threads for a fresh hint, and a flood of hints leaves some for each kind that keeps one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine, TextClause, text
from sqlalchemy.exc import SQLAlchemyError

from cardsync import db
from cardsync.episodes import Episode
from cardsync.errors import places
from cardsync.threads import VitalThread

# A hint's list is asked for within a tenth of a second of the hint, whatever becomes of its bell. Ten questions a second cost
# an idle database a few milliseconds.
QUIET_SECONDS: Final = 0.1
# Between two claims while there is work: what comes meanwhile shares the next claim, and no bell is needed for it.
BUSY_SECONDS: Final = 0.01
# After an error of the database's: long enough to be no flood, short enough to be back soon.
AWAY_SECONDS: Final = 1.0
STOP_SECONDS: Final = 1.0  # for the question or the claim that is under way

Job = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Claim:
    """What was claimed: jobs to run, each on a thread.

    ``is_more``: the claim did work itself, and there may be more. ``wait_seconds``: asking for this kind is in vain before then.
    """

    jobs: Sequence[Job] = ()
    is_more: bool = False
    wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of work. ``is_due`` is SQL for a truth value; ``claim`` takes at most that number of jobs.

    ``kept`` is the share of all threads that no other kind gets.
    """

    name: str
    is_due: str
    claim: Callable[[int], Claim]
    kept: float = 0.0


def threads_kept(kinds: Sequence[Kind], threads: int) -> Mapping[str, int]:
    """How many threads each kind keeps. One thread at least is for all kinds, and the most urgent kinds get theirs first."""
    kept: dict[str, int] = {}
    left = threads - 1
    for kind in kinds:
        wanted = 0 if not kind.kept else max(1, int(kind.kept * threads))
        kept[kind.name] = min(left, wanted)
        left -= kept[kind.name]
    return kept


def room(name: str, *, threads: int, busy: Mapping[str, int], kept: Mapping[str, int]) -> int:
    """How many jobs of a kind may begin now: the threads that are free and not kept for another kind."""
    free = threads - sum(busy.values())
    for_others = sum(max(0, number - busy.get(other, 0)) for other, number in kept.items() if other != name)
    return max(0, free - for_others)


class Dispatcher:
    """Claims and runs work on ``threads`` threads until ``stop``."""

    def __init__(self, engine: Engine, kinds: Sequence[Kind], *, threads: int) -> None:
        self._engine, self._kinds, self._threads = engine, kinds, threads
        self._kept = threads_kept(kinds, threads)
        self._question: TextClause = text("SELECT " + ", ".join(f"({kind.is_due})" for kind in kinds))
        self._not_before: dict[str, float] = {}
        self._busy: dict[str, int] = dict.fromkeys(self._kept, 0)
        self._away, self._broken = Episode("nothing_claimed"), Episode("claims_break", level="error")
        self._short_of_threads = False  # work may wait for a thread: the next one that is free wakes the dispatcher
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="work")
        self._thread = VitalThread(self._run, name="dispatcher", may_end=self._stopping.is_set)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def wake(self) -> None:
        """Say that there is work; returns at once."""
        self._woken.set()

    @property
    def jobs(self) -> int:
        """How many jobs are under way."""
        with self._lock:
            return sum(self._busy.values())

    def stop(self) -> None:
        """Claim nothing more; what is claimed goes on (``jobs``)."""
        self._stopping.set()
        self._woken.set()

    def close(self) -> None:
        """Stop, and wait for the jobs that are under way; their time-outs bound that."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)
        self._pool.shutdown(wait=True)

    def turn(self) -> bool:
        """Ask, and claim what is due; true if something was claimed, so that there may be more soon."""
        now = time.monotonic()
        self._short_of_threads = True  # until the end of this turn: a thread that is free meanwhile is no miss
        with_room = [kind for kind in self._kinds if self._room(kind)]
        is_short = len(with_room) < len(self._kinds)
        wanted = [kind for kind in with_room if self._not_before.get(kind.name, now) <= now]
        if not wanted:
            return False
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:  # one round trip
            due = dict(zip((k.name for k in self._kinds), connection.execute(self._question).one(), strict=True))
        found = False
        for kind in wanted:
            most = self._room(kind) if due[kind.name] else 0
            if not most or self._stopping.is_set():
                continue
            claim = kind.claim(most)
            is_short = is_short or len(claim.jobs) == most
            if claim.wait_seconds:
                self._not_before[kind.name] = time.monotonic() + claim.wait_seconds
            found = found or claim.is_more or bool(claim.jobs)
            for job in claim.jobs:
                self._begin(kind.name, job)
        self._short_of_threads = is_short
        return found

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._woken.clear()
            try:
                pause = BUSY_SECONDS if self.turn() else QUIET_SECONDS
            except SQLAlchemyError as error:
                self._away.goes_on(error=type(error).__name__, why=db.why(error))
                pause = AWAY_SECONDS
                self._stopping.wait(pause)
            except Exception as error:  # noqa: BLE001  (a thread's border: without it nothing would ever be claimed again)
                self._broken.goes_on(error=type(error).__name__, where=places(error))
                pause = AWAY_SECONDS
                self._stopping.wait(pause)
            else:
                self._away.is_over()
                self._broken.is_over()
            if pause == BUSY_SECONDS:
                self._stopping.wait(pause)
            else:
                self._woken.wait(pause)

    def _room(self, kind: Kind) -> int:
        with self._lock:
            return room(kind.name, threads=self._threads, busy=self._busy, kept=self._kept)

    def _begin(self, name: str, job: Job) -> None:
        with self._lock:
            self._busy[name] += 1
        self._pool.submit(self._do, name, job)

    def _do(self, name: str, job: Job) -> None:
        try:
            job()
        finally:
            with self._lock:
                self._busy[name] -= 1
            if self._short_of_threads:
                self._woken.set()
