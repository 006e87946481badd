"""Runs migrations: one run at a time in a database, never waiting long for a lock that live traffic holds.

**Taking turns.** The session that migrates writes its process number and its beginning into the one row of
``cardsync.migration_lock``, a table that no login but the owner's can touch. The row counts for as long as PostgreSQL has that
session, so that a run that is killed frees its turn when its session ends, and not before: what it has begun may go on until
then. No transaction is open between two statements, because an index that is made concurrently waits for old transactions.
Rejected: an advisory lock, which any login could take and so stop every deployment; a lease, which ends although a statement
still runs. It needs a session of its own (``CARDSYNC_DATABASE_DIRECT_URL``, not a pooler in transaction mode).

**Roles and schemas** are made before the first migration, and only where they are missing: the owner may not be allowed to make
any. What the oldest migrations send about them is changed on its way (``store.access.role_names``).

**As a script.** ``cardsync db upgrade --sql`` prints what would be run, for a login of its own to run with psql; the script takes
the same turn, and stops if the database is not at the migration that it begins after. At its end it gives back the turn and what
it has set, in case a pooler hands its session on. If it fails half-way, only the end of its session does that: so it needs a
session of its own too. Rejected: ``SET LOCAL``, because indexes are made outside of transactions.

**The first time.** Schema and table are made here, before any migration, by everybody who comes; those who come at the same
moment meet in PostgreSQL's catalogue, and the one that is refused tries again and finds them made.
"""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Iterator
from typing import Any

from alembic import context
from sqlalchemy import Connection, NullPool, event, text
from sqlalchemy.exc import DBAPIError

from cardsync import db, settings
from cardsync.db.lock_watch import telling_holders
from cardsync.store.access import privileges, role_names, roles
from cardsync.store.schema import Base

# A migration that waits for a lock makes all later traffic wait behind it: give up instead, and be run again.
LOCK_TIMEOUT_MS = 5_000
STATEMENT_TIMEOUT_MS = 15 * 60 * 1_000
TURN_POLL_SECONDS = 0.2
SAY_AFTER_SECONDS = 5.0
FIRST_TIME_TRIES = 20
GONE = "42P01"
# What two sessions that make the same thing at once are told: it is there, or its name in the catalogue is.
MADE_MEANWHILE = ("23505", "42P06", "42P07", "XX000")

APPLICATION_NAME = "cardsync migrations"
WATCH_NAME = "cardsync lock watch"
MAKE = (
    f"CREATE SCHEMA IF NOT EXISTS {db.SCHEMA}",
    """
    CREATE TABLE IF NOT EXISTS cardsync.migration_lock (
        singleton boolean DEFAULT true CONSTRAINT migration_lock_pkey PRIMARY KEY
            CONSTRAINT migration_lock_is_one_row CHECK (singleton),
        pid integer,
        session_began timestamptz
    )
    """,
    "INSERT INTO cardsync.migration_lock DEFAULT VALUES ON CONFLICT DO NOTHING",
)
# The beginning of another user's session is hidden from a plain user: then the number alone says that it is there.
LIVES = """
    EXISTS (
        SELECT FROM pg_stat_activity AS a
        WHERE a.pid = l.pid AND coalesce(a.backend_start = l.session_began, true)
    )
"""
TAKE = text(f"""
    UPDATE cardsync.migration_lock AS l SET pid = pg_backend_pid(), session_began = s.backend_start
    FROM pg_stat_activity AS s
    WHERE s.pid = pg_backend_pid() AND (l.pid IS NULL OR l.pid = pg_backend_pid() OR NOT {LIVES})
""")
HOLDER = text("""
    SELECT l.pid, a.application_name, a.client_addr::text AS client_address
    FROM cardsync.migration_lock AS l LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
""")


def database_url() -> str:
    given: str | None = context.config.attributes.get("database_url")
    if given is not None:
        return given
    return settings.load("database").database(direct=True)()


def role_prefix() -> str:
    given: str | None = context.config.attributes.get("role_prefix")
    return settings.load().role_prefix if given is None else given


def grant_at_the_newest(*, ctx: Any, heads: set[str], **_: object) -> None:
    """With the newest migration, and in its transaction, grant what everybody may do: its tables are all there then."""
    if heads == set(context.script.get_heads()):
        privileges.grant_all(ctx.connection, role_prefix())


def grant_again(connection: Connection) -> None:
    """At the newest migration without a step: make missing roles and grant again, in case the server is another one."""
    if set(context.get_context().get_current_heads()) == set(context.script.get_heads()):
        if roles.lacking(connection, role_prefix()):
            privileges.grant_all(connection, role_prefix())
        connection.commit()


def make_lock(connection: Connection) -> None:
    """Make the schema and the table of the lock, unless they are there."""
    for tries_left in reversed(range(FIRST_TIME_TRIES)):
        try:
            for statement in MAKE:
                connection.execute(text(role_names.for_this_server(statement, role_prefix())))
            connection.commit()
            return
        except DBAPIError as error:
            connection.rollback()
            if getattr(error.orig, "sqlstate", None) not in MADE_MEANWHILE or not tries_left:
                raise
            time.sleep(TURN_POLL_SECONDS)


def is_made(connection: Connection) -> bool:
    """Whether there is a row to lock."""
    there = connection.execute(text("SELECT to_regclass('cardsync.migration_lock') IS NOT NULL")).scalar_one()
    return bool(there and connection.execute(text("SELECT count(*) FROM cardsync.migration_lock")).scalar_one())


def take_turn(connection: Connection) -> None:
    """Wait until no other session migrates, and say which one it is that this waits for."""
    if not is_made(connection):
        make_lock(connection)
    connection.commit()
    began, said = time.monotonic(), False
    # Asked for again and again: a statement that waits holds a snapshot, and an index made concurrently waits for that.
    while not is_taken(connection):
        connection.commit()
        if not said and time.monotonic() - began >= SAY_AFTER_SECONDS:
            said = say_which(connection)
        time.sleep(TURN_POLL_SECONDS)
    connection.commit()


def is_taken(connection: Connection) -> bool:
    """Take the turn if it is free; made again is a lock that a run down to the base has taken away meanwhile."""
    try:
        return connection.execute(TAKE).rowcount == 1
    except DBAPIError as error:
        connection.rollback()
        if getattr(error.orig, "sqlstate", None) != GONE:
            raise
        make_lock(connection)
        return False


def say_which(connection: Connection) -> bool:
    """Name the session that migrates, on standard error; false if it has just ended."""
    holder = connection.execute(HOLDER).one()
    connection.commit()
    if holder.pid is None:
        return False
    where = f" from {holder.client_address}" if holder.client_address else ""
    name = holder.application_name or "another user's session"
    sys.stderr.write(f"cardsync: waiting for another migration: PostgreSQL session {holder.pid} ({name}{where})\n")
    sys.stderr.flush()
    return True


@contextlib.contextmanager
def adapted(connection: Connection) -> Iterator[None]:
    """Send what migrations say of roles and schemas as this server needs it."""

    def adapt(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> tuple[str, Any]:
        return role_names.for_this_server(statement, role_prefix()), parameters

    event.listen(connection, "before_cursor_execute", adapt, retval=True)
    try:
        yield
    finally:
        event.remove(connection, "before_cursor_execute", adapt)


def run() -> None:
    # A user named like our schema would have it as the default one, which Alembic compares under no name at all.
    # No pool: the end of the session is what gives the turn back.
    engine = db.make_engine(
        database_url(),
        name=APPLICATION_NAME,
        statement_timeout_ms=STATEMENT_TIMEOUT_MS,
        session={
            "search_path": "public",
            "lock_timeout": str(LOCK_TIMEOUT_MS),
            "idle_in_transaction_session_timeout": "0",
        },
        of_its_own=True,
        poolclass=NullPool,
    )
    with engine.connect() as connection:
        roles.require_rights(connection, role_prefix())
        take_turn(connection)
        with lock_watch(connection):
            migrate(connection)


def migrate(connection: Connection) -> None:
    """Run the migrations, with roles and rights around them."""
    roles.ensure(connection, role_prefix())
    connection.commit()
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        version_table_schema=db.SCHEMA,
        include_schemas=True,
        include_name=db.include_name,
        transaction_per_migration=True,
        on_version_apply=grant_at_the_newest,
    )
    with adapted(connection), context.begin_transaction():
        context.run_migrations()
    grant_again(connection)
    if not context.get_context().get_current_heads():  # down to the base, which leaves nothing behind
        connection.execute(text("DROP TABLE IF EXISTS cardsync.migration_lock"))
        connection.commit()


@contextlib.contextmanager
def lock_watch(connection: Connection) -> Iterator[None]:
    """Within the block, name the sessions that the migrations' own waits for."""
    driver = connection.connection.driver_connection
    assert driver is not None
    engine = db.make_engine(database_url(), name=WATCH_NAME, pool_size=1, autocommit=True)
    try:
        with telling_holders(engine, driver.info.backend_pid):
            yield
    finally:
        engine.dispose()


# The turn, as ``take_turn`` takes it; a script does not wait. The other guard: a script that was made for another state of the
# database changes nothing.
SCRIPT_BEGINS = r"""-- Run this with psql, as the owner, on PostgreSQL's own address and not through a pooler.
-- It sets time-outs and takes the migrations' turn for its session. If it fails half-way, they end with that session, which a
-- pooler would keep and hand to others.
\set ON_ERROR_STOP on
SET lock_timeout = '{lock_timeout_ms}ms';
SET statement_timeout = '{statement_timeout_ms}ms';
SET search_path = public;
{make}
DO $$ BEGIN
    {take}
    IF NOT FOUND THEN RAISE EXCEPTION 'another session migrates this database'; END IF;
    IF to_regclass('cardsync.alembic_version') IS NULL THEN
        IF '{begins}' <> '' THEN RAISE EXCEPTION 'this script begins after migration {begins}'; END IF;
    ELSIF '{begins}' <> coalesce((SELECT version_num FROM cardsync.alembic_version), '') THEN
        RAISE EXCEPTION 'this script begins after migration {begins}';
    END IF;
END $$;
"""
SCRIPT_ENDS = """
-- Give back the turn, and what was set.
UPDATE cardsync.migration_lock SET pid = NULL, session_began = NULL WHERE pid = pg_backend_pid();
RESET search_path;
RESET statement_timeout;
RESET lock_timeout;
"""


def grant_in_script(*, ctx: Any, heads: set[str], **_: object) -> None:
    """With the newest migration, as ``grant_at_the_newest``."""
    if heads == set(context.script.get_heads()):
        for statement in privileges.statements(role_prefix()):
            ctx.impl.static_output(f"{statement};")


def print_script() -> None:
    """Write the migrations as a script for psql into the configuration's ``output_buffer``."""
    written = io.StringIO()
    context.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},  # else each % would be doubled
        literal_binds=True,
        output_buffer=written,
        version_table_schema=db.SCHEMA,
        transaction_per_migration=True,
        on_version_apply=grant_in_script,
    )
    with context.begin_transaction():
        context.run_migrations()
    make = "".join(f"{role_names.for_this_server(statement.strip(), role_prefix())};\n" for statement in MAKE)
    begins = context.config.attributes.get("begins_after") or ""
    head = SCRIPT_BEGINS.format(
        lock_timeout_ms=LOCK_TIMEOUT_MS,
        statement_timeout_ms=STATEMENT_TIMEOUT_MS,
        make=make.rstrip(),
        take=f"{str(TAKE).strip()};",
        begins=begins,
    )
    body = role_names.for_this_server(written.getvalue(), role_prefix())
    context.config.output_buffer.write(head + body + SCRIPT_ENDS)


if context.is_offline_mode():
    print_script()
else:
    run()
