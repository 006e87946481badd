"""Threads in the background: an unforeseen error ends none of them, and its text, which may hold a token, is not logged."""

from __future__ import annotations

import datetime as dt
import io
import json
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
import structlog
from flask import Flask
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from cardsync import log_lines, logs
from cardsync.ciphers import KeyRing
from cardsync.settings import Settings
from cardsync.store import intake
from cardsync.stories.drain import Drained
from cardsync.stories.receive import WebhookKeys, examine, write_to_spool
from cardsync.web import create_drainer, rate_limits
from cardsync.web.cached_check import CachedCheck
from cardsync.web.database_breaker import PROBES_AT_ONCE, DatabaseBreaker
from cardsync.web.ingest import spool_drainer
from cardsync.web.ingest.group_commit import GroupCommit
from cardsync.web.services import Services
from tests import payloads
from tests.waiting import until
from tests.web.conftest import SECRET

TOKEN = "9999000000000017"
LOST = OperationalError("", None, Exception("lost"))


class Lines(list[dict[str, object]]):
    """A logger that keeps its lines: what other tests of this process set up for the real one does not count."""

    def warning(self, event: str, **facts: object) -> None:
        self.append({"event": event, **facts})


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    """The lines of all rate-limited logs."""
    made = Lines()
    monkeypatch.setattr(rate_limits, "log", made)
    return made


class Failing:
    """Raises what nobody foresaw the first times it is called, and then does what it stands for."""

    def __init__(self, then: Callable[..., object], *, times: int) -> None:
        self._then, self._times = then, times
        self.calls = 0

    def __call__(self, *args: object, **kwargs: object) -> object:
        self.calls += 1
        if self.calls <= self._times:
            raise KeyError(TOKEN)
        return self._then(*args, **kwargs)


def test_the_drainer_outlives_what_nobody_foresaw_and_tells_once_when_it_begins_and_once_when_it_ends(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = Failing(lambda *_, **__: Drained(), times=3)
    monkeypatch.setattr(spool_drainer, "drain", failing)
    with capture_logs() as lines:
        drainer = create_drainer(app)
        try:
            until(lambda: failing.calls >= 5, "it goes on")
        finally:
            drainer.close()
    told = [line for line in lines if line["event"].startswith("spool_")]
    assert [(line["event"], line["log_level"], line.get("error"), line.get("repeated")) for line in told] == [
        ("spool_not_drained", "error", "KeyError", None),
        ("spool_not_drained_ended", "warning", None, 2),
    ]
    assert TOKEN not in str(lines)


def test_a_spool_that_fills_is_told_once_when_it_begins_and_once_when_there_is_room_again(
    make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_drainer, "LOOK_EVERY_SECONDS", 0.0)
    app = make_app(spool_max_files=4)
    keys = WebhookKeys.of([payloads.KEY], KeyRing(SECRET.encode()))
    services = Services.of_app(app)
    for number in range(3):
        body = payloads.signed(payloads.save_card(f"customer-{number}"))
        write_to_spool(services.spool, [examine(body, keys)], now=dt.datetime.now(dt.UTC))
    monkeypatch.setattr(
        spool_drainer, "drain", lambda *_, **__: Drained()
    )  # it takes nothing in, and looks all the same
    with capture_logs() as lines:
        drainer = create_drainer(app)
        try:
            until(lambda: any(line["event"] == "spool_filling" for line in lines), "it fills")
            services.spool.remove(services.spool.waiting())
            until(lambda: any(line["event"] == "spool_filling_ended" for line in lines), "there is room again")
        finally:
            drainer.close()
    told = [(line["event"], line["log_level"]) for line in lines if line["event"].startswith("spool_f")]
    assert told == [("spool_filling", "error"), ("spool_filling_ended", "warning")]


@pytest.fixture
def breaker(ingest_engine: Engine, web_engine: Engine) -> Iterator[DatabaseBreaker]:
    made = DatabaseBreaker(ingest_engine, readers=web_engine)
    yield made
    made.close()


def test_a_probe_that_breaks_gives_its_place_back_so_that_the_database_is_found_again(
    breaker: DatabaseBreaker, monkeypatch: pytest.MonkeyPatch, lines: Lines
) -> None:
    failing = Failing(intake.try_out, times=PROBES_AT_ONCE + 1)  # as many as may hang at once, and one
    monkeypatch.setattr(intake, "try_out", failing)
    breaker.trip(LOST)
    until(lambda: breaker.is_closed, "it is found")
    assert lines
    assert TOKEN not in str(lines)


def test_the_watcher_outlives_a_moment_without_threads(
    breaker: DatabaseBreaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaker.start()
    failing = Failing(breaker._look_after, times=2)
    monkeypatch.setattr(breaker, "_look_after", failing)
    breaker.trip(LOST)
    until(lambda: breaker.is_closed, "it is found")


def test_a_batch_that_cannot_be_settled_fails_its_own_callers_and_no_later_ones(lines: Lines) -> None:
    answers: list[Sequence[int]] = [[], [7]]  # the first write answers for nobody
    group: GroupCommit[int, int] = GroupCommit(lambda _: answers.pop(0), is_about_one=lambda _: False, name="writer")
    with pytest.raises(ValueError, match="zip"):
        group.write_blocking(1, wait_seconds=60)
    assert group.write_blocking(2, wait_seconds=60) == 7
    assert [line["event"] for line in lines] == ["batch_not_settled"]


def test_where_no_thread_can_be_had_the_next_try_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    check = CachedCheck(lambda: "ok", keep_seconds=1)
    group: GroupCommit[int, int] = GroupCommit(lambda items: items, is_about_one=lambda _: False, name="writer")
    with monkeypatch.context() as patched:

        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            check.read(wait_seconds=1)
        with pytest.raises(RuntimeError):
            group.write_blocking(1, wait_seconds=1)
    assert check.read(wait_seconds=60) == "ok"
    assert group.write_blocking(2, wait_seconds=60) == 2


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.TextIOWrapper]:
    """What our own lines are written to, set up as a process does it; undone afterwards."""
    written = io.TextIOWrapper(io.BytesIO())
    hook, setup = threading.excepthook, structlog.get_config()
    monkeypatch.setattr("sys.stdout", written)
    logs.configure(Settings(log_format="json"), "web")
    yield written
    structlog.configure(**setup)
    threading.excepthook = hook


def test_a_thread_that_an_error_ends_leaves_one_line_without_the_errors_text(logged: io.TextIOWrapper) -> None:
    def end() -> None:
        raise ValueError(TOKEN)

    thread = threading.Thread(target=end, name="one-of-ours")
    thread.start()
    thread.join()
    log_lines.flush()
    written = logged.buffer.getvalue().decode()  # type: ignore[attr-defined]
    line = json.loads(written)
    assert (line["event"], line["thread"], line["error"]) == ("thread_ended", "one-of-ours", "ValueError")
    assert TOKEN not in written


def test_a_log_that_cannot_be_written_fails_no_work(logged: io.TextIOWrapper) -> None:
    logged.buffer.close()
    structlog.get_logger("test").error("anything")
