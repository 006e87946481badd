"""``cardsync db``: migrate, check, and let other services read."""

from __future__ import annotations

import json
import uuid

import psycopg
import pytest
from psycopg import sql

from cardsync import db


def test_an_unmigrated_database_says_so_and_is_migrated(cardsync, engine, database_url):
    db.downgrade(database_url, "base")
    refused = cardsync("keys", "list")
    assert (refused.exit_code, "cardsync db upgrade" in refused.stderr) == (1, True)
    assert cardsync("db", "current").stdout == "not migrated\n"
    assert cardsync("db", "check").exit_code == 1
    assert cardsync("db", "upgrade", "--revision", "no%such").exit_code == 2
    assert cardsync("db", "upgrade").exit_code == 0
    assert json.loads(cardsync("db", "current", "--json").stdout)["up_to_date"] is True


def test_a_table_that_differs_from_the_code_fails_the_check(cardsync, engine):
    assert cardsync("db", "check").exit_code == 0
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE cardsync.cards ADD COLUMN stray text")
    result = cardsync("db", "check")
    assert result.exit_code == 1
    assert "stray" in result.stderr


@pytest.fixture
def login(engine):
    """A role that may log in, under a name that wants quoting."""
    name = f'cli "%s" {uuid.uuid4().hex[:8]}'
    quoted = sql.Identifier(name)
    with psycopg.connect(engine.url.set(drivername="postgresql").render_as_string(False), autocommit=True) as c:
        c.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'fake-password'").format(quoted))
        yield name
        c.execute(sql.SQL("DROP OWNED BY {}").format(quoted))
        c.execute(sql.SQL("DROP ROLE {}").format(quoted))


def test_a_granted_login_reads_the_registry_and_has_the_roles_time_outs(cardsync, engine, login):
    assert cardsync("db", "grant", login, "--role", "reader").exit_code == 0
    url = engine.url
    with psycopg.connect(
        host=url.host, port=url.port, dbname=url.database, user=login, password="fake-password"
    ) as connection:
        assert connection.execute("SHOW statement_timeout").fetchone() == ("30s",)
        assert connection.execute("SELECT count(*) FROM registry.cards").fetchone() == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM registry.card_tokens")


def test_a_grant_to_nobody_says_so(cardsync):
    result = cardsync("db", "grant", "no-such-login", "--role", "charger")
    assert result.exit_code == 1
    assert "there is no role of that name" in result.stderr
    assert cardsync("db", "grant", "x", "--role", "cardsync_reader").exit_code == 2
