"""Heartbeats: who is at work by the database's clock, whose clock is wrong, and what is forgotten."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import ProgrammingError

from cardsync import db
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.store import heartbeats
from cardsync.store.heartbeats import Process
from tests.e2e.standby import set_and_reload
from tests.logins import ProcessLogins

WORKER, BEAT = Process("worker", "one.example", 7), Process("beat", "one.example", 8)


@pytest.fixture
def console_engine(database_url: str, logins: ProcessLogins) -> Iterator[Engine]:
    """An engine with the console's login."""
    made = db.make_engine(logins.url("console", database_url))
    yield made
    made.dispose()


def beat(engine: Engine, process: Process, *, ahead_seconds: float = 0) -> None:
    with engine.begin() as connection:
        here = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=ahead_seconds)
        heartbeats.beat(connection, process, here=here)


def age(engine: Engine, seconds: float) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.heartbeats SET at = at - make_interval(secs => :s)"), {"s": seconds})


def read(engine: Engine) -> list[heartbeats.Heartbeat]:
    with engine.connect() as connection:
        return heartbeats.read(connection)


def test_a_kind_without_a_fresh_heartbeat_is_missing(engine: Engine, worker_engine: Engine, web_engine: Engine) -> None:
    assert heartbeats.missing(read(web_engine)) == ["worker", "beat"]
    beat(worker_engine, WORKER)
    beat(worker_engine, BEAT)
    assert heartbeats.missing(read(web_engine)) == []
    age(engine, heartbeats.MISSED_AFTER_SECONDS + 1)
    beat(worker_engine, BEAT)
    assert heartbeats.missing(read(web_engine)) == ["worker"]
    with worker_engine.begin() as connection:
        heartbeats.leave(connection, BEAT)
    assert heartbeats.missing(read(web_engine)) == ["worker", "beat"]


def test_a_clock_is_told_only_of_a_process_at_work_and_its_heartbeats_age_by_the_database(
    engine: Engine, worker_engine: Engine
) -> None:
    beat(worker_engine, WORKER, ahead_seconds=600)
    beat(worker_engine, BEAT, ahead_seconds=-2)
    found = read(worker_engine)
    assert [one.process for one in heartbeats.wrong_clocks(found)] == [WORKER]
    assert heartbeats.wrong_clocks(found)[0].clock_ahead_seconds == pytest.approx(600, abs=5)
    assert not any(one.is_missed for one in found)
    age(engine, heartbeats.MISSED_AFTER_SECONDS + 1)
    assert heartbeats.wrong_clocks(read(worker_engine)) == []


def test_what_was_killed_is_forgotten_after_an_hour(engine: Engine, worker_engine: Engine) -> None:
    beat(worker_engine, WORKER)
    age(engine, heartbeats.FORGET_AFTER_SECONDS + 1)
    beat(worker_engine, BEAT)
    assert [one.process for one in read(worker_engine)] == [BEAT]


def test_the_web_writes_no_heartbeat(web_engine: Engine) -> None:
    with pytest.raises(ProgrammingError, match="permission denied"):
        beat(web_engine, WORKER)


@pytest.mark.parametrize("kind", heartbeats.SHOWN)
def test_a_web_and_a_console_are_shown_with_what_they_may_hold_and_are_not_missed(
    web_engine: Engine, console_engine: Engine, kind: heartbeats.Kind
) -> None:
    engine = {"web": web_engine, "console": console_engine}[kind]
    process = Process(kind, "one.example", 9)
    with engine.begin() as connection:
        heartbeats.beat(connection, process, here=dt.datetime.now(dt.UTC), connections=32)
    (found,) = read(web_engine)
    assert (found.process, found.connections, found.is_missed) == (process, 32, False)
    with engine.begin() as connection:
        heartbeats.leave(connection, process)
    assert read(web_engine) == []
    assert heartbeats.missing(read(web_engine)) == ["worker", "beat"]


def test_neither_a_web_nor_a_console_says_that_a_worker_is_at_work_or_ends_its_heartbeat(
    web_engine: Engine, console_engine: Engine, worker_engine: Engine
) -> None:
    beat(worker_engine, WORKER)
    show = text("SELECT cardsync.show_at_work('worker', 'one.example', 7, now(), 1)")
    end = text("SELECT cardsync.end_at_work('worker', 'one.example', 7)")
    for engine in (web_engine, console_engine):
        with pytest.raises(ProgrammingError, match="only a web or a console"), engine.begin() as connection:
            connection.execute(show)
        with engine.begin() as connection:
            connection.execute(end)
    assert [one.process for one in read(worker_engine)] == [WORKER]


def test_webs_that_are_many_hide_no_worker(worker_engine: Engine, engine: Engine) -> None:
    beat(worker_engine, WORKER)
    with engine.begin() as connection:
        connection.execute(
            text("SELECT cardsync.show_at_work('web', 'h', n, now(), 1) FROM generate_series(1, 1500) n")
        )
    assert "worker" not in heartbeats.missing(read(worker_engine))


@pytest.mark.parametrize("autocommit", [True, False])
def test_no_heartbeat_waits_for_a_standby_that_is_away(
    database_url: str, postgres: EmbeddedPostgres, autocommit: bool
) -> None:
    engine = db.make_engine(database_url, autocommit=autocommit)
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    set_and_reload(postgres, synchronous_standby_names="absent")
    try:
        for process in (WORKER, BEAT, Process("web", "one.example", 9)):
            beat(engine, process)
            with engine.begin() as connection:
                heartbeats.leave(connection, process)
    finally:
        set_and_reload(postgres, synchronous_standby_names="")
        engine.dispose()
