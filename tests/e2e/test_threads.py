"""Each thread of each kind of process, one after the other: if it ends, its process ends, and a web's parent starts another."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from cardsync.dev.servers.ports import free_port
from tests.e2e.processes import Process
from tests.payloads import KEY, payment, signed
from tests.test_vital_threads import names_of_vital_threads
from tests.waiting import until

# Loaded by Python at its start: the thread of this name finds an error in place of its work.
_SITECUSTOMIZE: Final = """
import os
from cardsync import threads

class Ending(threads.VitalThread):
    def run(self):
        if self.name == os.environ["ENDING_THREAD"]:
            self._work = lambda: 1 / 0
        super().run()

threads.VitalThread = Ending
"""
NOWHERE: Final = "postgresql://nobody:secret@127.0.0.1:1/none"
WORKER: Final = (
    "dispatcher",
    "listener",
    "courier",
    "sender",
    "own-ticks",
    "heart",
    "end-in-time",
    "health",
    "connection-watchdog",
)
WEB: Final = ("writer", "spooler", "drainer", "database-breaker", "bells", "parent")
ENDS_SECONDS: Final = 240.0  # a deadline: it starts, twice where it is started again, on a busy machine
BEAT: Final = ("heart", "health", "end-when-stuck", "lateness", "connection-watchdog")


def settings(folder: Path, thread: str, database_url: str = NOWHERE) -> dict[str, str]:
    (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE)
    return {
        "PYTHONPATH": str(folder),
        "ENDING_THREAD": thread,
        "CARDSYNC_DATABASE_URL": database_url,
        "CARDSYNC_BROKER_URL": "redis://127.0.0.1:1/0",
        "CARDSYNC_SECRET_KEY": secrets.token_hex(24),
        "CARDSYNC_DATA_DIR": str(folder / "data"),
        "CARDSYNC_LOG_FORMAT": "json",
        "OTTU_WEBHOOK_KEYS": KEY,
        "OTTU_BASE_URL": "http://127.0.0.1:1",
        "OTTU_API_KEY": "none",
    }


def ended(process: Process) -> list[dict[str, Any]]:
    whole, _, _ = process.output().rpartition("\n")  # its last line may be one that is being written
    lines = (line for line in whole.splitlines() if '"thread_ended"' in line)
    return [json.loads(line) for line in lines]


def test_every_thread_is_tried() -> None:
    same_loop = {"writer of repeats"}  # as the writer's, which is tried
    assert {*WORKER, *WEB, *BEAT} == names_of_vital_threads() - same_loop


@pytest.mark.parametrize("thread", WORKER)
def test_a_worker_ends_with_each_of_its_threads(tmp_path: Path, database_url: str, thread: str) -> None:
    arguments = ["worker", "--health-port", str(free_port())]
    process = Process(tmp_path, "worker", arguments, settings(tmp_path, thread, database_url)).start()
    try:
        assert process.wait(ENDS_SECONDS) == 1
    finally:
        process.kill()
    # A health port has a watchdog of its own.
    assert {(line["thread"], line["error"]) for line in ended(process)} == {(thread, "ZeroDivisionError")}


@pytest.mark.parametrize("thread", BEAT)
def test_a_beat_ends_with_each_of_its_threads(tmp_path: Path, thread: str) -> None:
    process = Process(tmp_path, "beat", ["beat", "--health-port", str(free_port())], settings(tmp_path, thread)).start()
    try:
        assert process.wait(ENDS_SECONDS) == 1
    finally:
        process.kill()
    assert {line["thread"] for line in ended(process)} == {thread}


@pytest.mark.parametrize("thread", WEB)
def test_a_web_process_ends_with_each_of_its_threads_and_another_one_answers(
    tmp_path: Path, database_url: str, thread: str
) -> None:
    port = free_port()
    arguments = ["web", "--port", str(port), "--workers", "1"]
    place = database_url if thread == "writer" else NOWHERE  # without a database hints go to the disk
    process = Process(tmp_path, "web", arguments, settings(tmp_path, thread, place)).start()

    def send() -> None:
        """What makes the web write: to the database, which is away, and then to the disk."""
        try:
            headers = {"Content-Type": "application/json"}
            url = f"http://127.0.0.1:{port}/webhooks/ottu"
            httpx.post(url, content=signed(payment()), headers=headers, timeout=30)
        except httpx.HTTPError:
            pass

    try:
        until(
            lambda: send() or len(ended(process)) >= 2, "it ended, was started again, and ended", seconds=ENDS_SECONDS
        )
        assert process.is_running
    finally:
        process.kill()
    assert {line["thread"] for line in ended(process)} == {thread}


@pytest.mark.parametrize("thread", ["parent"])
def test_a_console_ends_with_each_of_its_threads(tmp_path: Path, thread: str) -> None:
    process = Process(tmp_path, "console", ["console", "--port", str(free_port())], settings(tmp_path, thread)).start()
    try:
        until(lambda: len(ended(process)) >= 2, "it ended, was started again, and ended", seconds=ENDS_SECONDS)
    finally:
        process.kill()
