"""A process that is newer or older than the schema says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from cardsync import db
from cardsync.db import migrating
from tests import payloads

# What gunicorn does with the module: it is imported in each process. Its thread has all the time it needs.
LOADED_BY_A_SERVER = """
import importlib, sys, threading
importlib.import_module(sys.argv[1])
for thread in threading.enumerate():
    if thread.name == "another-schema":
        thread.join()
"""


@pytest.fixture(autouse=True)
def _nothing_told_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrating, "_told_of", set())


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (None, []),
        ("0028", [("schema_is_older", "error", "0028")]),
        ("9999", [("schema_is_newer", "warning", "9999")]),
    ],
)
def test_a_schema_that_is_older_or_newer_is_told_at_the_start_of_a_process(
    engine: Engine, worker_engine: Engine, at: str | None, said: list[tuple[str, str, str]]
) -> None:
    if at is not None:
        with engine.begin() as connection:
            connection.execute(text("UPDATE cardsync.alembic_version SET version_num = :at"), {"at": at})
    with capture_logs() as lines:
        db.tell_of_another_schema(worker_engine)
        db.tell_of_another_schema(worker_engine)  # as in a process that was forked after its parent said it
    assert [(line["event"], line["log_level"], line["at"]) for line in lines] == said


def test_a_process_that_starts_without_the_database_says_it_once_the_database_answers(
    worker_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([OperationalError("SELECT 1", {}, Exception("refused")), "9999"])

    def current_revision(_: Engine) -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(migrating, "current_revision", current_revision)
    monkeypatch.setattr(migrating, "ASK_AGAIN_SECONDS", 0.0)
    with capture_logs() as lines:
        db.tell_of_another_schema_once_it_answers(worker_engine)
        for thread in threading.enumerate():
            if thread.name == "another-schema":
                thread.join()
    assert [line["event"] for line in lines] == ["schema_is_newer"]


@pytest.mark.parametrize("module", ["cardsync.wsgi", "cardsync.web.console.wsgi"])
def test_web_and_console_say_it_under_any_server(
    engine: Engine, database_url: str, tmp_path: Path, module: str
) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.alembic_version SET version_num = '9999'"))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("CARDSYNC_", "OTTU_", "PROMETHEUS_"))}
    settings = {
        "CARDSYNC_DATABASE_URL": database_url,
        "CARDSYNC_BROKER_URL": "redis://127.0.0.1:1/0",
        "CARDSYNC_SECRET_KEY": "s" * 32,
        "CARDSYNC_DATA_DIR": str(tmp_path / "data"),
        "OTTU_WEBHOOK_KEYS": payloads.KEY,
    }
    command = [sys.executable, "-c", LOADED_BY_A_SERVER, module]
    done = subprocess.run(command, env=inherited | settings, cwd=tmp_path, capture_output=True, timeout=300, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]  # each is JSON
    assert [line["event"] for line in lines if line["event"].startswith("schema_is")] == ["schema_is_newer"]
