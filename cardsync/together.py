"""One write for all who wait: whoever comes first writes, and those who come meanwhile are the next write.

Why: a commit costs PostgreSQL a flush and us a round trip, however many rows it holds. Under load, rows that arrive while one
commit is on its way share the next; when nobody else is there nobody is waited for, so a single write is as fast as ever. Each
caller returns only after the write that held its item.

Rules: no thread of its own; a caller leads one write at the most, so that none pays for all the others; one write at a time.
A write that fails for what is in it is done again by each caller alone: one bad item spoils nothing for its neighbours.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_ONCE: Final = 64  # items in one write: more than most processes have threads, and still a short statement


class _Place(Generic[Item, Result]):
    """One caller's place in the queue. Its lock is released when there is something for it: an outcome, or the lead."""

    __slots__ = ("called", "error", "item", "leads", "result")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.called = threading.Lock()
        self.called.acquire()
        self.leads = False
        self.result: tuple[Result] | None = None
        self.error: BaseException | None = None


class Together(Generic[Item, Result]):
    """``write_all`` writes several items and returns a result for each, in order; it runs on the callers' own threads.

    ``is_for_one`` tells which of its errors are about an item rather than about everybody.
    """

    def __init__(
        self,
        write_all: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        is_for_one: Callable[[BaseException], bool],
        wait_seconds: float,
    ) -> None:
        self._write_all = write_all
        self._is_for_one = is_for_one
        self._wait_seconds = wait_seconds
        self._lock = threading.Lock()
        self._writing = False
        self._waiting: deque[_Place[Item, Result]] = deque()

    def write(self, item: Item) -> Result:
        """Return the item's result once it is written.

        Raises what ``write_all`` raised, or ``TimeoutError`` if its turn did not come in time.
        """
        place: _Place[Item, Result] = _Place(item)
        with self._lock:
            if self._writing:
                self._waiting.append(place)
            else:
                self._writing = place.leads = True
        if not place.leads:
            self._wait(place)
        if place.leads:
            self._lead(place)
        if place.result is not None:
            return place.result[0]
        assert place.error is not None
        if self._is_for_one(place.error):
            return self._write_all([item])[0]
        raise place.error

    def _wait(self, place: _Place[Item, Result]) -> None:
        """Wait for the outcome, or for the lead."""
        if place.called.acquire(timeout=self._wait_seconds):
            return
        with self._lock:
            if place in self._waiting:
                self._waiting.remove(place)
                raise TimeoutError
        place.called.acquire()  # its write is under way, and bounded by its own time-outs

    def _lead(self, mine: _Place[Item, Result]) -> None:
        """Write for oneself and for all who wait, then hand the lead on."""
        batch = [mine]
        with self._lock:
            while self._waiting and len(batch) < AT_ONCE:
                batch.append(self._waiting.popleft())
        try:
            results = self._write_all([place.item for place in batch])
            for place, result in zip(batch, results, strict=True):
                place.result = (result,)
        except BaseException as error:  # noqa: BLE001  (it is each caller's to raise)
            for place in batch:
                place.error = error
        self._hand_on()
        for place in batch[1:]:
            place.called.release()

    def _hand_on(self) -> None:
        """Whoever has waited longest leads next. Taken out of the queue here, so that nobody else can write for it."""
        with self._lock:
            if not self._waiting:
                self._writing = False
                return
            successor = self._waiting.popleft()
            successor.leads = True
        successor.called.release()
