"""The border of a worker's process: no failure of a job passes, and its text is not logged.

The row that a failed job left is still due. A database's text can quote a row, and a row can hold a token. So only types and
places in the code are logged.

A trouble that lasts is one line when it begins and one when it ends, however many jobs meet it: a login that lost a right fails
several jobs a second. Jobs of one task are about different rows, so that one fails and the next one succeeds. So a refusal ends
once it was not met for ``QUIET_SECONDS``. A database that is away ends for each task with its next success.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from cardsync import db
from cardsync.episodes import Episode, Level
from cardsync.errors import places

QUIET_SECONDS: Final = 30.0  # a row that fails is tried again sooner at first


class Trouble:
    """One kind of trouble, and when each task met it last."""

    def __init__(self, event: str, *, level: Level, clock: Callable[[], float]) -> None:
        self.episode = Episode(event, level=level, clock=clock)
        self.met_at: dict[str, float] = {}
        self.ending: Mapping[str, object] = {}  # what its last line says of it


class Border:
    """What goes wrong in one process. Safe to be used by several threads. ``clock`` is for intervals, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._troubles: dict[tuple[str, ...], Trouble] = {}

    @contextmanager
    def around(self, task: str) -> Iterator[None]:
        """Log what goes wrong inside, by its type, and let it end here."""
        try:
            yield
        except DBAPIError as error:
            sqlstate, why = getattr(error.orig, "sqlstate", None), db.why(error)
            kind = type(error).__name__
            if sqlstate is None or error.connection_invalidated:  # no session: so it is with every job
                self._lost(task, error=kind, why=why)
            else:
                self._failed(task, "warning", str(sqlstate), error=kind, sqlstate=sqlstate, why=why)
        except PoolTimeout as error:
            self._lost(task, error=type(error).__name__, why=db.why(error))
        except Exception as error:  # noqa: BLE001  (a process's border)
            where = places(error)
            self._failed(task, "error", str(where), error=type(error).__name__, where=where)
        else:
            if self._troubles:  # what nearly always holds costs no lock
                self._succeeded(task)

    def _lost(self, task: str, **facts: object) -> None:
        self._meets(("database_lost",), task, "warning", facts, ending={})

    def _failed(self, task: str, level: Level, apart: str, *, error: str, **facts: object) -> None:
        ending = {"task": task, "error": error}
        self._meets(("task_failed", task, error, apart), task, level, {"error": error, **facts}, ending=ending)

    def _meets(
        self, key: tuple[str, ...], task: str, level: Level, facts: dict[str, object], *, ending: Mapping[str, object]
    ) -> None:
        with self._lock:
            trouble = self._troubles.setdefault(key, Trouble(key[0], level=level, clock=self._clock))
            trouble.met_at[task], trouble.ending = self._clock(), ending
            trouble.episode.goes_on(task=task, **facts)

    def _succeeded(self, task: str) -> None:
        with self._lock:
            old = self._clock() - QUIET_SECONDS
            for key, trouble in tuple(self._troubles.items()):
                if key[0] == "database_lost":
                    trouble.met_at.pop(task, None)
                if all(met_at < old for met_at in trouble.met_at.values()):
                    del self._troubles[key]
                    trouble.episode.is_over(**trouble.ending)


_border = Border()


def at_the_border(name: str) -> AbstractContextManager[None]:
    """Log what goes wrong inside in this process, by its type, and let it end there."""
    return _border.around(name)


def guarded(name: str, work: Callable[[], object]) -> Callable[[], None]:
    """The work behind the border."""

    def job() -> None:
        with at_the_border(name):
            work()

    return job
