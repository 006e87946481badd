"""The engines of a process open no more connections together than CARDSYNC_DATABASE_CONNECTIONS."""

from __future__ import annotations

import contextlib
import datetime as dt
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
from cardsync.dev.servers.ports import free_port
from cardsync.settings import Settings
from cardsync.store import heartbeats
from cardsync.store.heartbeats import Process
from cardsync.web.database_breaker import INGEST_CONNECTIONS
from cardsync.web.ops.process_server import serve_in_background
from tests import payloads
from tests.waiting import until
from workers.main import make_engines

CAP = 10
ROOT = Path(__file__).parents[2]
COUNT = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
# Takes all that the web's engines give, and waits until the server has as many sessions as may be, and no more.
WEB = f"""
import contextlib, sys
from cardsync import wsgi
from tests.db.test_connections import sessions_are
from sqlalchemy.exc import TimeoutError as PoolTimeout
with contextlib.ExitStack() as open_ones:
    for engine in (wsgi._ingest_engine, wsgi._engine):
        engine.pool._timeout = 0
        with contextlib.suppress(PoolTimeout):
            for _ in range({CAP} + 1):
                open_ones.enter_context(engine.connect())
    sessions_are({CAP}, sys.argv[1])
"""

# The same of the console's pages.
CONSOLE = """
import sys
from cardsync.web.console import wsgi
from tests.db.test_connections import hold
hold([wsgi.engine], sys.argv[1], 2)
"""


def sessions_are(most: int, url: str) -> None:
    """Wait until the server has so many sessions: one that its client closed ends a moment later."""
    with psycopg.connect(url, autocommit=True) as owner:
        until(lambda: owner.execute(COUNT).fetchone() == (most,), f"the server has {most} sessions")


def hold(engines: list[Engine], url: str, most: int) -> None:
    """Take all that the engines give: they are so many sessions of the server."""
    with contextlib.ExitStack() as stack:
        for engine in engines:
            cast("Any", engine.pool)._timeout = 0
            with contextlib.suppress(PoolTimeout):
                for _ in range(CAP + 1):
                    stack.enter_context(engine.connect())
        sessions_are(most, url)


def settings_of(url: str, tmp_path: Path, **more: object) -> Settings:
    return Settings.model_validate({"database_url": url, "data_dir": tmp_path, **more})


def test_the_fewest_for_hints_are_what_the_breaker_needs() -> None:
    assert connections.HINTS_FEWEST == INGEST_CONNECTIONS


def test_an_engine_holds_no_more_than_its_most(database_url: str) -> None:
    for most in (1, 3, 9):
        engine = db.make_engine(database_url, pool_size=5, most=most)
        hold([engine], database_url, most)
        engine.dispose()


def test_a_worker_holds_no_more_than_its_cap_with_those_of_its_health_and_its_watchdog(
    database_url: str, tmp_path: Path
) -> None:
    engines = make_engines(settings_of(database_url, tmp_path, database_connections=CAP))
    hold(list(engines), database_url, CAP - connections.HEALTH - connections.WATCHDOG)
    for engine in engines:
        engine.dispose()


def test_a_web_process_holds_no_more_than_its_cap(database_url: str, tmp_path: Path) -> None:
    in_a_process(WEB, database_url, tmp_path)


def test_a_consoles_pages_hold_no_more_than_two(database_url: str, tmp_path: Path) -> None:
    in_a_process(CONSOLE, database_url, tmp_path)


def test_a_health_port_holds_no_more_than_two(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Engine] = []
    make_engine = db.make_engine

    def noting(*arguments: Any, **given: Any) -> Engine:
        made.append(make_engine(*arguments, **given))
        return made[-1]

    monkeypatch.setattr("cardsync.web.ops.process_server.db.make_engine", noting)
    loaded = settings_of(database_url, tmp_path)
    close = serve_in_background(loaded, kind="console", host="127.0.0.1", port=free_port())
    try:
        assert len(made) == 1
        hold(made, database_url, connections.HEALTH)
    finally:
        close()


def in_a_process(code: str, database_url: str, tmp_path: Path) -> None:
    """Run it in a process of its own: its engines are made from the settings, at import."""
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
        [sys.executable, "-c", code, database_url],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert asked.returncode == 0, asked.stderr


@pytest.mark.parametrize(("cap", "status"), [(CAP, "ok"), (10_000, "warning")])
def test_the_doctor_compares_the_sum_with_the_servers_room(
    database_url: str, engine: Engine, tmp_path: Path, cap: int, status: str
) -> None:
    found = room.for_all(engine, settings_of(database_url, tmp_path, database_connections=cap, web_threads=128))
    assert (found.name, found.status) == ("connections", status)
    assert "(0 web, 0 worker, 0 beat, 0 console), and a web and a console, may hold" in found.found


def test_the_doctor_counts_what_each_process_at_work_says_that_it_may_hold(
    database_url: str, engine: Engine, tmp_path: Path
) -> None:
    with engine.begin() as connection:
        for number, held in enumerate((32, 32, 20)):
            web = Process("web", "one.example", number)
            heartbeats.beat(connection, web, here=dt.datetime.now(dt.UTC), connections=held)
        worker = Process("worker", "one.example", 7)  # of a release that says no number
        heartbeats.beat(connection, worker, here=dt.datetime.now(dt.UTC))
    found = room.for_all(engine, settings_of(database_url, tmp_path))
    most = 84 + connections.of_worker(64, None).all + connections.of_console()
    assert f"(3 web, 1 worker, 0 beat, 0 console), and a console, may hold {most} sessions" in found.found
