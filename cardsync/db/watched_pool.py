"""SQLAlchemy's pool of connections, with its use and its waits in the metrics.

Rule: ``cardsync.metrics`` is imported when a pool is made and not before, since the place of the metrics is chosen by then.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy.pool import ConnectionPoolEntry, QueuePool


class WatchedPool(QueuePool):
    """A pool whose ``logging_name`` is its name in the metrics, without the program's."""

    def __init__(self, creator: Any, **given: Any) -> None:
        super().__init__(creator, **given)
        from cardsync import metrics

        name = (self.logging_name or "unnamed").removeprefix("cardsync ")
        self._in_use, self._waited = metrics.POOL_IN_USE.labels(name), metrics.POOL_WAIT_SECONDS.labels(name)

    def _do_get(self) -> ConnectionPoolEntry:
        """Give a connection: one that is free, a new one, or one that is given back in time."""
        began = time.perf_counter()
        try:
            got = super()._do_get()
        finally:
            self._waited.observe(time.perf_counter() - began)
        self._in_use.inc()
        return got

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        self._in_use.dec()
        super()._do_return_conn(record)
