"""Several who migrate at once take turns, and a run that waits for its turn stands in nobody's way, and says what for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine, make_url, text

from cardsync import db
from cardsync.db import lock_watch
from cardsync.dev.servers.postgres import EmbeddedPostgres
from tests.e2e.pgbouncer import Mode, PgBouncer, new_folder
from tests.waiting import until

MIGRATE = "import sys; from cardsync import db; db.upgrade(sys.argv[1])"
SECONDS = 300
SET_BY_THE_SCRIPT = ("search_path", "lock_timeout", "statement_timeout")
TAKE = text("""
    UPDATE cardsync.migration_lock SET pid = pg_backend_pid(),
        session_began = (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())
""")
MIGRATES = text("""
    SELECT 1 FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'cardsync migrations' AND query ~ 'migration_lock|COMMIT'
""")


def migrate(database_url: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", MIGRATE, database_url], stderr=subprocess.PIPE, text=True)


def test_a_run_that_waits_for_its_turn_does_not_hold_up_an_index_and_says_which_session_it_waits_for(
    database_url: str,
) -> None:
    engine = db.make_engine(database_url, name="the first of two", autocommit=True)
    with engine.connect() as first:
        first.execute(TAKE)
        second = migrate(database_url)
        until(lambda: first.execute(MIGRATES).scalar_one_or_none(), "the second asks for its turn")
        first.execute(text("CREATE INDEX CONCURRENTLY made_meanwhile ON cardsync.events (scheme)"))
        assert second.poll() is None
        pid = first.execute(text("SELECT pg_backend_pid()")).scalar_one()
        assert second.stderr is not None
        said = second.stderr.readline()  # after five seconds
        assert f"session {pid} (the first of two" in said
        first.execute(text("UPDATE cardsync.migration_lock SET pid = NULL"))
        assert second.wait(SECONDS) == 0
    engine.dispose()


def test_the_turn_of_a_run_that_is_gone_is_free(database_url: str, engine: Engine) -> None:
    first = db.make_engine(database_url, autocommit=True)
    with first.connect() as connection:
        connection.execute(TAKE)
    first.dispose()  # killed: its session ends, and nobody has given the turn back
    with engine.begin() as connection:
        assert connection.execute(text("SELECT pid IS NOT NULL FROM cardsync.migration_lock")).scalar_one()
    db.upgrade(database_url)


def test_another_session_with_the_same_process_number_holds_no_turn(database_url: str, engine: Engine) -> None:
    with engine.connect() as alive:
        alive.execute(TAKE)
        alive.execute(text("UPDATE cardsync.migration_lock SET session_began = session_began - interval '1 day'"))
        alive.commit()
        db.upgrade(database_url)


def test_several_that_migrate_an_empty_database_at_once_all_come_to_the_end(postgres: EmbeddedPostgres) -> None:
    postgres.create_database("first_time")
    url = postgres.url_for("first_time")
    try:
        runs = [migrate(url) for _ in range(3)]
        assert [run.wait(SECONDS) for run in runs] == [0, 0, 0], [run.stderr and run.stderr.read() for run in runs]
        engine = db.make_engine(url)
        assert db.current_revision(engine) == db.newest_revision()
        engine.dispose()
    finally:
        postgres.drop_database("first_time")


def test_a_migration_that_waits_for_a_lock_says_who_holds_it_before_it_gives_up(database_url: str) -> None:
    engine = db.make_engine(database_url, name="the holder")
    with engine.begin() as holder:
        holder.execute(text("LOCK TABLE cardsync.alembic_version"))
        pid, user = holder.execute(text("SELECT pg_backend_pid(), current_user")).one()
        waiting = migrate(database_url)
        assert waiting.wait(SECONDS) != 0  # after five seconds
        assert waiting.stderr is not None
        said, *rest = waiting.stderr.read().splitlines()
    engine.dispose()
    assert said.startswith(
        f"cardsync: the migration waits for a lock that is held by PostgreSQL session {pid} (the holder, user {user}, "
        "idle in transaction, in a transaction since "
    )
    assert "SELECT" not in said
    assert not [line for line in rest if line.startswith("cardsync: ")]  # once
    assert migrate(database_url).wait(SECONDS) == 0


def test_a_holder_whose_session_this_login_may_not_look_into_and_a_prepared_transaction_are_told_too() -> None:
    hidden = lock_watch.Holder(7, "pg\ndump", "other", None, None)
    assert str(hidden) == "PostgreSQL session 7 (pg?dump, user other)"
    assert str(lock_watch.Holder(0, None, None, None, None)).startswith("a prepared transaction")


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_script_that_was_run_through_a_pooler_leaves_no_turn_and_no_setting_in_its_session(
    postgres: EmbeddedPostgres, services: Path, mode: Mode
) -> None:
    name = f"script_{mode}"
    postgres.create_database(name)
    url = postgres.url_for(name)
    pooler = PgBouncer(new_folder(services), url, [make_url(url)], mode)
    through = make_url(pooler.url(url)).set(drivername="postgresql").render_as_string(hide_password=False)
    script = db.script(url, None)
    try:
        assert script.startswith("-- ")
        assert "not through a pooler" in script.splitlines()[0]
        usual = {setting: shown(postgres, through, setting) for setting in SET_BY_THE_SCRIPT}
        done = psql(postgres, through, script)
        assert done.returncode == 0, done.stderr
        assert {setting: shown(postgres, through, setting) for setting in SET_BY_THE_SCRIPT} == usual
        assert psql(postgres, url, "SELECT pid IS NULL FROM cardsync.migration_lock").stdout.strip() == "t"
        assert migrate(url).wait(SECONDS) == 0
    finally:
        pooler.stop()
        postgres.drop_database(name)


def psql(postgres: EmbeddedPostgres, url: str, script: str) -> subprocess.CompletedProcess[str]:
    command = [postgres.program("psql"), "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", f"--dbname={url}"]
    return subprocess.run(command, input=script, capture_output=True, text=True, timeout=SECONDS, check=False)


def shown(postgres: EmbeddedPostgres, url: str, setting: str) -> str:
    return psql(postgres, url, f"SHOW {setting}").stdout.strip()
