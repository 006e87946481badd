"""What the tests of ``store`` share: looking at one row, and two transactions at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, Row, text

from tests.waiting import WAIT_SECONDS, until


def one(engine: Engine, statement: str, **parameters: Any) -> Row[Any]:
    """The one row of a query."""
    with engine.connect() as connection:
        return connection.execute(text(statement), parameters).one()


def change(engine: Engine, statement: str, **parameters: Any) -> int:
    """Run one statement and commit it; the number of rows."""
    with engine.begin() as connection:
        return connection.execute(text(statement), parameters).rowcount


@contextmanager
def beside(engine: Engine, work: Callable[[Connection], Any]) -> Iterator[Callable[[], Any]]:
    """Run ``work`` in a transaction of its own, on a thread, while the block runs; the yielded function waits for its result."""
    result: list[Any] = []

    def run() -> None:
        try:
            with engine.begin() as connection:
                result.append(work(connection))
        except Exception as error:  # noqa: BLE001  (a thread's border; the waiting test raises it)
            result.append(error)

    thread = threading.Thread(target=run, daemon=True)

    def wait() -> Any:
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive(), "the other transaction did not end"
        if isinstance(result[0], Exception):
            raise result[0]
        return result[0]

    thread.start()
    yield wait
    thread.join(WAIT_SECONDS)


def wait_until_blocked(engine: Engine, count: int = 1) -> None:
    """Wait until at least ``count`` sessions of this database wait for a lock."""
    statement = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )

    def blocked() -> bool:
        with engine.connect() as connection:
            return bool(connection.execute(statement).scalar_one() >= count)

    until(blocked, f"{count} session(s) wait for a lock")
