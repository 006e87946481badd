"""The driver's own cursor on a pooled connection, for the one statement that every hint waits for.

SQLAlchemy takes 0.4 ms of Python to run a statement and give its connection back, and the driver takes another 0.1 ms to look
for parameters in a text of several kB. A write for eight hints took half of its time so. What a worker does for each hint goes
through a pipeline (``db.pipeline``). All other statements go through SQLAlchemy: there the time does not matter, and it is easier
to read.

What SQLAlchemy does at an error is done here too: the error is one of its own, a dead connection takes the pool's others with
it, and so does a session that turned out to be read-only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import RawCursor
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from cardsync.db.session import READ_ONLY


@contextlib.contextmanager
def driver_cursor(engine: Engine) -> Iterator[RawCursor[Any]]:
    """Lend a cursor, whose statements have ``$1`` for their first parameter. ``engine`` commits each statement by itself.

    Raises SQLAlchemy's ``DBAPIError``, and ``TimeoutError`` of its pool, as ``engine.connect`` and its statements do.
    """
    try:
        pooled = engine.raw_connection()
    except psycopg.Error as error:  # a new session could not be had; SQLAlchemy passes that on bare here
        raise of_sqlalchemy(engine, error, is_dead=False) from error
    try:
        driver = pooled.driver_connection
        assert isinstance(driver, psycopg.Connection)
        if not driver.autocommit:  # nothing would commit, and the hint would be answered all the same
            raise TypeError("the engine must commit each statement by itself")
        try:
            with RawCursor(driver) as cursor:
                yield cursor
        except psycopg.Error as error:
            is_dead = driver.closed
            if is_dead or error.sqlstate == READ_ONLY:
                pooled.invalidate(error)
                engine.dispose()
            raise of_sqlalchemy(engine, error, is_dead=is_dead) from error
    finally:
        pooled.close()


def of_sqlalchemy(engine: Engine, error: psycopg.Error, *, is_dead: bool) -> BaseException:
    """The error that SQLAlchemy makes of the driver's; without statement and parameters, since one may hold a token."""
    return DBAPIError.instance(
        None, None, error, psycopg.Error, hide_parameters=True, connection_invalidated=is_dead, dialect=engine.dialect
    )
