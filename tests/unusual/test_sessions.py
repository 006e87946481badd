"""What every session has, whatever a database's defaults are; and servers that cannot be used."""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeAlias

import psycopg
import pytest
from alembic import command
from click.testing import CliRunner
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from cardsync import db
from cardsync.cli import main
from cardsync.db.session import unusable_server
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.errors import Misconfigured
from tests import factories
from tests.conftest import set_database_defaults
from tests.unusual.conftest import UNUSUAL


@pytest.mark.parametrize("autocommit", [False, True])
def test_every_session_has_what_the_code_relies_on(database_url: str, autocommit: bool) -> None:
    engine = db.make_engine(database_url, autocommit=autocommit)
    with engine.connect() as connection:
        for name, wanted in db.SESSION.items():
            found = connection.execute(
                text("SELECT setting FROM pg_settings WHERE lower(name) = :name"), {"name": name}
            ).scalar_one()
            assert found.lower().replace(" ", "") == wanted.lower().replace(" ", ""), name
        row = connection.execute(
            text(
                "SELECT now() AS at, interval '1 day 2 hours' AS span, 'é ع'::text AS name, "
                "current_setting('transaction_isolation') AS level"
            )
        ).one()
    assert isinstance(row.at, dt.datetime)
    assert row.at.utcoffset() == dt.timedelta(0)
    assert (row.span, row.name, row.level) == (dt.timedelta(days=1, hours=2), "é ع", "read committed")
    engine.dispose()


def test_options_of_an_address_are_kept_beside_ours(database_url: str) -> None:
    engine = db.make_engine(f"{database_url}?options=-c%20work_mem%3D77MB")
    with engine.connect() as connection:
        shown = [connection.execute(text(f"SHOW {name}")).scalar_one() for name in ("work_mem", "datestyle")]
    assert shown == ["77MB", "ISO, YMD"]
    engine.dispose()


@pytest.fixture
def new_database(postgres: EmbeddedPostgres) -> Iterator[str]:
    name = f"new_{secrets.token_hex(6)}"
    postgres.create_database(name)
    yield name
    postgres.drop_database(name)


def test_a_database_of_unusual_defaults_is_migrated_as_any_other(postgres: EmbeddedPostgres, new_database: str) -> None:
    # A migration waits for locks, so this default alone stays usual until its own is set.
    set_database_defaults(postgres, new_database, UNUSUAL)
    url = postgres.url_for(new_database)
    db.upgrade(url)
    command.check(db.alembic_config(url))


@pytest.mark.parametrize("encoding", ["LATIN1", "WIN1256", "SQL_ASCII"])
def test_a_database_of_another_encoding_is_refused_in_one_line_everywhere(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    name = f"other_{secrets.token_hex(6)}"
    with psycopg.connect(postgres.url, autocommit=True) as owner:
        owner.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    monkeypatch.setenv("CARDSYNC_DATABASE_URL", postgres.url_for(name))
    monkeypatch.setenv("CARDSYNC_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("CARDSYNC_SECRET_KEY", factories.SECRET.decode())
    monkeypatch.setenv("OTTU_WEBHOOK_KEYS", "a-key-of-the-tests")
    monkeypatch.setenv("OTTU_CARDS_API", "unavailable")
    monkeypatch.setenv("OTTU_MERCHANT_ID", "acme.ottu.net")
    try:
        for command_, code in (
            (["db", "upgrade"], 2),
            (["worker"], 2),
            (["beat"], 2),
            (["web", "--port", "0"], 2),
            (["keys", "list"], 1),
        ):
            result = CliRunner().invoke(main, command_, prog_name="cardsync")
            assert (result.exit_code, len(result.stderr.strip().splitlines())) == (code, 1), (command_, result.output)
            assert f"the database's encoding is {encoding}, and cardsync needs UTF8" in result.stderr
        result = CliRunner().invoke(main, ["doctor", "--offline"], prog_name="cardsync")
        assert f"failed\tdatabase\tthe database's encoding is {encoding}" in result.stdout
    finally:
        postgres.drop_database(name)


@pytest.mark.parametrize(("version", "why"), [(140_013, "PostgreSQL 14 is too old"), (150_000, ""), (180_001, "")])
def test_a_server_that_is_too_old_is_refused(version: int, why: str) -> None:
    assert (unusable_server(version, "UTF8") or "").startswith(why)
    assert bool(unusable_server(version, "UTF8")) is bool(why)


def test_an_address_may_not_set_what_cardsync_sets(database_url: str) -> None:
    with pytest.raises(Misconfigured, match=r"sets datestyle, statement_timeout in its options"):
        db.make_engine(f"{database_url}?options=-c%20statement_timeout%3D0%20--DateStyle%3DSQL")


@pytest.mark.parametrize("name", ["sslrootcert", "sslcert", "sslkey"])
def test_a_certificate_that_cannot_be_read_is_a_wrong_setting(name: str) -> None:
    with pytest.raises(Misconfigured, match=f"{name} cannot be read: FileNotFoundError"):
        db.make_engine(f"postgresql://u:fake-password@h/d?{name}=/nowhere/ca.pem")


# The three ways to PostgreSQL, each of which has to know such a session.

STATEMENT: Final = text("UPDATE cardsync.gate SET paused_because = paused_because")
Write: TypeAlias = Callable[[Engine], None]


def in_a_transaction(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(STATEMENT)


def on_the_drivers_cursor(engine: Engine) -> None:
    with db.driver_cursor(engine) as cursor:
        cursor.execute(STATEMENT.text.encode())


def in_a_pipeline(engine: Engine) -> None:
    with db.pipelined(engine) as pipeline:
        pipeline.execute(STATEMENT)


# The web's engine commits each statement by itself, the worker's does not.
WAYS: Final[list[tuple[Write, bool]]] = [
    (in_a_transaction, False),
    (in_a_transaction, True),
    (on_the_drivers_cursor, True),
    (in_a_pipeline, False),
]
IDS: Final = [f"{way.__name__}-{autocommit}" for way, autocommit in WAYS]


class TestReadOnlySessions:
    """After a failover the pool holds sessions of a server, or with a default, that takes no writes."""

    @pytest.fixture
    def database_defaults(self) -> Mapping[str, str]:
        return {"default_transaction_read_only": "on"}

    @pytest.mark.parametrize(("write", "autocommit"), WAYS, ids=IDS)
    def test_they_are_dropped_at_once_and_the_next_ones_work(
        self, postgres: EmbeddedPostgres, database_url: str, write: Write, autocommit: bool
    ) -> None:
        engine = db.make_engine(database_url, autocommit=autocommit, pool_size=4)
        held = [engine.connect() for _ in range(4)]  # as a pool is full of them after a standby was asked
        for connection in held:
            connection.close()
        with pytest.raises(DBAPIError):
            write(engine)
        set_database_defaults(postgres, str(engine.url.database), {"default_transaction_read_only": "off"})
        for _ in range(5):
            write(engine)
        engine.dispose()

    def test_the_error_says_that_the_connection_is_gone(self, engine: Engine) -> None:
        with pytest.raises(DBAPIError) as caught:
            in_a_transaction(engine)
        assert caught.value.connection_invalidated
