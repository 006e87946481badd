"""One login of a service in strange hands: what it may do beside reading, and what comes of it for everybody else.

Each attack is a real session of a real login that was granted one of our roles, as `cardsync db grant` does it or by hand.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import Engine, make_url, text

from cardsync import db
from cardsync.cli import main
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.store.access import logins as process_logins
from cardsync.store.access import privileges, public
from cardsync.store.access.grants import CONNECTIONS, TEMP_FILE_LIMIT
from tests.factories import CustomerFactory, make_card
from tests.logins import ServiceLogins
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("bound_factories")

Connect = Callable[..., "psycopg.Connection[Any]"]
Command = Callable[..., Result]


@pytest.fixture
def command(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """The command line as the database's owner, or as the owner of the address ``url``."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, url: str = database_url) -> Result:
        monkeypatch.setenv("CARDSYNC_DATABASE_URL", url)
        return CliRunner().invoke(main, arguments, prog_name="cardsync")

    return run


@pytest.fixture
def closed(engine: Engine) -> None:
    """The database as `cardsync db close` leaves it."""
    with engine.begin() as connection:
        assert public.close(connection).still_open == ()


# What every login of the server may do, unless it is taken from PUBLIC.

FILLS_DISK_OR_MEMORY = (
    "CREATE TEMP TABLE mine (x int)",
    "CREATE FUNCTION pg_temp.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE TABLE public.mine (x int)",
    "SELECT lo_create(0)",
    "SELECT lo_creat(-1)",
    "SELECT lo_from_bytea(0, 'x')",
    "SELECT lo_put(1, 0, 'x')",
    "SELECT lowrite(1, 'x')",
    "SELECT pg_logical_emit_message(false, 'x', 'x')",
    "SELECT pg_logical_emit_message(false, 'x', 'x'::bytea)",
    "SELECT pg_export_snapshot()",
    "SELECT pg_advisory_lock(n) FROM generate_series(1, 3) AS n",
    "SELECT pg_advisory_xact_lock_shared(1, 2)",
    "SELECT pg_try_advisory_lock(1)",
)


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("role", ["reader", "charger", "deleter"])
def test_no_service_fills_the_disk_or_the_servers_memory_once_the_database_is_closed(
    strangers: ServiceLogins, role: str
) -> None:
    session = strangers.connect(strangers.login(role))
    session.execute("SELECT count(*) FROM registry.cards")
    for statement in FILLS_DISK_OR_MEMORY:
        with pytest.raises(InsufficientPrivilege):
            session.execute(statement)


def test_a_login_without_a_role_does_not_come_in_once_the_database_is_closed(
    engine: Engine, strangers: ServiceLogins
) -> None:
    stranger = strangers.login()
    strangers.connect(stranger).close()
    with engine.begin() as connection:
        assert stranger in public.close(connection).shut_out
        assert public.open_to_all(connection) == ()
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        strangers.connect(stranger)
    with engine.begin() as connection:
        assert public.close(connection).still_open == ()  # safe to repeat


def test_an_owner_without_a_superusers_rights_closes_what_it_owns_and_says_what_is_left(
    postgres: EmbeddedPostgres, command: Command
) -> None:
    name = f"owned_{secrets.token_hex(4)}"
    owner = make_url(postgres.url).set(username=f"owner_{name}", password="fake", database=name)
    address = owner.render_as_string(hide_password=False)
    with psycopg.connect(postgres.url, autocommit=True) as superuser:
        superuser.execute(f"CREATE ROLE owner_{name} LOGIN CREATEROLE PASSWORD 'fake'".encode())
        superuser.execute(f"GRANT {', '.join(privileges.ROLES)} TO owner_{name} WITH ADMIN OPTION".encode())
        superuser.execute(f"CREATE DATABASE {name} OWNER owner_{name}".encode())
        try:
            db.upgrade(address)
            left = command("db", "close", url=address)
            assert left.exit_code == 1
            assert "take advisory locks" in left.stderr
            assert "temporary tables" not in left.stderr
            superuser.execute(f"CREATE ROLE alien_{name} LOGIN".encode())
            granted = command("db", "grant", f"alien_{name}", "--role", "reader", url=address)
            assert granted.exit_code == 0
            # It is not this owner's login; before PostgreSQL 16 CREATEROLE was enough for a limit on it.
            is_left = f'ALTER ROLE "alien_{name}" CONNECTION LIMIT 20;' in granted.stderr
            assert is_left == (superuser.info.server_version >= 160_000)
            assert "temp_file_limit" in granted.stderr
            script = command("db", "close", "--sql", url=address).stdout
            with psycopg.connect(postgres.url_for(name), autocommit=True) as there:
                for statement in script.splitlines():
                    there.execute(statement.encode())
            assert command("db", "close", url=address).exit_code == 0
        finally:
            postgres.drop_database(name)
            superuser.execute(f"DROP ROLE IF EXISTS alien_{name}".encode())
            superuser.execute(f"DROP OWNED BY owner_{name}".encode())
            superuser.execute(f"DROP ROLE owner_{name}".encode())


# The limits of a login that was granted a role by the command.


def test_a_granted_login_has_a_bound_on_sessions_and_temporary_files_that_it_cannot_change(
    strangers: ServiceLogins, command: Command
) -> None:
    name = strangers.login()
    assert command("db", "grant", name, "--role", "reader", "--connections", "2").exit_code == 0
    one, _other = strangers.connect(name), strangers.connect(name)
    with pytest.raises(psycopg.OperationalError, match="too many connections for role"):
        strangers.connect(name)
    assert one.execute("SHOW temp_file_limit").fetchone() == (TEMP_FILE_LIMIT,)
    for statement in (
        "SET temp_file_limit = -1",
        f"ALTER ROLE {name} SET temp_file_limit = -1",
        f"ALTER ROLE {name} CONNECTION LIMIT -1",
        f"ALTER ROLE {name} IN DATABASE {strangers.address(name).database} RESET temp_file_limit",
    ):
        with pytest.raises(InsufficientPrivilege):
            one.execute(statement.encode())
    one.execute(f"ALTER ROLE {name} RESET ALL".encode())
    _other.close()
    another = until(lambda: _connected(strangers, name), "the server has freed the connection")
    assert another is not None
    assert another.execute("SHOW temp_file_limit").fetchone() == (TEMP_FILE_LIMIT,)


def _connected(strangers: ServiceLogins, name: str) -> psycopg.Connection[Any] | None:
    """A session, which stays open: one that were closed again would take its place on the server for a while yet."""
    try:
        return strangers.connect(name)
    except psycopg.OperationalError:
        return None


def test_a_granted_login_is_stopped_in_its_mistakes(strangers: ServiceLogins, command: Command) -> None:
    name = strangers.login()
    assert command("db", "grant", name, "--role", "deleter").exit_code == 0
    session = strangers.connect(name)
    shown = {
        setting: (session.execute(f"SHOW {setting}".encode()).fetchone() or ("",))[0]
        for setting in ("statement_timeout", "idle_in_transaction_session_timeout")
    }
    assert shown == {"statement_timeout": "30s", "idle_in_transaction_session_timeout": "1min"}
    if session.info.server_version >= 170_000:
        assert session.execute("SHOW transaction_timeout").fetchone() == ("10min",)
    with psycopg.connect(strangers.address(name).render_as_string(hide_password=False)) as other:
        limit = other.execute("SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user").fetchone()
    assert limit == (CONNECTIONS,)


# What one service sees and does of another.


@pytest.mark.parametrize("role", ["reader", "charger", "deleter"])
def test_a_service_sees_no_statement_of_another_login_not_even_of_its_own_role(
    strangers: ServiceLogins, role: str
) -> None:
    """A charger's statements may hold tokens. Two services that share one login do see each other's."""
    mine, theirs = strangers.login(role), strangers.login(role)
    victim, twin, spy = strangers.connect(theirs), strangers.connect(theirs), strangers.connect(mine)
    victim.execute("SELECT 'tok-fake-secret'")
    shown = "SELECT query FROM pg_stat_activity WHERE pid = %s"
    assert spy.execute(shown, [victim.info.backend_pid]).fetchone() == ("<insufficient privilege>",)
    spy.execute(f"SET ROLE cardsync_{role}".encode())
    assert spy.execute(shown, [victim.info.backend_pid]).fetchone() == ("<insufficient privilege>",)
    assert twin.execute(shown, [victim.info.backend_pid]).fetchone() == ("SELECT 'tok-fake-secret'",)


@pytest.mark.parametrize("role", ["reader", "charger", "deleter"])
def test_a_service_ends_no_session_of_another_login(
    strangers: ServiceLogins, worker_engine: Engine, engine: Engine, role: str
) -> None:
    attacker = strangers.connect(strangers.login(role))
    other = strangers.connect(strangers.login(role))
    with worker_engine.connect() as worker, engine.connect() as owner:
        for pid in (
            worker.execute(text("SELECT pg_backend_pid()")).scalar_one(),
            owner.execute(text("SELECT pg_backend_pid()")).scalar_one(),
            other.info.backend_pid,
        ):
            for function in ("pg_terminate_backend", "pg_cancel_backend"):
                with pytest.raises(InsufficientPrivilege):
                    attacker.execute(f"SELECT {function}(%s)".encode(), [pid])


FORBIDDEN = (
    *(f"LOCK TABLE registry.cards IN {mode} MODE" for mode in ("ROW SHARE", "SHARE", "EXCLUSIVE", "ACCESS EXCLUSIVE")),
    "LOCK TABLE cardsync.cards IN ACCESS SHARE MODE",
    "SELECT * FROM registry.cards FOR UPDATE",
    "SELECT * FROM registry.customers FOR KEY SHARE",
    "SET session_replication_role = replica",
    "SET ROLE cardsync_worker",
    "SET SESSION AUTHORIZATION cardsync",
    "GRANT cardsync_charger TO cardsync_reader",
    "COPY (SELECT 1) TO PROGRAM 'cat'",
    "COPY (SELECT 1) TO '/tmp/x'",
    "CREATE EXTENSION dblink",
    "CREATE SCHEMA mine",
    "CREATE PUBLICATION mine",
    "CREATE TRIGGER mine INSTEAD OF UPDATE ON registry.cards EXECUTE FUNCTION cardsync.refuse_change()",
    "SELECT cardsync.ring('cardsync_deletions', '')",
    "SELECT pg_ls_dir('.')",
    "SELECT pg_read_file('postgresql.conf')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT pg_switch_wal()",
    "SELECT pg_reload_conf()",
    "SELECT pg_create_logical_replication_slot('mine', 'test_decoding')",
    "SELECT * FROM pg_authid",
    "SELECT * FROM pg_statistic",
    "SET lo_compat_privileges = on",
    "SET temp_file_limit = -1",
)


@pytest.mark.parametrize("role", ["reader", "charger", "deleter"])
def test_a_service_locks_alters_and_reaches_nothing_else(strangers: ServiceLogins, role: str) -> None:
    session = strangers.connect(strangers.login(role), autocommit=False)
    for statement in FORBIDDEN:
        with pytest.raises(psycopg.errors.Error) as caught:
            session.execute(statement.encode())
        session.rollback()
        assert caught.value.sqlstate == "42501", statement


def test_statistics_of_private_tables_show_no_value_to_a_service(engine: Engine, strangers: ServiceLogins) -> None:
    make_card(CustomerFactory(), token="9999000000000001")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE cardsync.cards"))
    for role in ("reader", "charger", "deleter"):
        session = strangers.connect(strangers.login(role))
        assert session.execute("SELECT 1 FROM pg_stats WHERE schemaname = 'cardsync'").fetchall() == []


def test_a_process_login_that_is_made_again_keeps_no_role_of_a_service(
    engine: Engine, strangers: ServiceLogins
) -> None:
    name = strangers.login("charger")
    with engine.begin() as connection:
        process_logins.ensure(connection, strangers.address(name), privileges.WEB)
    session = strangers.connect(name)
    rows = session.execute("SELECT r.rolname FROM pg_roles AS r WHERE pg_has_role(current_user, r.oid, 'MEMBER')")
    assert {row[0] for row in rows} == {name, privileges.WEB}
