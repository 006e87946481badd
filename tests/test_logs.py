"""Lines of the log: all of them, whole, in order, in few writes, and never an error or a wait of ours."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

import pytest
import structlog

from cardsync import log_lines, logs
from cardsync.db.watched_pool import WatchedPool
from cardsync.settings import Settings
from tests.waiting import until


class Pipe(io.BytesIO):
    """What stands behind standard output; it keeps each write apart."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[list[Any]] = []

    def write(self, content: Any) -> int:
        self.writes.append([json.loads(line)["event"] for line in bytes(content).splitlines()])
        return super().write(content)

    @property
    def events(self) -> list[Any]:
        log_lines.flush()
        return [event for write in self.writes for event in write]


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Pipe:
    made = Pipe()
    use_as_output(monkeypatch, made)
    return made


def use_as_output(monkeypatch: pytest.MonkeyPatch, file: BinaryIO) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file, write_through=True))
    monkeypatch.setattr(log_lines, "FLUSH_SECONDS", 60.0)  # a deadline: only a bug takes so long
    logs.configure(Settings.model_construct(log_format="json", log_level="info"), "web")


def test_a_connection_that_breaks_is_told_by_who_wanted_it_and_not_by_the_pool_or_the_driver(pipe: Pipe) -> None:
    """Their lines name the address and repeat what the server said, several a second while the database is away."""
    pool = WatchedPool(lambda: sqlite3.connect(":memory:"), logging_name="cardsync worker")
    pool.connect().invalidate(ValueError("a row"))
    pool.dispose()
    logging.getLogger("psycopg").warning("error ignored terminating a pipeline: a row")
    logging.getLogger("workers").warning("ours")
    assert pipe.events == ["ours"]


def test_lines_come_in_order_and_share_writes(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_lines, "GATHER_SECONDS", 1.0)  # longer than a busy machine takes for ten lines
    for number in range(500):
        structlog.get_logger(f"of.{number % 3}").info(number)
    assert pipe.events == list(range(500))
    assert len(pipe.writes) < 100


def test_lines_of_all_threads_are_written(pipe: Pipe) -> None:
    async def go() -> None:
        structlog.get_logger("a").info("on the loop")
        await asyncio.to_thread(structlog.get_logger("b").info, "on a thread")
        structlog.get_logger("a").info("on the loop again")

    asyncio.run(go())
    assert pipe.events == ["on the loop", "on a thread", "on the loop again"]


def test_a_warning_does_not_wait_for_company(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_lines, "GATHER_SECONDS", 3_600.0)
    log = structlog.get_logger("a")
    log.info("before")
    log.warning("broken")
    until(lambda: pipe.writes == [["before", "broken"]], "both are written")


def test_a_reader_who_stands_still_holds_up_nobody_and_hears_what_was_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_lines, "MOST_WAITING_BYTES", 100_000)
    read_end, write_end = os.pipe()
    use_as_output(monkeypatch, os.fdopen(write_end, "wb"))
    log = structlog.get_logger("a")
    for number in range(5_000):  # a pipe takes 64 kB; this is far more, and nobody reads
        log.info(number)
    with os.fdopen(read_end, "rb") as reader, ThreadPoolExecutor(1) as thread:
        reading = thread.submit(_until_the_end_and_what_was_lost, reader)
        until(log_lines.LogLines.of(sys.stdout, at_once=False, tell_of_lost=print).flush, "what waits is read")
        log.info("end")
        heard = reading.result(60)
    told = [line["event"] for line in heard if line["event"] not in ("log_lines_lost", "end")]
    lost = [line["lines"] for line in heard if line["event"] == "log_lines_lost"]
    assert told == sorted(set(told))
    assert 0 < sum(lost) == 5_000 - len(told)


def _until_the_end_and_what_was_lost(reader: Iterable[bytes]) -> list[dict[str, Any]]:
    """Lines until both were heard: what was lost may be told after the last line."""
    heard: list[dict[str, Any]] = []
    awaited = {"end", "log_lines_lost"}
    for line in map(json.loads, reader):
        heard.append(line)
        awaited.discard(line["event"])
        if not awaited:
            break
    return heard


def test_the_number_of_lines_that_were_left_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_lines, "MOST_WAITING_BYTES", 0)
    lost: list[int] = []
    pipe = io.BytesIO()
    lines = log_lines.LogLines(io.TextIOWrapper(pipe), at_once=False, tell_of_lost=lost.append)
    monkeypatch.setattr(log_lines, "GATHER_SECONDS", 3_600.0)
    for line in (b"1", b"2", b"3"):
        lines.add(line)
    assert lines.flush()
    until(lambda: lost == [2], "two are told")
    assert pipe.getvalue() == b"1\n"


def test_a_forked_process_writes_its_own_lines_and_leaves_its_parents_to_the_parent() -> None:
    program = """
import os, structlog
from cardsync import logs, log_lines
from cardsync.settings import Settings
logs.configure(Settings.model_construct(log_format="json", log_level="info"), "web")
log = structlog.get_logger("a")
log_lines.GATHER_SECONDS = 3600
log.info("of the parent")
child = os.fork()
if child == 0:
    log.info("of the child")
    log_lines.flush()
    os._exit(0)
os.waitpid(child, 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=True)
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == ["of the child", "of the parent"]


def test_a_closed_pipe_fails_nothing(pipe: Pipe) -> None:
    pipe.close()
    for _ in range(2):
        structlog.get_logger("a").warning("unheard")
        assert log_lines.LogLines.of(sys.stdout, at_once=False, tell_of_lost=print).flush(60)


def test_a_librarys_line_that_cannot_be_written_shows_its_arguments_nowhere(
    pipe: Pipe, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe.close()
    logging.getLogger("celery.app.trace").error(
        "Task %(name)s", {"name": "cardsync.work", "args": "['9999000000000001']"}
    )
    log_lines.flush()
    assert capsys.readouterr().err == ""
