"""What the doctor says of the server itself, on servers of their own: a hot standby, slots that keep its log, few sessions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner
from psycopg import pq
from sqlalchemy import NullPool

from cardsync import db
from cardsync.cli import main
from cardsync.cli.doctor import room
from cardsync.cli.doctor.check import Check
from cardsync.dev.servers.postgres import EmbeddedPostgres
from tests.waiting import until


@pytest.fixture
def small(services: Path) -> Iterator[EmbeddedPostgres]:
    """A server with room for ten sessions that keeps slots for readers of its changes."""
    made = EmbeddedPostgres(
        services / "small",
        durable=False,
        settings={"max_connections": "13", "superuser_reserved_connections": "3", "wal_level": "logical"},
    )
    made.start()
    yield made
    made.remove()


def test_a_server_with_few_sessions_left_and_a_slot_without_a_reader_are_told(small: EmbeddedPostgres) -> None:
    engine = db.make_engine(small.url, poolclass=NullPool)
    found = {check.name: check for check in room.checks(engine)}
    assert {name: check.status for name, check in found.items()} == {"sessions": "ok"}
    with psycopg.connect(small.url, autocommit=True) as owner:
        owner.execute("SELECT pg_create_logical_replication_slot('forgotten', 'pgoutput')")
        others = [psycopg.connect(small.url) for _ in range(7)]
        found = {check.name: check for check in room.checks(engine)}
        for other in others:
            other.close()
    assert (found["sessions"].status, found["slots"].status) == ("warning", "warning")
    assert "slot forgotten" in found["slots"].found


def slots(server: EmbeddedPostgres) -> list[Check]:
    engine = db.make_engine(server.url, poolclass=NullPool)
    return [check for check in room.checks(engine) if check.name == "slots"]


def test_a_slot_beyond_the_usual_size_of_the_log_fails_and_a_reader_that_confirms_nothing_is_told(
    small: EmbeddedPostgres,
) -> None:
    with psycopg.connect(small.url, autocommit=True) as owner:
        owner.execute("ALTER SYSTEM SET max_wal_size = '32MB'")
        owner.execute("ALTER SYSTEM SET min_wal_size = '32MB'")
        owner.execute("SELECT pg_reload_conf()")
        until(lambda: owner.execute("SHOW max_wal_size").fetchone() == ("32MB",), "the settings are read", seconds=180)
        owner.execute("SELECT pg_create_logical_replication_slot('slow', 'pgoutput')")
        owner.execute("CREATE PUBLICATION nothing")
        for number in range(4):  # a segment of the log each
            owner.execute(f"CREATE TABLE t{number} ()".encode())
            owner.execute("SELECT pg_switch_wal()")
        (left,) = slots(small)
        assert (left.status, "no program reads the slot slow" in left.found) == ("failed", True)
        with contextlib.closing(psycopg.connect(small.url, autocommit=True, replication="database")) as reader:
            options = b"proto_version '1', publication_names 'nothing'"
            begun = reader.pgconn.exec_(b"START_REPLICATION SLOT slow LOGICAL 0/0 (%s)" % options)
            assert begun.status == pq.ExecStatus.COPY_BOTH, begun.error_message
            (behind,) = slots(small)
        assert (behind.status, "the reader of the slot slow is behind" in behind.found) == ("warning", True)


def test_a_slot_that_the_server_gave_up_is_told(small: EmbeddedPostgres) -> None:
    with psycopg.connect(small.url, autocommit=True) as owner:
        owner.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
        owner.execute("SELECT pg_reload_conf()")
        owner.execute("SELECT pg_create_logical_replication_slot('given_up', 'pgoutput')")
        state = "SELECT wal_status FROM pg_replication_slots"

        def is_lost() -> bool:
            owner.execute("CREATE TABLE more ()")
            owner.execute("DROP TABLE more")
            owner.execute("SELECT pg_switch_wal()")
            owner.execute("CHECKPOINT")
            return owner.execute(state).fetchone() == ("lost",)

        until(is_lost, "the server gives the slot up", seconds=180)
    (lost,) = slots(small)
    assert (lost.status, "it can never go on" in lost.found) == ("warning", True)


def test_a_hot_standby_is_known(small: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = db.make_engine(small.url, poolclass=NullPool)
    assert room.standby(engine) is None
    data = small._data_directory()
    small.stop()
    account = small._account
    assert account is not None
    assert account.run("/bin/sh", "-c", 'touch "$1/standby.signal"', "sh", data).returncode == 0
    small.start()
    found = room.standby(engine)
    assert found is not None
    assert (found.status, "target_session_attrs" in (found.advice or "")) == ("failed", True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARDSYNC_DATABASE_URL", small.url)
    said = CliRunner().invoke(main, ["doctor", "--offline"], prog_name="cardsync")
    lines = [line for line in said.stdout.splitlines() if line.split("\t")[1:2] == ["standby"]]
    assert (said.exit_code, len(lines)) == (1, 1), said.output
    assert lines[0].startswith("failed\tstandby\tthis server is a hot standby: services may read here")
