"""Group commit: what arrives while one write is on its way shares the next.

Why: a commit costs PostgreSQL a flush and costs us a round trip, and each hand-over between threads costs as much as verifying a
hint. One thread writes for as many notifications as are there. While nothing else is there nothing is waited for, so a single
write is as fast as ever. A result is given only after the commit that holds it.

Two kinds of callers wait for the same commits: coroutines of any event loop (``write``) and threads (``write_blocking``).

A group may *rest*: unless it is full, its next write begins no sooner than a while after the last one began. So few commits are
shared by many.

Rules: one write at a time, with a bounded number of items; a caller waits no longer than it asked to. A write that fails
because of an item's content is done again for each item alone: one bad item spoils nothing for its neighbours.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from cardsync.threads import VitalThread
from cardsync.web.ingest.deadlines import Deadlines
from cardsync.web.rate_limits import RateLimitedLog

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_ONCE: Final = 128  # a statement of some 100 KB; the items beyond it wait for the next write
# A time-out that is noticed this late ran out while the process was paused or had no processor.
STALLED_SECONDS: Final = 0.5


@dataclass(eq=False, slots=True)
class _Place(Generic[Item, Result]):
    """An item that waits, and how its caller hears of the outcome: on its event loop, or (``None``) on its thread."""

    item: Item
    future: asyncio.Future[Result] | futures.Future[Result]
    loop: asyncio.AbstractEventLoop | None


class GroupCommit(Generic[Item, Result]):
    """``write_all`` writes items and returns their results in order; it runs on the one thread of this object, named ``name``.

    A result may be an item's own error. ``is_about_one`` tells which errors that it raises are about an item's content.
    ``rest_seconds`` lie at least between the beginnings of two writes.
    """

    def __init__(
        self,
        write_all: Callable[[Sequence[Item]], Sequence[Result | Exception]],
        *,
        is_about_one: Callable[[Exception], bool],
        name: str,
        rest_seconds: float = 0.0,
    ) -> None:
        self._rest_seconds = rest_seconds
        self._write_all = write_all
        self._is_about_one = is_about_one
        self._name = name
        self._changed = threading.Condition()
        self._waiting: list[_Place[Item, Result]] = []
        self._being_written: list[_Place[Item, Result]] = []
        self._wake_is_due = False
        self._began = 0.0
        self._limits: Deadlines[asyncio.Future[Result]] | None = None
        self._thread: threading.Thread | None = None
        self._trouble = RateLimitedLog(1)

    @property
    def busy_seconds(self) -> float:
        """For how long the present write has been on its way; 0 if there is none."""
        return time.monotonic() - self._began if self._being_written else 0.0

    async def write(self, item: Item, *, wait_seconds: float) -> Result:
        """Return the item's result once it is written. Raises what ``write_all`` raised, or ``TimeoutError``."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        limits = self._limits_on(loop, wait_seconds)
        with self._changed:
            self._waiting.append(_Place(item, future, loop))
            if not self._being_written and not self._wake_is_due:
                self._wake_is_due = True
                loop.call_soon(self._wake)  # not at once: the items of this turn of the loop go along
        limits.begin(future)
        try:
            return await future
        finally:
            limits.end(future)

    def write_blocking(self, item: Item, *, wait_seconds: float) -> Result:
        """Do the same for a caller on a thread."""
        future: futures.Future[Result] = futures.Future()
        with self._changed:
            self._waiting.append(_Place(item, future, None))
            self._notify()
        while True:
            due_at = time.monotonic() + wait_seconds
            try:
                return future.result(wait_seconds)
            except TimeoutError:
                if future.done() or time.monotonic() - due_at <= STALLED_SECONDS:
                    future.cancel()
                    raise

    def give_up(self) -> None:
        """Let all callers that wait now have their ``TimeoutError`` at once; what is on its way may still be written."""
        with self._changed:
            places, self._waiting = [*self._being_written, *self._waiting], []
        _settle(places, [TimeoutError() for _ in places])

    def _limits_on(self, loop: asyncio.AbstractEventLoop, wait_seconds: float) -> Deadlines[asyncio.Future[Result]]:
        """The limits that all callers of a loop share; they are made again for another loop, or another time."""
        limits = self._limits
        if limits is None or limits.loop is not loop or limits.seconds != wait_seconds:

            def expire(future: asyncio.Future[Result], due_at: float) -> None:
                """The time is over. Where the process itself stood still in that time, the item never had it: wait once more."""
                if loop.time() - due_at > STALLED_SECONDS and not future.done():
                    made.begin(future)
                elif not future.done():
                    future.set_exception(TimeoutError())

            made = limits = self._limits = Deadlines(loop, wait_seconds, expire)
        return limits

    def _wake(self) -> None:
        with self._changed:
            self._wake_is_due = False
            self._notify()

    def _notify(self) -> None:
        """Wake the writing thread, which begins with the first item: a process that forks before has none yet."""
        if self._thread is None:
            thread = VitalThread(self._run, name=self._name)
            thread.start()  # it may raise, where no thread can be had; the next item tries again
            self._thread = thread
        self._changed.notify()

    def _run(self) -> None:
        while True:
            batch = self._next_batch()
            try:
                _settle(batch, self._outcomes([place.item for place in batch]))
            except Exception as error:  # noqa: BLE001  (a thread's border: without it no later item is ever written)
                self._trouble.warning("batch_not_settled", writer=self._name, error=type(error).__name__)
                _settle(batch, [error] * len(batch))

    def _next_batch(self) -> Sequence[_Place[Item, Result]]:
        """Wait for items, and take the first of them; items whose callers gave up are left out."""
        with self._changed:
            self._being_written = []
            self._rest()
            while True:
                waiting = [place for place in self._waiting if not place.future.done()]
                batch, self._waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
                if batch:
                    self._being_written, self._began = batch, time.monotonic()
                    return batch
                self._changed.wait()

    def _rest(self) -> None:
        """Let items gather until the next write may begin, or is full; the lock is free meanwhile."""
        due_at = self._began + self._rest_seconds
        while len(self._waiting) < AT_ONCE and (left := due_at - time.monotonic()) > 0:
            self._changed.wait(left)

    def _outcomes(self, items: Sequence[Item]) -> Sequence[Result | Exception]:
        try:
            return self._write_all(items)
        except Exception as error:  # noqa: BLE001  (a thread's border; the item's caller raises it)
            if len(items) == 1 or not self._is_about_one(error):
                return [error] * len(items)
        return [outcome for item in items for outcome in self._outcomes([item])]


def _settle(places: Sequence[_Place[Item, Result]], outcomes: Sequence[Result | Exception]) -> None:
    """Give each caller its outcome: threads at once, an event loop all of its own in one call."""
    of_loops: dict[asyncio.AbstractEventLoop, list[tuple[_Place[Item, Result], Result | Exception]]] = {}
    for place, outcome in zip(places, outcomes, strict=True):
        if place.loop is None:
            _set(place, outcome)
        else:
            of_loops.setdefault(place.loop, []).append((place, outcome))
    for loop, settled in of_loops.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed, and its callers are gone
            loop.call_soon_threadsafe(_set_all, settled)


def _set_all(settled: Sequence[tuple[_Place[Item, Result], Result | Exception]]) -> None:
    for place, outcome in settled:
        _set(place, outcome)


def _set(place: _Place[Item, Result], outcome: Result | Exception) -> None:
    if place.future.done():  # its caller gave up
        return
    with contextlib.suppress(futures.InvalidStateError):  # ... or, on a thread, does so at this moment
        if isinstance(outcome, Exception):
            place.future.set_exception(outcome)
        else:
            place.future.set_result(outcome)
