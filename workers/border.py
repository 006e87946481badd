"""The border of a worker's process: no failure of a job passes, and its text is not logged.

The row that a failed job left is still due. A database's text can quote a row, and a row can hold a token. So only types and
places in the code are logged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from cardsync import db
from cardsync.episodes import Episode
from cardsync.errors import places

log = structlog.get_logger(__name__)

_away = Episode("database_lost")


@contextmanager
def at_the_border(name: str) -> Iterator[None]:
    """Log what goes wrong inside, by its type, and let it end here."""
    try:
        yield
    except DBAPIError as error:
        sqlstate, why = getattr(error.orig, "sqlstate", None), db.why(error)
        if (
            sqlstate is None or error.connection_invalidated
        ):  # no session: so it is with every job, several times a second
            _away.goes_on(task=name, error=type(error).__name__, why=why)
        else:
            log.warning("task_failed", task=name, error=type(error).__name__, sqlstate=sqlstate, why=why)
    except PoolTimeout as error:
        _away.goes_on(task=name, error=type(error).__name__, why=db.why(error))
    except Exception as error:  # noqa: BLE001  (a process's border)
        log.error("task_failed", task=name, error=type(error).__name__, where=places(error))
    else:
        _away.is_over()


def guarded(name: str, work: Callable[[], object]) -> Callable[[], None]:
    """The work behind the border."""

    def job() -> None:
        with at_the_border(name):
            work()

    return job
