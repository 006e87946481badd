"""Roles are made and granted to again where a database was restored into a server that has none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, make_url

from cardsync import db
from cardsync.cli.doctor import logins as doctor
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.store.access import logins, privileges, roles


@pytest.fixture
def fresh_server(services: Path) -> Iterator[EmbeddedPostgres]:
    """A server of its own: roles belong to the whole server."""
    server = EmbeddedPostgres(services / "fresh", durable=False)
    server.start()
    yield server
    server.remove()


@pytest.fixture
def restored(fresh_server: EmbeddedPostgres) -> Iterator[Engine]:
    """A database that is at the newest migration, on a server without our roles, as a restored dump is."""
    fresh_server.create_database("restored")
    url = fresh_server.url_for("restored")
    db.upgrade(url)
    engine = db.make_engine(url)
    with engine.begin() as connection:
        names = ", ".join(privileges.ROLES)
        connection.exec_driver_sql(f"DROP OWNED BY {names}")
        connection.exec_driver_sql(f"DROP ROLE {names}")
    yield engine
    engine.dispose()


def test_an_upgrade_after_a_restore_makes_the_roles_and_a_login_reads(
    restored: Engine, fresh_server: EmbeddedPostgres
) -> None:
    with restored.connect() as connection:
        assert sorted(roles.missing(connection)) == sorted(privileges.ROLES)
    url = fresh_server.url_for("restored")
    db.upgrade(url)
    reader = make_url(url).set(username="restored_web", password="fake")
    with restored.begin() as connection:
        assert (roles.missing(connection), roles.lacking(connection)) == ([], [])
        held = "SELECT setting FROM pg_db_role_setting, unnest(setconfig) AS setting WHERE setrole = 'cardsync_reader'::regrole"
        assert "statement_timeout=30s" in connection.exec_driver_sql(held).scalars().all()
        logins.ensure(connection, reader, privileges.WEB)
    engine = db.make_engine(reader.render_as_string(hide_password=False))
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM registry.cards").scalar_one() == 0
    engine.dispose()


def test_settings_that_roles_and_logins_lack_are_told_and_an_upgrade_sets_them(
    restored: Engine, fresh_server: EmbeddedPostgres
) -> None:
    url = fresh_server.url_for("restored")
    db.upgrade(url)
    worker = make_url(url).set(username="settled_worker", password="fake")
    with restored.begin() as connection:
        logins.ensure(connection, worker, privileges.WORKER)
        assert roles.lacking_settings(connection) == []
        connection.exec_driver_sql("ALTER ROLE cardsync_reader RESET statement_timeout")
        connection.exec_driver_sql("ALTER ROLE settled_worker IN DATABASE restored SET datestyle = 'German'")
        connection.exec_driver_sql("ALTER ROLE settled_worker IN DATABASE restored RESET search_path")
        told = roles.lacking_settings(connection)
        assert told == [
            "cardsync_reader: statement_timeout=30s",
            "settled_worker: datestyle=ISO, YMD",
            "settled_worker: search_path=pg_catalog",
        ]
    check = doctor.roles_are_there(restored, "cardsync_")
    assert (check.status, "cardsync_reader: statement_timeout=30s" in check.found) == ("warning", True)
    db.upgrade(url)
    with restored.begin() as connection:
        logins.ensure(connection, worker, privileges.WORKER)
        assert roles.lacking_settings(connection) == []
    assert doctor.roles_are_there(restored, "cardsync_").status == "ok"


def test_a_login_without_any_setting_is_told_and_one_of_another_database_is_not(
    restored: Engine, fresh_server: EmbeddedPostgres
) -> None:
    db.upgrade(fresh_server.url_for("restored"))
    with restored.begin() as connection:
        for name in ("bare_web", "foreign_web"):
            connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN IN ROLE cardsync_web")
        connection.exec_driver_sql("ALTER ROLE foreign_web IN DATABASE cardsync SET statement_timeout = '1s'")
        told = {one.partition(":")[0] for one in roles.lacking_settings(connection)}
        connection.exec_driver_sql("DROP ROLE bare_web, foreign_web")
    assert told == {"bare_web"}
