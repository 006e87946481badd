"""``walk``: look at every customer once, within everybody's budget, and go on where an interrupted walk stopped.

It counts as a sweep: hints and deletions come first, and the brake on removals holds. Nobody's ticket is broken: who is being
reconciled by a worker is waited for, and counts. Where no call may be made it waits until one may. What it has done stands in the
customers' own rows (``store.walks``), so it may be interrupted at any moment.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine

from cardsync.core.allowance import allowed
from cardsync.reconcile import Lists, ReconcilePolicy, Result, reconcile
from cardsync.store import brake, budget, operator, walks
from cardsync.store.walks import Walk

POLL_SECONDS: Final = 0.1
WAIT_BEYOND_LEASE_SECONDS: Final = 5.0  # a ticket of another process ends with its lease; then it is ours to take
FAILURES_IN_A_ROW: Final = 20  # then it is not the customers: Ottu, or our credentials, are the trouble
TELL_SECONDS: Final = 1.0
# Between two tries of a closed gate. One thread tries: that costs a few rows, and asks nobody but the gate itself.
LONGEST_TRY_SECONDS: Final = 10.0
SECONDS_A_DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class WalkPolicy:
    """How to walk. ``longest_wait_seconds`` bounds one wait for the budget or a pause; without it they are waited for."""

    lists: ReconcilePolicy
    threads: int
    longest_wait_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """How far a walk is, for whoever watches. ``seconds_to_go`` is ``None`` until something can be said."""

    looked_at: int
    calls_left: int
    seconds_to_go: float | None
    waiting_because: str | None


@dataclass(frozen=True, slots=True)
class Walked:
    """What became of a walk. Those that failed were tried in vain by this run, those not reached by nobody."""

    seen: int
    changed: int
    failed: int
    not_reached: int
    removals_held: int
    calls_left: int
    stopped_because: str | None


def begin(engine: Engine, *, by: str, restart: bool) -> tuple[Walk, bool]:
    """The walk to go on with, or a new one; and whether it was begun before."""
    with engine.begin() as connection:
        return walks.begin(connection, by=by, restart=restart)


def walk(
    engine: Engine,
    ottu: Lists,
    policy: WalkPolicy,
    on: Walk,
    *,
    stopping: threading.Event,
    told: Callable[[Step], None],
) -> Walked:
    """Walk to the end, or until ``stopping`` is set. ``told`` is called on this thread. Raises ``Superseded`` if another
    walk was begun meanwhile.
    """
    walkers = _Walkers(engine, ottu, policy, on, stopping)
    with ThreadPoolExecutor(policy.threads, "walk") as executor:
        try:
            running = [executor.submit(walkers.run) for _ in range(policy.threads)]
            while not any(r.done() and r.exception() for r in running):
                told(walkers.step())
                if not wait(running, TELL_SECONDS, FIRST_EXCEPTION).not_done:
                    break
        finally:
            walkers.stop("interrupted")  # what runs is bounded by its lease
    for ended in running:
        ended.result()
    told(walkers.step())
    return walkers.end()


class _Walkers:
    """What the threads of one walk share: who is next, and what became of those before."""

    def __init__(self, engine: Engine, ottu: Lists, policy: WalkPolicy, on: Walk, stopping: threading.Event) -> None:
        self._engine, self._ottu, self._policy, self._walk, self._stopping = engine, ottu, policy, on, stopping
        self._lock = threading.Lock()
        self._at_the_gate = threading.Lock()
        self._next: deque[int] = deque()
        self._after = 0
        self._is_through = False
        self._began = time.monotonic()
        self._done, self._looked_at, self._failed, self._failed_in_a_row = 0, 0, 0, 0
        self._stopped_because: str | None = None
        self._waiting_because: str | None = None

    def run(self) -> None:
        """Look at one customer after the other, until there is none or the walk is stopped."""
        while (customer := self._take()) is not None:
            result: Result | None = self._bring_in_line(customer)
            if result is not None and result.outcome == "paused":
                result = self._wait_at_the_gate(customer, result)
            if result is not None and not (self._is_over() and result.outcome in ("not_due", "superseded")):
                self._count(result)

    def stop(self, because: str) -> None:
        """Have all threads end, unless they have come to the end by themselves."""
        with self._lock:
            if not self._is_through and self._stopped_because is None:
                self._stopped_because = because

    def step(self) -> Step:
        """How far they are."""
        if self._stopping.is_set():
            self.stop("interrupted")
        with self._engine.connect() as connection:
            left = budget.calls_left(connection, daily_calls=self._policy.lists.daily_calls, lane="sweep")
        with self._lock:
            return Step(
                self._done + self._looked_at,
                left,
                seconds_to_go(
                    self._walk.expected - self._done - self._looked_at,
                    looks_a_second=self._looked_at / max(0.001, time.monotonic() - self._began),
                    calls_left=left,
                    daily_calls=self._policy.lists.daily_calls,
                ),
                self._waiting_because,
            )

    def end(self) -> Walked:
        """Sum up, and close the walk if everybody was tried."""
        with self._engine.begin() as connection:
            if self._stopped_because is None:
                walks.end(connection, self._walk)
            seen, changed = walks.tally(connection, self._walk)
            held = operator.customers_held(connection)
            left = budget.calls_left(connection, daily_calls=self._policy.lists.daily_calls, lane="sweep")
        missing = max(0, self._walk.expected - seen)
        failed = min(self._failed, missing)
        return Walked(seen, changed, failed, missing - failed, held, left, self._stopped_because)

    def _take(self) -> int | None:
        """The next customer who is not done; a page is read when the last one is used up."""
        with self._lock:
            while not self._is_over() and not self._next and not self._is_through:
                with self._engine.begin() as connection:
                    brake.begin_pass_if_over(connection)
                    page = walks.page(connection, self._walk, after=self._after)
                if page is None:
                    self._is_through = True
                else:
                    self._next.extend(page.customers)
                    self._after, self._done = page.end, self._done + page.seen
            return self._next.popleft() if self._next and not self._is_over() else None

    def _is_over(self) -> bool:
        return self._stopped_because is not None or self._stopping.is_set()

    def _bring_in_line(self, customer: int) -> Result:
        """Make the customer due and reconcile it, or wait until another process has done so since the walk began."""
        deadline = time.monotonic() + self._policy.lists.lease_seconds + WAIT_BEYOND_LEASE_SECONDS
        while True:
            with self._engine.begin() as connection:
                if not walks.make_due(connection, self._walk, customer):
                    return Result("unchanged")
            jitter = random.random()  # noqa: S311  (spreads retries, no secret)
            result = reconcile(self._engine, self._ottu, customer, self._policy.lists, jitter=jitter)
            if result.outcome not in ("not_due", "superseded") or time.monotonic() > deadline:
                return result
            if self._is_over() or self._stopping.wait(POLL_SECONDS):
                return result

    def _wait_at_the_gate(self, customer: int, result: Result) -> Result | None:
        """Try until a call may be made, one thread at a time; ``None`` once the walk is over, or that takes too long."""
        with self._at_the_gate:
            began, pause = time.monotonic(), POLL_SECONDS
            bound = self._policy.longest_wait_seconds
            while result.outcome == "paused":
                self._waiting_because = result.error
                if bound is not None and time.monotonic() - began >= bound:
                    self.stop(result.error or result.outcome)
                if self._is_over() or self._stopping.wait(pause):
                    return None
                pause = min(LONGEST_TRY_SECONDS, pause * 2)
                result = self._bring_in_line(customer)
            self._waiting_because = None
        return result

    def _count(self, result: Result) -> None:
        with self._lock:
            self._looked_at += 1
            if result.outcome in ("changed", "unchanged"):
                self._failed_in_a_row = 0
                return
            self._failed += 1
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= FAILURES_IN_A_ROW and self._stopped_because is None:
                self._stopped_because = f"{self._failed_in_a_row} failures in a row, the last: {result.error}"


def seconds_to_go(left: int, *, looks_a_second: float, calls_left: int, daily_calls: int) -> float | None:
    """How long so many customers take at the pace so far; those beyond the calls that are left wait for the budget to refill."""
    if left <= 0:
        return 0.0
    if looks_a_second <= 0:
        return None
    refill = max(0, left - calls_left) * SECONDS_A_DAY / max(1, allowed("sweep", daily_calls))
    return max(left / looks_a_second, refill)
