"""Regions of a page: each is read by itself, so that one which takes too long leaves the others standing.

A figure that is the same for all viewers is read in the background, and a page hardly waits for it: it shows the last one that
is known, with its time if that is not a new one, or says that it is being counted.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar

import structlog
from flask import g
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from cardsync.web.cached_check import CachedCheck, NoAnswer
from cardsync.web.console.site import Site

log = structlog.get_logger(__name__)

Value = TypeVar("Value")
Missing = Literal["slow", "away", "counting"]

_CANCELLED: Final = "57014"  # query_canceled: the statement's time-out
# A page waits so long for all such figures together: they are there by then on small tables, and a page has 300 ms.
WAIT_SECONDS: Final = 0.1
# Of the two connections one is left for what pages read themselves.
_one_figure_at_a_time: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class Region(Generic[Value]):
    """What was read, or why it was not: it took longer than a statement may, the database does not answer, or it is being read.

    ``read_at``: when it was read, of a figure that is older than figures are kept.
    """

    value: Value | None
    missing: Missing | None = None
    read_at: dt.datetime | None = None


def read(question: Callable[[Connection], Value]) -> Region[Value]:
    """Ask the database for one region."""
    try:
        with Site.here().engine.connect() as connection:
            return Region(question(connection))
    except SQLAlchemyError as error:
        return Region(None, _why(error))


def kept(engine: Engine, question: Callable[[Connection], Value], *, keep_seconds: float) -> CachedCheck[Value]:
    """A figure that is asked for once for all viewers, and kept for some seconds."""

    def ask() -> Value:
        with _one_figure_at_a_time, engine.connect() as connection:
            return question(connection)

    return CachedCheck(ask, keep_seconds=keep_seconds)


def read_shared(figure: CachedCheck[Value]) -> Region[Value]:
    """A figure that is the same for all viewers. It is read again in the background if it is old, and shown meanwhile."""
    if "figures_awaited_until" not in g:
        g.figures_awaited_until = time.monotonic() + WAIT_SECONDS
    try:
        return Region(figure.read(wait_seconds=g.figures_awaited_until - time.monotonic()))
    except NoAnswer:
        return _last_of(figure, "counting")
    except SQLAlchemyError as error:
        return _last_of(figure, _why(error))


def _last_of(figure: CachedCheck[Value], missing: Missing) -> Region[Value]:
    last = figure.latest()
    if last is None:
        return Region(None, missing)
    return Region(last.value, read_at=dt.datetime.now(dt.UTC) - dt.timedelta(seconds=last.age_seconds))


def _why(error: SQLAlchemyError) -> Missing:
    is_slow = isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) == _CANCELLED
    log.warning("region_not_read", error=type(error).__name__, slow=is_slow)
    return "slow" if is_slow else "away"
