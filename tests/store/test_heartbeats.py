"""Heartbeats: who is at work by the database's clock, whose clock is wrong, and what is forgotten."""

from __future__ import annotations

import datetime as dt

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import ProgrammingError

from cardsync.store import heartbeats
from cardsync.store.heartbeats import Process

WORKER, BEAT = Process("worker", "one.example", 7), Process("beat", "one.example", 8)


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
