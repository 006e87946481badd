"""``cardsync.wsgi:app`` under another server than ours: gunicorn with threads, as the documentation shows it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine, text

from cardsync.dev.servers.ports import free_port
from cardsync.web.ingest.endpoint import PATH
from tests import payloads
from tests.waiting import until
from tests.web.conftest import SECRET

STOP_SECONDS = 90
ANSWER_SECONDS = 60


@pytest.fixture
def gunicorn(database_url: str, tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("CARDSYNC_", "OTTU_", "PROMETHEUS_"))}
    environ = inherited | {
        "CARDSYNC_DATABASE_URL": database_url,
        "CARDSYNC_BROKER_URL": "redis://127.0.0.1:1/0",
        "CARDSYNC_SECRET_KEY": SECRET,
        "CARDSYNC_DATA_DIR": str(tmp_path / "data"),
        "OTTU_WEBHOOK_KEYS": payloads.KEY,
    }
    address = f"127.0.0.1:{free_port()}"
    options = ["--worker-class", "gthread", "--workers", "2", "--threads", "8", "--bind", address]
    with (tmp_path / "gunicorn.log").open("wb") as log:
        command = [sys.executable, "-m", "gunicorn", *options, "cardsync.wsgi:app"]
        process = subprocess.Popen(command, env=environ, cwd=tmp_path, stdout=log, stderr=log)
    yield f"http://{address}", process
    process.kill()
    process.wait(STOP_SECONDS)


def send(url: str, body: bytes) -> tuple[int, str]:
    answer = httpx.post(url + PATH, content=body, headers={"Content-Type": "application/json"}, timeout=ANSWER_SECONDS)
    return answer.status_code, answer.json()["status"] if answer.is_success else ""


def lives(url: str) -> bool:
    try:
        return httpx.get(url + "/livez", timeout=ANSWER_SECONDS).is_success
    except httpx.HTTPError:
        return False


def rows(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM cardsync.events")).scalar_one())


def test_the_endpoint_runs_under_any_wsgi_server(gunicorn: tuple[str, subprocess.Popen[bytes]], engine: Engine) -> None:
    url, process = gunicorn
    until(lambda: lives(url), "gunicorn answers")
    bodies = [payloads.signed(payloads.save_card(f"cust-{n}")) for n in range(40)]
    with ThreadPoolExecutor(16) as senders:
        assert set(senders.map(lambda body: send(url, body), bodies)) == {(200, "accepted")}
    # What the database does not take within a second, on a busy machine, becomes a row by way of the disk.
    until(lambda: rows(engine) == len(bodies), "each is a row")
    until(lambda: send(url, bodies[0]) == (200, "duplicate"), "it is known")
    assert send(url, b"{}") == (401, "")
    assert rows(engine) == len(bodies)
    process.send_signal(signal.SIGTERM)
    assert process.wait(STOP_SECONDS) == 0
