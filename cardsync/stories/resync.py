"""``resync``: a full resync looks at every customer once, within the common budget, and goes on where the last run stopped.

Its calls count as a sweep's: hints and deletions come first, and the brake on removals holds. It breaks no other process's
ticket: it waits for a customer that a worker reconciles, and counts that list (``reconcile_now``). While no call may be made, it
waits. What it has done stands in the customers' own rows (``store.ops.resyncs``), so it may be interrupted at any moment.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine

from cardsync.core.call_budget import allowed
from cardsync.store.calls import budget
from cardsync.store.ops import operator, resyncs
from cardsync.store.ops.resyncs import Resync
from cardsync.stories.reconcile import Lists, ReconcilePolicy, Result
from cardsync.stories.reconcile_now import POLL_SECONDS, try_until_answered

FAILURES_IN_A_ROW: Final = 20  # then it is not the customers: Ottu, or our credentials, are the trouble
TELL_SECONDS: Final = 1.0
# Between two tries of a closed gate. One thread tries: a try reads a few rows of the gate, and makes no call.
LONGEST_TRY_SECONDS: Final = 10.0
SECONDS_A_DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class ResyncPolicy:
    """How to run. ``longest_wait_seconds`` bounds one wait for the budget or a pause; without it they are waited for."""

    lists: ReconcilePolicy
    threads: int
    longest_wait_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """How far a resync is, for the person who watches. ``seconds_to_go`` is ``None`` until there is an estimate."""

    looked_at: int
    calls_left: int
    seconds_to_go: float | None
    waiting_because: str | None


@dataclass(frozen=True, slots=True)
class ResyncResult:
    """What became of a resync. Customers that failed were tried in vain by this run; those not reached were not tried."""

    seen: int
    changed: int
    failed: int
    not_reached: int
    removals_held: int
    calls_left: int
    stopped_because: str | None


def begin(engine: Engine, *, by: str, restart: bool) -> tuple[Resync, bool]:
    """Return the resync to go on with, or a new one; and whether it was begun before."""
    with engine.begin() as connection:
        return resyncs.begin(connection, by=by, restart=restart)


def resync(
    engine: Engine,
    ottu: Lists,
    policy: ResyncPolicy,
    on: Resync,
    *,
    stopping: threading.Event,
    told: Callable[[Step], None],
) -> ResyncResult:
    """Look at all customers, or until ``stopping`` is set. ``told`` is called on this thread. Raises ``Superseded`` if
    another resync was begun meanwhile.
    """
    resyncers = _Resyncers(engine, ottu, policy, on, stopping)
    with ThreadPoolExecutor(policy.threads, "resync") as executor:
        try:
            running = [executor.submit(resyncers.run) for _ in range(policy.threads)]
            while not any(r.done() and r.exception() for r in running):
                told(resyncers.step())
                if not wait(running, TELL_SECONDS, FIRST_EXCEPTION).not_done:
                    break
        finally:
            resyncers.stop("interrupted")  # what runs is bounded by its lease
    for ended in running:
        ended.result()
    told(resyncers.step())
    return resyncers.end()


class _Resyncers:
    """What the threads of one resync share: which customer is next, and what became of those before."""

    def __init__(
        self, engine: Engine, ottu: Lists, policy: ResyncPolicy, on: Resync, stopping: threading.Event
    ) -> None:
        self._engine, self._ottu, self._policy, self._resync, self._stopping = engine, ottu, policy, on, stopping
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
        """Look at one customer after the other, until there is none or the resync is stopped."""
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
                    self._resync.expected - self._done - self._looked_at,
                    looks_a_second=self._looked_at / max(0.001, time.monotonic() - self._began),
                    calls_left=left,
                    daily_calls=self._policy.lists.daily_calls,
                ),
                self._waiting_because,
            )

    def end(self) -> ResyncResult:
        """Sum up, and close the resync if every customer was tried."""
        with self._engine.begin() as connection:
            if self._stopped_because is None:
                resyncs.end(connection, self._resync)
            seen, changed = resyncs.tally(connection, self._resync)
            held = operator.customers_held(connection)
            left = budget.calls_left(connection, daily_calls=self._policy.lists.daily_calls, lane="sweep")
        missing = max(0, self._resync.expected - seen)
        failed = min(self._failed, missing)
        return ResyncResult(seen, changed, failed, missing - failed, held, left, self._stopped_because)

    def _take(self) -> int | None:
        """The next customer who is not done; a page is read when the last one is used up."""
        with self._lock:
            while not self._is_over() and not self._next and not self._is_through:
                with self._engine.begin() as connection:
                    page = resyncs.page(connection, self._resync, after=self._after)
                if page is None:
                    self._is_through = True
                else:
                    self._next.extend(page.customers)
                    self._after, self._done = page.end, self._done + page.seen
            return self._next.popleft() if self._next and not self._is_over() else None

    def _is_over(self) -> bool:
        return self._stopped_because is not None or self._stopping.is_set()

    def _bring_in_line(self, customer: int) -> Result:
        """Make the customer due and reconcile it, or wait until another process has done so since the resync began."""
        return try_until_answered(
            self._engine,
            self._ottu,
            customer,
            self._policy.lists,
            make_due=lambda connection: resyncs.make_due(connection, self._resync, customer),
            stopped_while_waiting=lambda seconds: self._is_over() or self._stopping.wait(seconds),
        )

    def _wait_at_the_gate(self, customer: int, result: Result) -> Result | None:
        """Try until a call may be made, one thread at a time; ``None`` once the resync is over, or that takes too long."""
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
    """How long the customers that are left take at the speed so far; those beyond the calls left wait for new budget."""
    if left <= 0:
        return 0.0
    if looks_a_second <= 0:
        return None
    refill = max(0, left - calls_left) * SECONDS_A_DAY / max(1, allowed("sweep", daily_calls))
    return max(left / looks_a_second, refill)
