"""The way to PostgreSQL: engines with every wait bounded, one transaction at a time, and the migrations.

All times are the database's (``clock_timestamp()``), so that hosts' clocks may differ.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Engine, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError

from cardsync.errors import Misconfigured

SCHEMA: Final = "cardsync"  # the private tables; what others may read stands in the schema `registry`

# A person waits behind a webhook and Ottu gives up after 15 s: no statement of ours may come near that. A connection that
# died without a word is noticed by keepalives after about 15 s (the kernel's default is two hours).
STATEMENT_TIMEOUT_MS: Final = 5_000
LOCK_TIMEOUT_MS: Final = 3_000
IDLE_IN_TRANSACTION_TIMEOUT_MS: Final = 30_000
CONNECT_TIMEOUT_S: Final = 2
KEEPALIVES: Final = {
    "keepalives": "1",
    "keepalives_idle": "5",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}


def sqlalchemy_url(database_url: str) -> URL:
    """Return the URL for SQLAlchemy with psycopg 3, whichever of PostgreSQL's usual schemes it has.

    Raises ``Misconfigured`` if it is no URL.
    """
    try:
        url = make_url(database_url.replace("postgres://", "postgresql://", 1))
    except (ArgumentError, ValueError):  # their texts quote the URL, and with it the password
        raise Misconfigured(
            "CARDSYNC_DATABASE_URL is wrong: it must be postgresql://user:password@host:port/database, with signs like "
            "@, : and / in a name or password percent-encoded"
        ) from None
    return url.set(drivername="postgresql+psycopg")


def make_engine(
    database_url: str,
    *,
    name: str = "cardsync",
    pool_size: int = 5,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
    autocommit: bool = False,
) -> Engine:
    """Make an engine whose connections carry our time-outs; ``name`` shows in ``pg_stat_activity``. Connects lazily.

    With ``autocommit`` each statement commits by itself, in one round trip: for the webhook's single insert, and for a
    session that holds a lock and must hold no transaction.
    """
    return create_engine(
        sqlalchemy_url(database_url),
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=CONNECT_TIMEOUT_S,
        pool_pre_ping=False,  # a round trip for every hint; a dead connection costs one retry instead
        pool_recycle=1_800,
        hide_parameters=True,  # an error's text would show them, and a token may be one
        isolation_level="AUTOCOMMIT" if autocommit else "READ COMMITTED",
        skip_autocommit_rollback=autocommit,
        connect_args={
            "application_name": name,
            "connect_timeout": CONNECT_TIMEOUT_S,
            "options": (
                f"-c statement_timeout={statement_timeout_ms} -c lock_timeout={LOCK_TIMEOUT_MS} "
                f"-c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_TIMEOUT_MS} -c timezone=UTC"
            ),
            **KEEPALIVES,
        },
    )


def migrations_path() -> Path:
    """The folder of the migrations: inside the installed package, or at the top of a checkout."""
    inside = Path(str(resources.files("cardsync"))) / "migrations"
    return inside if inside.is_dir() else Path(__file__).resolve().parent.parent / "migrations"


def alembic_config(database_url: str) -> Config:
    """Alembic's configuration for one database, from any directory."""
    config = Config()
    config.set_main_option("script_location", str(migrations_path()))
    config.attributes["database_url"] = database_url
    return config


def upgrade(database_url: str, revision: str = "head") -> None:
    """Migrate the database up to ``revision``. Safe to run from several places at once: an advisory lock orders them."""
    command.upgrade(alembic_config(database_url), revision)


def downgrade(database_url: str, revision: str) -> None:
    """Migrate the database down to ``revision`` (``base`` removes everything but the roles)."""
    command.downgrade(alembic_config(database_url), revision)


_IS_HALF_MADE = text("SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")


def make_index(context: MigrationContext, name: str, on: str) -> None:
    """In a migration: make an index of ours while traffic goes on; one that was interrupted is there, unusable, and made anew.

    Not part of a transaction: what the migration does besides may have been done before when it is run again. Making it waits
    for transactions that began before, and nobody waits behind it, so that no lock is given up after seconds.
    """
    with context.autocommit_block():
        connection = context.connection
        assert connection is not None
        patience = connection.execute(text("SHOW lock_timeout")).scalar_one()
        connection.execute(text("SET lock_timeout = 0"))
        if connection.execute(_IS_HALF_MADE, {"name": f"{SCHEMA}.{name}"}).scalar_one_or_none():
            connection.execute(text(f"DROP INDEX CONCURRENTLY {SCHEMA}.{name}"))
        connection.execute(text(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {SCHEMA}.{on}"))
        connection.execute(text(f"SET lock_timeout = '{patience}'"))


def newest_revision() -> str | None:
    """The newest migration that this installation carries."""
    return ScriptDirectory(str(migrations_path())).get_current_head()


def is_behind(revision: str | None) -> bool:
    """Tell whether a database at ``revision`` needs migrating for this program.

    One that this program does not know is newer: migrations come before new code, and old code must go on beside it.
    """
    if revision is None:
        return True
    known = {script.revision for script in ScriptDirectory(str(migrations_path())).walk_revisions()}
    return revision in known and revision != newest_revision()


def current_revision(engine: Engine) -> str | None:
    """The migration that the database is at, ``None`` for a database that was never migrated."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table_schema": SCHEMA})
        return context.get_current_revision()
