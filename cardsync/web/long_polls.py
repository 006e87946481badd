"""Long polls of the feed: a request that waits for the next change waits on the event loop, and holds no thread.

Flask answers the request as always, on a thread, for a moment: who asks, what is asked, and what is there. If nothing is there
and the caller wants to wait, the answer is held back (``environ[WAITS]``), and the request waits here. When the feed grows, or
the time is over, Flask answers it once more. Under another server than ours there is no event loop to wait on: the empty answer
goes out at once.

Rules: ``PLACES`` wait at once in one process; beyond that Flask's answer is 503 with ``Retry-After``. One thread asks for the
feed's head while a request waits, and rests otherwise. While the database is away all wait on until their time is over. All waits
of a process that was told to stop end, and none begins: its server takes no notification while it waits for requests to end.
Rejected: LISTEN, which needs a session of its own in each web process, and no pooler passes on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from cardsync.episodes import Episode

WAITS: Final = "cardsync.waits"  # set by the view: (after, seconds)
MAY_WAIT: Final = "cardsync.may_wait"  # set by the dispatcher, the first time: whether there is a place to wait
WAITED: Final = "cardsync.waited"  # set by the dispatcher, the second time: the request was counted before

PLACES: Final = 200  # some 20 kB each; a merchant has a handful of consumers
LOOK_SECONDS: Final = 0.1  # one statement that reads one row


class LongPolls:
    """Who waits in this process. ``head`` asks the database for the feed's head, on a thread of this object.

    ``is_leaving`` says whether the process was told to stop.
    """

    def __init__(
        self, head: Callable[[], int], *, places: int = PLACES, is_leaving: Callable[[], bool] = lambda: False
    ) -> None:
        self._head = head
        self._places = places
        self._is_leaving = is_leaving
        self._waiting = 0
        self._asker = ThreadPoolExecutor(1, thread_name_prefix="feed-head")
        self._grown: asyncio.Event | None = None
        self._seen = -1
        self._watch: asyncio.Task[None] | None = None
        self._away = Episode("long_polls_wait_for_the_database")

    @property
    def has_room(self) -> bool:
        """Whether one more may wait."""
        return self._waiting < self._places and not self._is_leaving()

    async def wait(self, after: int, seconds: float) -> None:
        """Return when the feed's head is beyond ``after``, the seconds are over, or the process was told to stop."""
        self._waiting += 1
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._beyond(after)
        finally:
            self._waiting -= 1

    async def _beyond(self, after: int) -> None:
        if self._watch is None or self._watch.done():
            self._grown, self._seen = asyncio.Event(), -1
            self._watch = asyncio.get_running_loop().create_task(self._look())
        while self._seen <= after and not self._is_leaving():
            assert self._grown is not None
            await self._grown.wait()

    async def _look(self) -> None:
        """Ask for the head as long as anybody waits. A lower head than before is told too: the feed went back.

        A database that does not answer holds up no end of the process.
        """
        loop = asyncio.get_running_loop()
        asked: asyncio.Future[int] | None = None
        while self._waiting and not self._is_leaving():
            if asked is None:
                asked = loop.run_in_executor(self._asker, self._head)
            if not (await asyncio.wait({asked}, timeout=LOOK_SECONDS))[0]:
                continue
            self._take(asked)
            asked = None
            await asyncio.sleep(LOOK_SECONDS)
        if asked is not None:
            asked.cancel()
        self._tell()

    def _take(self, answered: asyncio.Future[int]) -> None:
        try:
            head = answered.result()
        except (SQLAlchemyError, OSError) as error:
            self._away.goes_on(error=type(error).__name__)
            return
        self._away.is_over()
        if head != self._seen:
            self._seen = head
            self._tell()

    def _tell(self) -> None:
        """Wake all who wait."""
        if self._grown is not None:
            told, self._grown = self._grown, asyncio.Event()
            told.set()

    def close(self) -> None:
        """Ask no more."""
        self._asker.shutdown(wait=False, cancel_futures=True)
