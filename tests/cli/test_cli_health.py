"""``cardsync health``: unhealthy is what the database knows to stand still, and nothing else."""

from __future__ import annotations

import datetime as dt
import json
import os

import pytest
from sqlalchemy import text

from cardsync.store import heartbeats
from workers.heart import this_process


@pytest.fixture
def worker(engine):
    """This process, as a worker that was at work just now."""
    process = this_process("worker")
    with engine.begin() as connection:
        heartbeats.beat(connection, process, here=dt.datetime.now(dt.UTC))
    return process


def test_a_worker_at_work_is_healthy(cardsync, worker):
    assert cardsync("health", "worker").exit_code == 0
    assert cardsync("health", "worker", "--pid", str(os.getpid())).exit_code == 0
    assert json.loads(cardsync("health", "worker", "--json").stdout)["healthy"] is True


def test_a_worker_that_stands_still_or_is_on_another_host_is_not(cardsync, worker, engine):
    assert cardsync("health", "beat").exit_code == 1
    assert cardsync("health", "worker", "--pid", str(os.getpid() + 1)).exit_code == 1
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.heartbeats SET at = at - interval '31 s'"))
    result = cardsync("health", "worker")
    assert (result.exit_code, "31 s old" in result.stderr) == (1, True)
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.heartbeats SET at = clock_timestamp(), host = 'another.example'"))
    assert cardsync("health", "worker").exit_code == 1


def test_a_database_that_is_away_makes_nothing_unhealthy(cardsync, monkeypatch):
    monkeypatch.setenv("CARDSYNC_DATABASE_URL", "postgresql://nobody:fake@127.0.0.1:1/none")
    result = cardsync("health", "worker")
    assert (result.exit_code, result.stdout[:8]) == (0, "unknown:")
