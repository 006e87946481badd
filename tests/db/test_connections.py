"""The engines of a process open no more connections together than CARDSYNC_DATABASE_CONNECTIONS."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import TimeoutError as PoolTimeout

from cardsync import db
from cardsync.cli.doctor import room
from cardsync.core import connections
from cardsync.settings import Settings
from cardsync.web.database_breaker import INGEST_CONNECTIONS
from tests import payloads
from tests.waiting import until
from workers.main import make_engines

CAP = 10
# Autovacuum's workers come and go in every database.
COUNT = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)
# Takes all that the web's engines give, and counts the sessions that the server has then.
WEB = f"""
import contextlib, sys, psycopg
from cardsync import wsgi
from sqlalchemy.exc import TimeoutError as PoolTimeout
with contextlib.ExitStack() as open_ones:
    for engine in (wsgi._ingest_engine, wsgi._engine):
        engine.pool._timeout = 0
        with contextlib.suppress(PoolTimeout):
            for _ in range({CAP} + 1):
                open_ones.enter_context(engine.connect())
    with psycopg.connect(sys.argv[1]) as owner:
        print(owner.execute("{COUNT}").fetchone()[0])
"""


def check_held(engines: list[Engine], url: str, expected: int) -> None:
    """Take all that the engines give, and wait until the server has that number of sessions: closed ones end a moment later."""
    with contextlib.ExitStack() as stack:
        for engine in engines:
            cast("Any", engine.pool)._timeout = 0
            with contextlib.suppress(PoolTimeout):
                for _ in range(CAP + 1):
                    stack.enter_context(engine.connect())
        with psycopg.connect(url, autocommit=True) as owner:
            until(lambda: owner.execute(COUNT.encode()).fetchone() == (expected,), f"there are {expected} sessions")


def settings_of(url: str, tmp_path: Path, **more: object) -> Settings:
    return Settings.model_validate({"database_url": url, "data_dir": tmp_path, **more})


def test_the_fewest_for_hints_are_what_the_breaker_needs() -> None:
    assert connections.HINTS_FEWEST == INGEST_CONNECTIONS


def test_an_engine_holds_no_more_than_its_most(database_url: str) -> None:
    for most in (1, 3, 9):
        engine = db.make_engine(database_url, pool_size=5, most=most)
        check_held([engine], database_url, most)
        engine.dispose()


def test_a_worker_holds_no_more_than_its_cap_with_two_for_its_health(database_url: str, tmp_path: Path) -> None:
    engines = make_engines(settings_of(database_url, tmp_path, database_connections=CAP))
    check_held(list(engines), database_url, CAP - 2)
    for engine in engines:
        engine.dispose()


def test_a_web_process_holds_no_more_than_its_cap(database_url: str, tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "CARDSYNC_DATABASE_URL": database_url,
        "CARDSYNC_DATABASE_CONNECTIONS": str(CAP),
        "CARDSYNC_BROKER_URL": "redis://127.0.0.1:1/0",
        "CARDSYNC_SECRET_KEY": "a-secret-key-of-the-tests-32-characters",
        "CARDSYNC_DATA_DIR": str(tmp_path),
        "OTTU_WEBHOOK_KEYS": payloads.KEY,
    }
    asked = subprocess.run(
        [sys.executable, "-c", WEB, database_url], env=environment, capture_output=True, text=True, timeout=600
    )
    assert asked.returncode == 0, asked.stderr
    assert [line for line in asked.stdout.splitlines() if line.isdigit()] == [str(CAP)]


@pytest.mark.parametrize(("cap", "status"), [(CAP, "ok"), (10_000, "warning")])
def test_the_doctor_compares_the_sum_with_the_servers_room(
    database_url: str, engine: Engine, tmp_path: Path, cap: int, status: str
) -> None:
    found = room.for_all(engine, settings_of(database_url, tmp_path, database_connections=cap, web_threads=128))
    assert (found.name, found.status) == ("connections", status)
    assert "a web process, 0 worker, 0 beat" in found.found
