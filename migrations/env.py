"""Runs migrations: one at a time in a deployment, never waiting long for a lock that live traffic holds."""

from __future__ import annotations

import time
from typing import Any

from alembic import context
from sqlalchemy import Connection, NullPool, create_engine, text

from cardsync import db, settings

# All tables: these stand on the models.
from cardsync.store import audit_models, erasure_models, operator_models, privileges  # noqa: F401
from cardsync.store.models import Base

# A migration that waits for a lock makes all later traffic wait behind it: give up instead, and be run again.
LOCK_TIMEOUT_MS = 5_000
STATEMENT_TIMEOUT_MS = 15 * 60 * 1_000
TURN_POLL_SECONDS = 0.2
ADVISORY_LOCK = 0x63617264  # "card"; two `cardsync db upgrade` at once take turns


def database_url() -> str:
    given: str | None = context.config.attributes.get("database_url")
    if given is not None:
        return given
    loaded = settings.load("database").database_url
    assert loaded is not None
    return loaded.get_secret_value()


def include_name(name: str | None, type_: str, _parents: object) -> bool:
    return name == db.SCHEMA if type_ == "schema" else True


def grant_at_the_newest(*, ctx: Any, heads: set[str], **_: object) -> None:
    """With the newest migration, and in its transaction, grant what everybody may do: its tables are all there then."""
    if heads == set(context.script.get_heads()):
        privileges.grant_all(ctx.connection)


def take_turn(connection: Connection) -> None:
    # Asked for again and again: a statement that waits holds a snapshot, and an index made concurrently waits for that.
    while not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": ADVISORY_LOCK}).scalar_one():
        connection.commit()
        time.sleep(TURN_POLL_SECONDS)


def run() -> None:
    # A user named like our schema would have it as the default one, which Alembic compares under no name at all.
    # No pool: the end of the connection is what lets the advisory lock go.
    engine = create_engine(
        db.sqlalchemy_url(database_url()),
        connect_args={"options": "-c search_path=public"},
        poolclass=NullPool,
    )
    with engine.connect() as connection:
        take_turn(connection)
        connection.execute(text(f"SET lock_timeout = {LOCK_TIMEOUT_MS}"))
        connection.execute(text(f"SET statement_timeout = {STATEMENT_TIMEOUT_MS}"))
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {db.SCHEMA}"))
        connection.commit()
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            version_table_schema=db.SCHEMA,
            include_schemas=True,
            include_name=include_name,
            transaction_per_migration=True,
            on_version_apply=grant_at_the_newest,
        )
        with context.begin_transaction():
            context.run_migrations()


if context.is_offline_mode():
    raise SystemExit("cardsync migrates online only: some steps look at what the database has")
run()
