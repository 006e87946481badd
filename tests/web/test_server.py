"""``cardsync web`` as it runs: real processes, real sockets."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from sqlalchemy import Engine

from cardsync.ciphers import KeyRing
from cardsync.dev.servers.ports import free_port
from cardsync.store.access.secret_keys import check_secret
from tests import payloads
from tests.waiting import until
from tests.web.conftest import SECRET

START_SECONDS = 180
STOP_SECONDS = 90
ANSWER_SECONDS = 60
JSON = {"Content-Type": "application/json"}


class Server(NamedTuple):
    process: subprocess.Popen[str]
    port: int


@pytest.fixture
def environ(database_url: str, tmp_path: Path) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("CARDSYNC_", "OTTU_", "PROMETHEUS_"))}
    return inherited | {
        "CARDSYNC_DATABASE_URL": database_url,
        "CARDSYNC_BROKER_URL": "redis://127.0.0.1:1/0",
        "CARDSYNC_SECRET_KEY": SECRET,
        "CARDSYNC_DATA_DIR": str(tmp_path / "data"),
        "OTTU_WEBHOOK_KEYS": payloads.KEY,
    }


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from cardsync.cli import main; main()", "web", *arguments]


@pytest.fixture
def start(environ: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers on free ports, and ends them with everything below them."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, **more: str) -> Server:
        with (tmp_path / f"errors-{len(started)}").open("w") as errors:
            process = subprocess.Popen(
                command("--port", str(free_port()), *arguments),  # 0 would be looked for among those of everybody
                env=environ | more,
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        started.append(process)
        assert process.stdout is not None
        line = next((text for text in process.stdout if "web_started" in text), "")
        address = re.search(r"http://[^\s\"]+:(\d+)", line)
        assert address is not None, "it ended before it started"
        server = Server(process, int(address[1]))
        until(lambda: ask(server, "GET", "/livez") == 200, "it answers", seconds=START_SECONDS)
        return server

    yield run
    for process in started:
        with suppress(psutil.NoSuchProcess):
            below = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            for child in below:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
        process.wait(STOP_SECONDS)
        if process.stdout is not None:
            process.stdout.close()


def ask(
    server: Server, method: str, path: str, body: bytes | Iterator[bytes] | None = None, headers: dict[str, str] = JSON
) -> int | None:
    """The status of the answer; ``None`` if nobody answers."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=ANSWER_SECONDS)) as connection:
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # it may hang up before it has read everything
                connection.request(method, path, body, headers, encode_chunked=isinstance(body, Iterator))
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None


def test_the_contract_holds_on_the_wire(start: Callable[..., Server]) -> None:
    server = start()
    body = payloads.signed(payloads.save_card())
    assert ask(server, "POST", "/webhooks/ottu", body) == 200
    chunked = {**JSON, "Transfer-Encoding": "chunked"}
    assert ask(server, "POST", "/webhooks/ottu", iter([body]), chunked) == 411
    assert ask(server, "POST", "/webhooks/ottu", b" " * 2_000_000) == 413
    assert ask(server, "POST", "/webhooks/ottu", b"") == 400
    for method in ("GET", "HEAD", "BREW"):
        assert ask(server, method, "/webhooks/ottu") == 405
    with socket.create_connection(("127.0.0.1", server.port), timeout=ANSWER_SECONDS) as cut_short:
        cut_short.sendall(
            b"POST /webhooks/ottu HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
        cut_short.shutdown(socket.SHUT_WR)
        assert b" 400 " in cut_short.recv(4_096)
    assert ask(server, "GET", "/livez") == 200


def test_a_log_that_nobody_reads_holds_up_no_answer_and_no_end(start: Callable[..., Server]) -> None:
    server, body = start(), payloads.signed(payloads.save_card())
    for _ in range(1_000):  # a line each, and a pipe takes some 250 of them
        assert ask(server, "POST", "/webhooks/ottu", body) == 200
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(STOP_SECONDS) == 0


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly_and_leaves_nobody_behind(start: Callable[..., Server], sign: signal.Signals) -> None:
    server = start()
    parent = psutil.Process(server.process.pid)
    until(lambda: len(parent.children(recursive=True)) == 2, "both processes are there")  # one alone answers already
    below = parent.children(recursive=True)
    server.process.send_signal(sign)
    assert server.process.wait(STOP_SECONDS) == 0
    assert not [child for child in below if _runs(child)]


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_web_told_to_stop_says_so_first_and_still_takes_hints(start: Callable[..., Server]) -> None:
    server = start("--drain-seconds", "300")
    hint = payloads.signed(payloads.payment())
    until(lambda: ask(server, "GET", "/readyz") == 200, "it is ready")
    server.process.send_signal(signal.SIGTERM)
    until(lambda: ask(server, "GET", "/readyz") == 503, "it says that it stops")
    for _ in range(5):
        assert ask(server, "GET", "/readyz") == 503
        assert ask(server, "POST", "/webhooks/ottu", hint) == 200
    server.process.send_signal(signal.SIGTERM)  # a second one stops at once
    assert server.process.wait(STOP_SECONDS) == 0


def test_a_drain_ends_by_itself(start: Callable[..., Server]) -> None:
    server = start("--drain-seconds", "0.5")
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(STOP_SECONDS) == 0


def test_a_killed_process_is_replaced(start: Callable[..., Server]) -> None:
    server = start("--workers", "1")
    (first,) = psutil.Process(server.process.pid).children()
    first.kill()
    until(lambda: first.pid not in {c.pid for c in psutil.Process(server.process.pid).children()}, "it is gone")
    until(lambda: ask(server, "GET", "/livez") == 200, "it answers")


def test_its_processes_do_not_outlive_it(start: Callable[..., Server]) -> None:
    server = start("--workers", "1")
    below = psutil.Process(server.process.pid).children()
    server.process.kill()
    _, alive = psutil.wait_procs(below, timeout=STOP_SECONDS)
    assert alive == []


def test_a_taken_port_is_one_clear_line(start: Callable[..., Server], environ: dict[str, str], tmp_path: Path) -> None:
    server = start("--workers", "1")
    result = run_to_end(environ, tmp_path, "--port", str(server.port))
    assert result.returncode == 1
    assert "already in use" in result.stderr


def test_another_databases_secret_key_is_one_clear_line(
    environ: dict[str, str], tmp_path: Path, engine: Engine
) -> None:
    with engine.begin() as connection:
        check_secret(connection, KeyRing(b"another-key-another-key-another-key-"))
    result = run_to_end(environ, tmp_path, "--port", "0")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("cardsync: CARDSYNC_SECRET_KEY is not the one that this database was first used with")
    assert "CARDSYNC_PREVIOUS_SECRET_KEYS" in line


def test_a_missing_setting_is_one_clear_line(environ: dict[str, str], tmp_path: Path) -> None:
    del environ["OTTU_WEBHOOK_KEYS"]
    result = run_to_end(environ, tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("cardsync: OTTU_WEBHOOK_KEYS is missing")


def test_it_starts_without_the_database_and_takes_hints(start: Callable[..., Server]) -> None:
    server = start("--workers", "1", "--port", "0", CARDSYNC_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    until(lambda: ask(server, "GET", "/readyz") == 200, "it is ready")  # its disk was looked at within a second
    assert ask(server, "POST", "/webhooks/ottu", payloads.signed(payloads.save_card())) == 200


def run_to_end(environ: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env=environ, cwd=folder, capture_output=True, text=True, timeout=START_SECONDS, check=False
    )
