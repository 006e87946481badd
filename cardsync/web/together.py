"""One write for all that wait: what arrives while one commit is on its way shares the next.

Why: a commit costs PostgreSQL a flush, us a round trip, and every hand-over between threads as much as verifying a hint does.
One thread writes, for as many notifications as are there; the event loop holds the rest, which costs no thread. When nothing
else is there nothing is waited for, so a single write is as fast as ever. A result is given only after the commit that holds it.

Rules: one write at a time, bounded in size; nothing waits longer than it wants to. A write that fails for what is in it is
done again for each item alone: one bad item spoils nothing for its neighbours.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_ONCE: Final = 128  # a statement of some 100 KB; more take as long as they take, and the next ones wait
# A time that is noticed to be over so much too late was over while the process was paused or had no processor.
STALLED_SECONDS: Final = 0.5


class Together(Generic[Item, Result]):
    """``write_all`` writes items and returns their results in order; it runs on the one thread of this object, named ``name``.

    ``is_about_one`` tells which of its errors are an item's own. All else is called on one event loop.
    """

    def __init__(
        self,
        write_all: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        is_about_one: Callable[[Exception], bool],
        name: str,
    ) -> None:
        self._write_all = write_all
        self._is_about_one = is_about_one
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._writing = False
        self._written: list[tuple[Item, asyncio.Future[Result]]] = []
        self._began = 0.0
        self._batches: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, list[tuple[Item, asyncio.Future[Result]]]]]
        self._batches = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    @property
    def busy_seconds(self) -> float:
        """For how long the write that is on its way has been; 0 if there is none."""
        return time.monotonic() - self._began if self._written else 0.0

    async def write(self, item: Item, *, wait_seconds: float) -> Result:
        """Return the item's result once it is written. Raises what ``write_all`` raised, or ``TimeoutError``."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, future))
        if not self._writing:
            self._writing = True
            loop.call_soon(self._send, loop)  # not at once: what this turn of the loop brings goes along
        bound = loop.call_later(wait_seconds, self._expire, loop, future, wait_seconds, loop.time() + wait_seconds)
        try:
            return await future
        finally:
            bound.cancel()

    def _expire(
        self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[Result], wait_seconds: float, due_at: float
    ) -> None:
        """The time is over; but where the process itself stood still meanwhile, nobody was asked in it: once more."""
        if loop.time() - due_at > STALLED_SECONDS and not future.done():
            loop.call_later(wait_seconds, self._expire, loop, future, wait_seconds, loop.time() + wait_seconds)
        else:
            _give_up(future)

    def give_up(self) -> None:
        """Let all who wait now have their ``TimeoutError`` at once; what is on its way may still be written."""
        for _, future in (*self._written, *self._waiting):
            _give_up(future)

    def _send(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hand what waits to the thread; those who gave up are left out."""
        waiting = [place for place in self._waiting if not place[1].done()]
        batch, self._waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
        self._writing = bool(batch)
        self._written, self._began = batch, time.monotonic()
        if batch:
            self._batches.put((loop, batch))

    def _run(self) -> None:
        while True:
            loop, batch = self._batches.get()
            outcomes = self._outcomes([item for item, _ in batch])
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there to be told
                loop.call_soon_threadsafe(self._deliver, loop, batch, outcomes)

    def _outcomes(self, items: Sequence[Item]) -> Sequence[Result | Exception]:
        try:
            return self._write_all(items)
        except Exception as error:  # noqa: BLE001  (a thread's border; whoever waits for the item raises it)
            if len(items) == 1 or not self._is_about_one(error):
                return [error] * len(items)
        return [outcome for item in items for outcome in self._outcomes([item])]

    def _deliver(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: Sequence[tuple[Item, asyncio.Future[Result]]],
        outcomes: Sequence[Result | Exception],
    ) -> None:
        self._send(loop)  # first, so that the database works while the answers are written
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)


def _give_up(future: asyncio.Future[Result]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())
