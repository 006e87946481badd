"""The way to PostgreSQL: engines with every wait bounded, one transaction at a time, and the migrations.

All times are the database's (``clock_timestamp()``), so that hosts' clocks may differ. What the code relies on is set in every
session and verified (``session``). A session that turns out to be read-only is closed at once.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import psycopg
from sqlalchemy import URL, Connection, Engine, Pool, create_engine, event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, InvalidatePoolError

from cardsync.db.address import Address, Place
from cardsync.db.driver import driver_cursor
from cardsync.db.migrating import (
    alembic_config,
    current_revision,
    downgrade,
    include_name,
    is_behind,
    is_newer,
    make_index,
    migrations_path,
    newest_revision,
    script,
    tell_of_another_schema,
    tell_of_another_schema_once_it_answers,
    upgrade,
)
from cardsync.db.pipeline import Answer, Pipeline, Transaction, pipelined
from cardsync.db.reasons import why
from cardsync.db.server_memory import ServerMemory
from cardsync.db.session import (
    CONNECT_TIMEOUT_S,
    KEEPALIVES,
    LOCK_TIMEOUT_MS,
    READ_ONLY,
    SCHEMA,
    SESSION,
    STATEMENT_TIMEOUT_MS,
    Sessions,
    UnusableServer,
    unusable,
)
from cardsync.db.watched_pool import WatchedPool

__all__ = [
    "CONNECT_TIMEOUT_S",
    "KEEPALIVES",
    "LOCK_TIMEOUT_MS",
    "SCHEMA",
    "SESSION",
    "STATEMENT_TIMEOUT_MS",
    "Answer",
    "Pipeline",
    "Place",
    "Transaction",
    "UnusableServer",
    "alembic_config",
    "current_revision",
    "downgrade",
    "driver_cursor",
    "include_name",
    "is_behind",
    "is_newer",
    "make_engine",
    "make_index",
    "migrations_path",
    "moment",
    "newest_revision",
    "once_more_if_the_connection_was_dead",
    "pipelined",
    "script",
    "sqlalchemy_url",
    "tell_of_another_schema",
    "tell_of_another_schema_once_it_answers",
    "unusable",
    "upgrade",
    "why",
]

T = TypeVar("T")


def sqlalchemy_url(database_url: str) -> URL:
    """Return an address for SQLAlchemy with psycopg 3. Raises ``Misconfigured`` if it is none."""
    return Address.read(database_url).url


def make_engine(
    database_url: str | Callable[[], str],
    *,
    name: str = "cardsync",
    pool_size: int = 5,
    most: int | None = None,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
    autocommit: bool = False,
    session: Mapping[str, str] | None = None,
    of_its_own: bool = False,
    poolclass: type[Pool] | None = None,
) -> Engine:
    """Make an engine whose connections carry our time-outs; ``name`` shows in ``pg_stat_activity``. Connects lazily.

    With ``autocommit`` each statement commits by itself, in one round trip: for the webhook's single insert, and for a
    session that holds a lock and must hold no transaction. The engine holds ``most`` connections, or twice
    ``pool_size``. ``session`` sets more, ``of_its_own`` refuses a pooler, and ``poolclass`` is SQLAlchemy's. An address that
    is a function is asked at each connection; one that is a ``Place`` has a data folder that remembers the newest server, and
    an older one is refused.

    Raises ``Misconfigured`` for an address that is none, or that names a file which cannot be read.
    """
    read = database_url if callable(database_url) else _always(database_url)
    settings = {"statement_timeout": str(statement_timeout_ms), **(session or {})}
    memory = ServerMemory(read.data_dir) if isinstance(read, Place) else None
    sessions = Sessions(read, name=name, settings=settings, of_its_own=of_its_own, memory=memory)
    address = sessions.address()
    address.require_readable_files()
    if poolclass is None:
        most = 2 * pool_size if most is None else most
        pool: dict[str, Any] = {
            "poolclass": WatchedPool,
            "pool_logging_name": name,
            "pool_size": min(pool_size, most),
            "max_overflow": max(0, most - pool_size),
            "pool_timeout": CONNECT_TIMEOUT_S,
            "pool_pre_ping": False,  # a round trip for every hint; a dead connection costs one retry instead
            "pool_recycle": 1_800,
            # The one that was used last: its statements are prepared, and its server's caches warm. The others may stay unopened.
            "pool_use_lifo": True,
        }
    else:
        pool = {"poolclass": poolclass}
    engine = create_engine(
        address.url,
        **pool,
        hide_parameters=True,  # an error's text would show them, and a token may be one
        isolation_level="AUTOCOMMIT" if autocommit else "READ COMMITTED",
        skip_autocommit_rollback=autocommit,
    )

    def connect(*_: object) -> psycopg.Connection[Any]:
        return sessions.open()

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "handle_error", _drop_read_only)
    if memory is not None:

        def take(session: object, *_: object) -> None:
            """A session of a primary that was followed is not used again, and neither are the others of the pool."""
            if sessions.is_outdated(session):
                raise InvalidatePoolError

        event.listen(engine, "checkout", take)
    return engine


def _always(database_url: str) -> Callable[[], str]:
    return lambda: database_url


def _drop_read_only(context: ExceptionContext) -> None:
    """After a failover the pool holds sessions of a server that is a standby now: close them all, as if it were gone.

    Without this they are tried again until ``pool_recycle``, while the address leads to a server that takes writes.
    """
    if getattr(context.original_exception, "sqlstate", None) == READ_ONLY:
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = True


def once_more_if_the_connection_was_dead(ask: Callable[[], T]) -> T:
    """Ask, and once more if the pooled connection had died unnoticed (a server that restarted). It must be safe to repeat."""
    try:
        return ask()
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        return ask()


_MOMENT: Final = text("SELECT clock_timestamp()")


def moment(connection: Connection) -> dt.datetime:
    """The database's clock, which ``reconciled_at`` is of."""
    now: dt.datetime = connection.execute(_MOMENT).scalar_one()
    return now
