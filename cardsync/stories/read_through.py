"""What both read-through refreshes share (``refresh``, ``refresh_agreement``): how a reader is served, and how it waits.

The reader waits for a row that a worker changes, within a bound, on a thread of the API. So only some readers may wait at once
(``a_place``), and each looks at the row again and again: ``LISTEN`` would hold a connection for each reader.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, Literal, Protocol

from cardsync import metrics

WAIT_SECONDS: Final = 5.0  # a checkout page's patience; also well below the 15 s of any proxy
POLL_SECONDS: Final = 0.05

# fresh: served at once. waited: served after a wait. stale: the wait was in vain. crowded: too many readers wait already, so this
# one did not. cooling: the customer was asked about a moment ago, and may not be again yet. spent: the key has caused all the
# calls that it may cause today. The last four get what is known.
Served = Literal["fresh", "waited", "stale", "crowded", "cooling", "spent"]


class Known(Protocol):
    """What is known of a customer or an agreement, as of when (``None``: never), and when Ottu is asked next."""

    @property
    def as_of(self) -> dt.datetime | None:
        """When Ottu was asked for what is known."""
        ...

    @property
    def read_at(self) -> dt.datetime:
        """The database's clock when this was read."""
        ...

    @property
    def failures(self) -> int:
        """How often Ottu was asked in vain since then."""
        ...

    @property
    def due_in_seconds(self) -> float | None:
        """When Ottu is asked next: 0 now, ``None`` never."""
        ...


def measured(serve: Callable[[float], Served], wait_seconds: float) -> Served:
    """Serve a reader until a deadline (of ``time.monotonic``), and count how it was served and how long that took."""
    began = time.monotonic()
    served = serve(began + wait_seconds)
    metrics.READER_SECONDS.labels(served).observe(time.monotonic() - began)
    return served


@contextlib.contextmanager
def a_place(places: threading.BoundedSemaphore) -> Iterator[bool]:
    """Take one of the places for waiting, for the block; say whether one was free."""
    free = places.acquire(blocking=False)
    try:
        yield free
    finally:
        if free:
            places.release()


def oldest(known: Known, max_age_seconds: float) -> dt.datetime:
    """The oldest moment that is new enough for a reader who came when this was read."""
    return known.read_at - dt.timedelta(seconds=max_age_seconds)


def is_of(known: Known, since: dt.datetime) -> bool:
    """Whether what is known was asked for at ``since`` or later."""
    return known.as_of is not None and known.as_of >= since


def wait(look: Callable[[], Known | None], began: Known, since: dt.datetime, deadline: float) -> bool:
    """Wait for an answer asked for at ``since`` or later, or until it is clear that none comes in time; true if it came.

    ``look`` reads what is known now: ``None`` if it is not known any more, since Ottu has nothing of what only a reader named.
    """
    while True:
        now = look()
        if now is None or is_of(now, since):
            return True
        remaining = deadline - time.monotonic()
        # A failure puts the next attempt off, and so does a closed gate. Waiting longer would not help then.
        if remaining <= 0 or now.failures > began.failures or (now.due_in_seconds or 0.0) > remaining:
            return False
        time.sleep(min(POLL_SECONDS, remaining))
