"""The migrations: where they are, how to run them, and how one makes an index while traffic goes on."""

from __future__ import annotations

import io
import threading
import time
from importlib import resources
from pathlib import Path
from typing import Final

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from cardsync.db.session import ROLE_PREFIX, SCHEMA, unusable
from cardsync.errors import Misconfigured

log = structlog.get_logger(__name__)

ASK_AGAIN_SECONDS: Final = 1.0  # of a database that is away at a process's start


def migrations_path() -> Path:
    """The folder of the migrations: inside the installed package, or at the top of a checkout."""
    inside = Path(str(resources.files("cardsync"))) / "migrations"
    return inside if inside.is_dir() else Path(__file__).resolve().parent.parent.parent / "migrations"


def alembic_config(database_url: str, role_prefix: str = ROLE_PREFIX) -> Config:
    """Alembic's configuration for one database, from any directory."""
    config = Config()
    config.set_main_option("script_location", str(migrations_path()))
    config.attributes["database_url"] = database_url
    config.attributes["role_prefix"] = role_prefix
    return config


def include_name(name: str | None, type_: str, _parents: object) -> bool:
    """Tell Alembic to compare what is in our private schema alone."""
    return name == SCHEMA if type_ == "schema" else True


def upgrade(database_url: str, revision: str = "head", role_prefix: str = ROLE_PREFIX) -> None:
    """Migrate the database up to ``revision``. Several may run at once: they take turns (``migrations/env.py``).

    Raises ``Misconfigured`` for a server that cardsync cannot work with.
    """
    try:
        command.upgrade(alembic_config(database_url, role_prefix), revision)
    except DBAPIError as error:
        why = unusable(error)
        if why is None:
            raise
        raise Misconfigured(why) from None


def downgrade(database_url: str, revision: str) -> None:
    """Migrate the database down to ``revision`` (``base`` removes everything but the roles)."""
    command.downgrade(alembic_config(database_url), revision)


def script(database_url: str, at: str | None, role_prefix: str = ROLE_PREFIX) -> str:
    """The migrations after ``at`` as a script for psql; nothing is sent to the database."""
    config = alembic_config(database_url, role_prefix)
    config.attributes["begins_after"] = at
    config.output_buffer = io.StringIO()
    command.upgrade(config, "head" if at is None else f"{at}:head", sql=True)
    return config.output_buffer.getvalue()


SCRIPT_TIME_OUTS: Final = {"lock_timeout": "5s", "statement_timeout": "15min"}  # as in ``migrations/env.py``
INDEX_WITHOUT: Final = ("lock_timeout", "statement_timeout")  # time-outs that making an index does without
_IS_HALF_MADE = text("SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")


def make_index(context: MigrationContext, name: str, on: str) -> None:
    """In a migration: make an index of ours while traffic goes on. One that was interrupted is there, unusable: make it again.

    Not part of a transaction: what the migration does besides may have been done before when it is run again. Making it waits
    for transactions that began before, and no traffic waits behind it: so it has no time-out, neither for locks nor for the
    statement. On a large inbox it may take hours.
    """
    with context.autocommit_block():
        if context.as_sql:  # a script is written
            _write_index(context, name, on)
            return
        connection = context.connection
        assert connection is not None
        before = {name: connection.execute(text(f"SHOW {name}")).scalar_one() for name in INDEX_WITHOUT}
        for name_ in INDEX_WITHOUT:
            connection.execute(text(f"SET {name_} = 0"))
        if connection.execute(_IS_HALF_MADE, {"name": f"{SCHEMA}.{name}"}).scalar_one_or_none():
            connection.execute(text(f"DROP INDEX CONCURRENTLY {SCHEMA}.{name}"))
        connection.execute(text(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {SCHEMA}.{on}"))
        for name_, value in before.items():
            connection.execute(text(f"SET {name_} = '{value}'"))


def _write_index(context: MigrationContext, name: str, on: str) -> None:
    """In a script, ``make_index``: before it is run again, an index that is not valid must be dropped."""
    for statement in (
        *(f"SET {time_out} = 0" for time_out in INDEX_WITHOUT),
        f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {SCHEMA}.{on}",
        *(f"SET {time_out} = '{SCRIPT_TIME_OUTS[time_out]}'" for time_out in INDEX_WITHOUT),
    ):
        context.impl.static_output(f"{statement};")


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


def is_newer(revision: str | None) -> bool:
    """Tell whether a database at ``revision`` was migrated by a newer program than this."""
    return revision is not None and not is_behind(revision) and revision != newest_revision()


_told_of: set[str | None] = set()  # by this process, or by the one that it was forked from


def tell_of_another_schema(engine: Engine) -> None:
    """Log, at a process's start, that the schema is older or newer than this program. Raises ``SQLAlchemyError``."""
    at = current_revision(engine)
    if at == newest_revision() or at in _told_of:
        return
    _told_of.add(at)
    if is_newer(at):
        log.warning(
            "schema_is_newer", at=at, newest_known=newest_revision(), advice="put the new version in place here too"
        )
    else:
        log.error("schema_is_older", at=at or "none", needed=newest_revision(), advice="cardsync db upgrade")


def tell_of_another_schema_once_it_answers(engine: Engine) -> None:
    """The same for a process that starts without the database: on a thread of its own, as soon as the database answers."""

    def ask() -> None:
        while True:
            try:
                tell_of_another_schema(engine)
            except SQLAlchemyError as error:
                if unusable(error) is not None:  # told where it is used
                    return
                time.sleep(ASK_AGAIN_SECONDS)
            else:
                return

    threading.Thread(target=ask, name="another-schema", daemon=True).start()


def current_revision(engine: Engine) -> str | None:
    """The migration that the database is at, ``None`` for a database that was never migrated."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table_schema": SCHEMA})
        return context.get_current_revision()
