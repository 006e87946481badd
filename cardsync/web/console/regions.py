"""Regions of a page: each is read by itself, so that one which takes too long leaves the others standing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from cardsync.web.cached_check import CachedCheck, NoAnswer
from cardsync.web.console.site import Site

log = structlog.get_logger(__name__)

Value = TypeVar("Value")
Missing = Literal["slow", "away"]

_CANCELLED: Final = "57014"  # query_canceled: the statement's time-out
WAIT_SECONDS: Final = 1.5  # for a figure that all viewers share


@dataclass(frozen=True, slots=True)
class Region(Generic[Value]):
    """What was read, or why it was not: it took longer than a statement may, or the database does not answer."""

    value: Value | None
    missing: Missing | None = None


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
        with engine.connect() as connection:
            return question(connection)

    return CachedCheck(ask, keep_seconds=keep_seconds)


def read_shared(figure: CachedCheck[Value]) -> Region[Value]:
    """A figure that is the same for all viewers and kept for some seconds; an older one is better than none."""
    try:
        return Region(figure.read(wait_seconds=WAIT_SECONDS))
    except NoAnswer:
        return Region(figure.latest(), None if figure.latest() is not None else "slow")
    except SQLAlchemyError as error:
        return Region(figure.latest(), None if figure.latest() is not None else _why(error))


def _why(error: SQLAlchemyError) -> Missing:
    is_slow = isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) == _CANCELLED
    log.warning("region_not_read", error=type(error).__name__, slow=is_slow)
    return "slow" if is_slow else "away"
