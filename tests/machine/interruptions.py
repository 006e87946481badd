"""A crash, or a database that goes away, at any step of a story: injected where SQLAlchemy speaks to the database.

The stories themselves are not touched. ``Crash`` is a ``BaseException``, so that no ``except Exception`` survives what a
SIGKILL would not let survive; whatever transaction is open is rolled back, as the server would.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import psycopg
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError

Moment = Literal["before_statement", "after_statement", "before_commit", "after_commit"]
How = Literal["crash", "cut", "away"]


class Crash(BaseException):
    """The process is killed here."""


@dataclass(frozen=True, slots=True)
class Interruption:
    """At the ``nth`` such moment of a story: the process dies, one connection is cut, or the database stays away.

    ``after_commit``: the server has committed, and the process never hears of it.
    """

    moment: Moment
    nth: int
    how: How


_TRANSACTIONS: Final[tuple[tuple[Moment, tuple[int, ...]], ...]] = (
    ("before_statement", (1, 2, 3, 4, 5, 6, 8, 10, 13)),
    ("before_commit", (1, 2, 3)),
    ("after_commit", (1, 2, 3)),
)
_HOW: Final[tuple[How, ...]] = ("crash", "cut", "away")
IN_A_TRANSACTION: Final = tuple(
    Interruption(moment, nth, how) for moment, places in _TRANSACTIONS for nth, how in itertools.product(places, _HOW)
)
_AROUND_A_STATEMENT: Final[tuple[Moment, ...]] = ("before_statement", "after_statement")
OF_ONE_STATEMENT: Final = tuple(
    Interruption(moment, 1, how) for moment, how in itertools.product(_AROUND_A_STATEMENT, _HOW)
)

# Whether the secret is the database's: one statement, or three the first time; then the batch.
OF_A_DRAIN: Final = tuple(
    Interruption(moment, nth, how) for moment, nth, how in itertools.product(_AROUND_A_STATEMENT, (1, 2, 4), _HOW)
)


class Interrupter:
    """Listens to engines and strikes when it is armed."""

    def __init__(self) -> None:
        self._armed: Interruption | None = None
        self._seen = 0

    def listen(self, engine: Engine) -> None:
        """Stand between this engine and its database."""
        event.listen(engine, "before_cursor_execute", lambda *_: self._reached("before_statement"))
        event.listen(engine, "after_cursor_execute", lambda *_: self._reached("after_statement"))
        event.listen(engine, "commit", self._at_commit)

    @contextmanager
    def armed(self, interruption: Interruption | None) -> Iterator[None]:
        """Strike once within the block, or from that moment on if the database stays away; ``None`` strikes never."""
        self._armed, self._seen = interruption, 0
        try:
            yield
        finally:
            self._armed = None

    def _at_commit(self, connection: Connection) -> None:
        self._reached("before_commit")
        if self._armed is not None and self._armed.moment == "after_commit" and self._seen + 1 == self._armed.nth:
            driver: Any = connection.connection.dbapi_connection
            driver.commit()
        self._reached("after_commit")

    def _reached(self, moment: Moment) -> None:
        armed = self._armed
        if armed is None:
            return
        if armed.moment == moment:
            self._seen += 1
        stays_away = armed.how == "away" and self._seen >= armed.nth
        if not stays_away and (armed.moment != moment or self._seen != armed.nth):
            return
        if armed.how == "crash":
            raise Crash
        cut = psycopg.OperationalError("the server closed the connection")
        raise OperationalError("", None, cut, connection_invalidated=True)
