"""The processes' logins: made or put right, with a password that no statement shows; an owner is never made one."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import URL, Engine, event, make_url

from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.errors import Misconfigured
from cardsync.store.access import logins, privileges


@pytest.fixture
def address(postgres: EmbeddedPostgres, database_url: str) -> Iterator[URL]:
    """The address of a login that is not there yet."""
    name = f"process_{secrets.token_hex(4)}"
    yield make_url(database_url).set(username=name, password=secrets.token_hex(16))
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))


def ensure(engine: Engine, address: URL, role: str = privileges.WEB) -> None:
    with engine.begin() as connection:
        logins.ensure(connection, address, role)


def roles_of(address: URL) -> set[str]:
    """Log in, and look what one is a member of."""
    plain = address.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as connection:
        rows = connection.execute(
            "SELECT r.rolname FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid"
            " WHERE m.member = current_user::regrole"
        )
        return {row[0] for row in rows}


def test_a_login_is_made_and_a_second_time_gets_its_new_password_and_role(engine: Engine, address: URL) -> None:
    ensure(engine, address)
    assert roles_of(address) == {privileges.WEB}
    changed = address.set(password=secrets.token_hex(16))
    ensure(engine, changed, privileges.WORKER)
    assert roles_of(changed) == {privileges.WORKER}
    with pytest.raises(psycopg.OperationalError):
        roles_of(address)


def test_powers_that_somebody_gave_are_taken_away(engine: Engine, address: URL) -> None:
    ensure(engine, address)
    with engine.begin() as connection:
        connection.exec_driver_sql(f'ALTER ROLE "{address.username}" CREATEDB CREATEROLE NOLOGIN')
    ensure(engine, address)
    with engine.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT rolcreatedb, rolcreaterole, rolcanlogin FROM pg_roles WHERE rolname = %(name)s",
            {"name": address.username},
        ).one()
    assert found == (False, False, True)


def test_no_statement_holds_the_password(engine: Engine, address: URL) -> None:
    said: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *given: said.append(str(given[2:4])))
    with engine.begin() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        send = driver.execute
        driver.execute = lambda query, *given: said.append(query.as_string(driver)) or send(query, *given)
        logins.ensure(connection, address, privileges.WEB)
        del driver.execute
    assert any("PASSWORD" in statement for statement in said)
    assert [statement for statement in said if str(address.password) in statement] == []


@pytest.mark.parametrize("missing", ["username", "password"])
def test_an_address_without_name_or_password_is_refused(engine: Engine, address: URL, missing: str) -> None:
    lacking = URL.create("postgresql", **{"username": address.username, "password": "x", missing: None})
    with pytest.raises(Misconfigured, match="needs a user and a password"):
        ensure(engine, lacking)


def test_the_owner_is_never_made_a_process(engine: Engine) -> None:
    with pytest.raises(Misconfigured, match="owns the database"):
        ensure(engine, engine.url.set(password="x"))
