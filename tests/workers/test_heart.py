"""The heart: it beats while the process is at work."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from cardsync import db, threads
from cardsync.store import heartbeats
from cardsync.store.heartbeats import Process
from tests.waiting import until
from workers import heart as heart_module
from workers.heart import STANDS_STILL_SECONDS, Heart, Pulse

SECONDS = 60.0  # a deadline: only a bug takes so long
WORKER = Process("worker", "one.example", 7)


@pytest.fixture(autouse=True)
def _patient_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A heart that is given up while it beats leaves its row: on a busy machine a beat may take longer than it is waited for."""
    monkeypatch.setattr(heart_module, "CLOSE_SECONDS", SECONDS)


def at_work(engine: Engine) -> list[Process]:
    with engine.connect() as connection:
        return [one.process for one in heartbeats.read(connection)]


def test_a_process_at_work_has_a_heartbeat_until_it_is_told_to_stop(engine: Engine, worker_engine: Engine) -> None:
    heart = Heart(worker_engine, WORKER)
    heart.start()
    until(lambda: at_work(engine) == [WORKER], "a heartbeat")
    heart.close()
    assert at_work(engine) == []


def test_a_process_that_ends_itself_is_not_missed(engine: Engine, worker_engine: Engine) -> None:
    heart = Heart(worker_engine, WORKER)
    heart.start()
    until(lambda: at_work(engine) == [WORKER], "a heartbeat")
    for leave in list(threads._before_end):  # what `end_process` calls
        leave()
    assert at_work(engine) == []
    heart.close()


def test_a_loop_that_stands_still_has_no_heartbeat(worker_engine: Engine) -> None:
    seconds = [0.0]
    pulse = Pulse(now=lambda: seconds[0])
    assert pulse.is_beating()
    seconds[0] = STANDS_STILL_SECONDS
    assert not pulse.is_beating()
    heart = Heart(worker_engine, WORKER, pulse=pulse)
    heart.start()
    heart.close()
    assert at_work(worker_engine) == []
    pulse.turn()
    assert pulse.is_beating()


def test_a_database_that_is_away_ends_nothing() -> None:
    heart = Heart(db.make_engine("postgresql://nobody@127.0.0.1:1/none"), WORKER)
    heart.start()
    heart.close()


def test_nothing_is_written_while_the_database_is_known_to_be_away(
    engine: Engine, web_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "SHOWN_EVERY_SECONDS", 0.05)
    web, asked, is_there = Process("web", "one.example", 9), [0], [False]

    def ask() -> bool:
        asked[0] += 1
        return is_there[0]

    heart = Heart(web_engine, web, connections=32, is_there=ask)
    heart.start()
    until(lambda: asked[0] > 3, "it looks whether the database is there")
    assert at_work(engine) == []
    is_there[0] = True
    until(lambda: at_work(engine) == [web], "a heartbeat")
    heart.close()
    assert at_work(engine) == []
