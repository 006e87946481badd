"""A standby of the test's own: a copy of a running PostgreSQL that follows it until it is promoted."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql

from cardsync import db
from cardsync.dev.servers.account import Account
from cardsync.dev.servers.errors import ServiceError
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.files import make_private_folder, write_private
from tests.waiting import until

PRIMARY: Final = {"max_connections": "60", "wal_keep_size": "256MB"}


class Standby(EmbeddedPostgres):
    """Follows ``primary`` under ``name``, reached at ``port``: a test may put a network in between."""

    def __init__(self, directory: Path, primary: EmbeddedPostgres, *, name: str, port: int | None = None) -> None:
        super().__init__(directory, durable=False, settings=PRIMARY)
        self._primary, self._name, self._from_port = primary, name, port or primary.port
        directory.mkdir(parents=True)
        write_private(directory / "password", primary.password)

    def _create_cluster(self, data: Path, account: Account) -> None:
        if data.exists():
            shutil.rmtree(data)
        make_private_folder(data)
        if not account.is_self:
            account.give(data)
        address = f"host=127.0.0.1 port={self._from_port} user=cardsync password={self._primary.password}"
        options = ["-D", data, "-d", f"{address} application_name={self._name}", "-R", "-X", "stream", "-c", "fast"]
        made = account.run(self._found / "pg_basebackup", *options, "--no-sync")
        if made.returncode != 0:
            raise ServiceError(f"pg_basebackup failed:\n{made.stderr.strip()[-2_000:]}")

    def promote(self) -> None:
        """Make it a primary, and wait until it takes writes."""
        ask(self, "SELECT pg_promote()")
        until(lambda: ask(self, "SELECT pg_is_in_recovery()") == [(False,)], "it is a primary")


@contextlib.contextmanager
def new_primary(services: Path) -> Iterator[EmbeddedPostgres]:
    """A server with our schema that standbys may follow."""
    made = EmbeddedPostgres(services / f"primary-{secrets.token_hex(4)}", durable=False, settings=PRIMARY)
    with removed_at_end(made):
        made.start()
        db.upgrade(made.url)
        yield made


@contextlib.contextmanager
def new_synchronous_standby(services: Path, primary: EmbeddedPostgres, name: str) -> Iterator[Standby]:
    """A standby that every commit of the primary's waits for. Promoted, it has no standby of its own to wait for."""
    made = Standby(services / f"standby-{secrets.token_hex(4)}", primary, name=name)
    with removed_at_end(made):
        made.start()
        until(lambda: follows(primary, name), "it follows")
        set_and_reload(primary, synchronous_standby_names=name)
        until(lambda: follows(primary, name, state="sync"), "commits wait for it")
        yield made


def ask(server: EmbeddedPostgres, statement: str) -> list[tuple[Any, ...]]:
    """Ask a server as its owner."""
    with psycopg.connect(server.url, autocommit=True, connect_timeout=30) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def set_and_reload(server: EmbeddedPostgres, **settings: str) -> None:
    """Change settings of a running server."""
    with psycopg.connect(server.url, autocommit=True, connect_timeout=30) as connection:
        for name, value in settings.items():
            connection.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
        connection.execute("SELECT pg_reload_conf()")


def follows(primary: EmbeddedPostgres, name: str, *, state: str = "") -> bool:
    """Whether a standby of this name follows; with ``state`` also as what."""
    rows = ask(primary, "SELECT application_name, sync_state FROM pg_stat_replication WHERE state = 'streaming'")
    return any(found == name and state in ("", how) for found, how in rows)


def both(first: EmbeddedPostgres, second: EmbeddedPostgres) -> str:
    """The address of whichever of the two takes writes."""
    where = f"host=127.0.0.1,127.0.0.1&port={first.port},{second.port}&target_session_attrs=read-write"
    return f"postgresql://cardsync:{first.password}@/cardsync?{where}"


@contextlib.contextmanager
def removed_at_end(*servers: EmbeddedPostgres) -> Iterator[None]:
    """Remove the servers at the end, whatever became of them."""
    try:
        yield
    finally:
        for server in servers:
            server.remove()
