"""``cardsync db``: migrate, check, and let other services read."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

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


def test_an_older_programs_upgrade_leaves_a_newer_database_alone_and_says_so(cardsync, engine):
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE cardsync.alembic_version SET version_num = '9999'")
        connection.exec_driver_sql(
            "GRANT DELETE ON cardsync.feed_head TO cardsync_worker"
        )  # as the newer program needs it
    result = cardsync("db", "upgrade")
    assert (result.exit_code, "9999, newer than this program" in result.stdout) == (0, True)
    with engine.connect() as connection:
        kept = connection.exec_driver_sql(
            "SELECT has_table_privilege('cardsync_worker', 'cardsync.feed_head', 'DELETE')"
        )
        assert kept.scalar_one()


def test_a_right_that_was_taken_away_is_told_and_granted_again(cardsync, engine):
    with engine.begin() as connection:
        connection.exec_driver_sql("REVOKE SELECT ON registry.cards FROM cardsync_reader")
    told = cardsync("doctor", "--offline").stdout
    assert "failed\troles\t1 rights are not granted, among them cardsync_reader: SELECT on registry.cards" in told
    assert cardsync("db", "upgrade").exit_code == 0
    assert "ok\troles\t" in cardsync("doctor", "--offline").stdout


def test_a_table_that_differs_from_the_code_fails_the_check(cardsync, engine):
    assert cardsync("db", "check").exit_code == 0
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE cardsync.cards ADD COLUMN stray text")
    result = cardsync("db", "check")
    assert result.exit_code == 1
    assert "stray" in result.stderr


def test_migrating_can_close_the_database_and_the_doctor_is_content(cardsync, engine):
    assert "warning\tlogins\tevery login of the server may connect" in cardsync("doctor", "--offline").stdout
    assert cardsync("db", "upgrade", "--close").exit_code == 0
    assert "ok\tlogins\t" in cardsync("doctor", "--offline").stdout
    assert cardsync("db", "close").stdout.endswith("granted something can use this database now.\n")


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


@pytest.fixture
def login_file(tmp_path, postgres, database_url):
    """Writes the address that a process will connect with; the role is dropped afterwards."""
    made: list[str] = []

    def write(user: str, password: str = "fake%40password") -> tuple[str, str]:
        name = f"{user}_{uuid.uuid4().hex[:8]}" if user != "cardsync" else user
        made.append(name)
        path = tmp_path / f"{name}_url"
        path.write_text(f"postgresql://{name}:{password}@127.0.0.1:{postgres.port}/{database_url.rpartition('/')[2]}\n")
        return name, str(path)

    yield write
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        for name in set(made) - {"cardsync"}:
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))


def test_migrating_makes_the_logins_of_the_processes_and_a_second_time_puts_them_right(cardsync, engine, login_file):
    (web, web_file), (worker, worker_file) = login_file("web"), login_file("worker")
    arguments = ("db", "upgrade", "--web-login", web_file, "--worker-login", worker_file)
    said = cardsync(*arguments)
    assert (said.exit_code, said.stdout.count(" now.")) == (0, 2)
    with engine.begin() as connection:  # what a careless hand does meanwhile
        connection.exec_driver_sql(f'GRANT cardsync_worker TO "{web}"')
        connection.exec_driver_sql(f"ALTER ROLE \"{worker}\" NOLOGIN CREATEDB PASSWORD 'another'")
    assert cardsync(*arguments).exit_code == 0
    for file, allowed, forbidden in (
        (web_file, "SELECT count(*) FROM cardsync.api_keys", "SELECT token FROM cardsync.cards"),
        (worker_file, "SELECT count(token) FROM cardsync.cards", "SELECT key_hash FROM cardsync.api_keys"),
    ):
        with psycopg.connect(Path(file).read_text().strip(), autocommit=True) as connection:
            assert connection.execute(allowed).fetchone() == (0,)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(forbidden)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("CREATE DATABASE mine")
    assert "fake" not in said.output


def test_a_process_is_not_made_of_the_owner(cardsync, login_file):
    _, owners_file = login_file("cardsync")
    refused = cardsync("db", "upgrade", "--web-login", owners_file)
    assert refused.exit_code == 2
    assert "owns the database" in refused.stderr


def test_one_login_for_both_processes_is_refused_before_anything_is_made(cardsync, engine, login_file):
    name, file = login_file("both")
    refused = cardsync("db", "upgrade", "--web-login", file, "--worker-login", file)
    assert refused.exit_code == 2
    assert "one of its own" in refused.stderr
    with engine.connect() as connection:
        roles = connection.exec_driver_sql("SELECT count(*) FROM pg_roles WHERE rolname = %(name)s", {"name": name})
        assert roles.scalar_one() == 0


@pytest.mark.parametrize("content", ["", "no address", "postgresql://web@127.0.0.1/x", "mysql://web:fakepass@h/x"])
def test_a_file_without_an_address_says_so_and_shows_nothing(cardsync, tmp_path, content):
    file = tmp_path / "web_url"
    file.write_text(content)
    refused = cardsync("db", "upgrade", "--web-login", str(file))
    assert refused.exit_code == 2
    assert "fakepass" not in refused.output
    assert cardsync("db", "upgrade", "--worker-login", str(tmp_path / "missing")).exit_code == 2


def test_the_check_writes_nothing(cardsync, engine, database_url):
    name = database_url.rpartition("/")[2]
    with engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    engine.dispose()
    assert cardsync("db", "check").exit_code == 0
