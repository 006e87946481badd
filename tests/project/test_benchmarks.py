"""The benchmarks run, lose nothing, and say so. How fast it was is not asked: that is the machine's affair."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from benchmarks import checkouts, figures
from benchmarks.offered import offer
from benchmarks.processor import metered

ROOT = Path(__file__).resolve().parents[2]
BENCH_SECONDS = 1_500  # a deadline for what hangs: with a slow disk and other tests, a round of each took over 240
CONTENDERS = {"cardsync", "pgbench, the same row"}
PARTS = {"web_processor_ms", "postgresql_processor_ms"}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def _bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=BENCH_SECONDS, check=False)


def test_a_tiny_round_of_each_counts_every_acknowledged_hint_in_the_table() -> None:
    wanted = ("--only", "hints", "--only", "open-loop", "--only", "forgetting", "--only", "relay")
    done = _bench(*wanted, "--rounds", "1", "--seconds", "0.5", "--json", "--without-django", "--without-worker")
    assert done.returncode == 0, done.stderr[-2_000:]
    found = json.loads(done.stdout)
    assert set(found["machine"]["postgresql_settings"].values()) == {"on"}
    assert set(found["hints"]["contenders"]) == CONTENDERS
    for rows in (
        *found["hints"]["rows"].values(),
        *found["open-loop"]["rows"].values(),
        found["forgetting"]["rows"],
        *found["relay"]["rows"].values(),
    ):
        assert rows["stored"] == rows["acknowledged"] > 0
    (beside,) = found["forgetting"]["beside"]["rounds"]
    assert min(beside["content"], beside["hint"]) > 0
    for name in ("hints", "open-loop"):
        ours = found[name]["contenders"]["cardsync"]
        assert ours.keys() >= PARTS
        assert min(ours[part] for part in PARTS) > 0


def test_a_tiny_flood_leaves_few_rows_and_each_honest_card_active() -> None:
    done = _bench("--only", "flood", "--rounds", "1", "--hints", "10", "--rate", "20", "--json")
    assert done.returncode == 0, done.stderr[-2_000:]
    found = json.loads(done.stdout)
    assert len(found["flood"]["conditions"]) == 3
    assert 1 < found["flood"]["rows_of_the_flood"] < 100


def test_another_commit_is_for_benchmarks_that_can_compare() -> None:
    done = _bench("--only", "schedule", "--against", "HEAD")
    assert done.returncode == 2
    assert "no meaning for schedule" in done.stderr


def test_contenders_take_turns_in_both_orders() -> None:
    assert list(figures.in_turn("ab", 3)) == [(1, "a"), (1, "b"), (2, "b"), (2, "a"), (3, "a"), (3, "b")]


def test_a_time_counts_from_the_planned_moment_also_while_no_connection_is_free() -> None:
    """One connection, and a server that answers nothing before the last planned moment: the first one waited longest."""
    planned_seconds = 0.2
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_answer_late, args=(server, planned_seconds), daemon=True)
        thread.start()
        requests = [b"x"] * 10
        measured = offer(server.getsockname(), requests, connections=1, per_second=len(requests) / planned_seconds)
        thread.join()
    assert measured.acknowledged == len(requests)
    # Counted from when it could be sent, each but the first would take next to nothing.
    for number, latency in enumerate(measured.latencies):
        assert latency > planned_seconds * (1 - number / len(requests)) - 0.01


def _answer_late(server: socket.socket, seconds: float) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(1)
        threading.Event().wait(seconds)
        connection.sendall(OK)
        while connection.recv(1):
            connection.sendall(OK)


def test_processor_time_is_that_of_the_process_and_all_below_it_also_if_they_have_ended() -> None:
    """A child that burns processor time in a child of its own, says so, and waits until it is told to end."""
    grandchild = "import time\nwhile time.process_time() < 0.3: pass"
    child = (
        "import subprocess, sys\nsys.stdin.readline()\n"
        f"subprocess.run([sys.executable, '-c', {grandchild!r}])\nprint(flush=True)\nsys.stdin.readline()"
    )
    with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with metered({"child": process.pid}) as found:
            process.stdin.write(b"\n")
            process.stdin.flush()
            process.stdout.readline()
        process.stdin.close()
    assert found["child"] >= 0.15  # the system counts in ticks; without the grandchild it is next to nothing


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose installation writes what it was told into a file; four commits."""
    monkeypatch.setattr(checkouts, "ROOT", tmp_path)
    monkeypatch.setattr(checkouts, "_BESIDE", tmp_path / ".venv" / "against")
    monkeypatch.setenv("MAKEFLAGS", "-- ARGS=--only\\ hints")  # as the `make bench` above it exports
    monkeypatch.setenv("ARGS", "--only hints")
    (tmp_path / "Makefile").write_text(".venv/.dev:\n\tmkdir .venv\n\techo '$(ARGS)' $(PYTHON) > .venv/.dev\n")
    _git(tmp_path, "init", "-q", "-b", "main")
    for number in range(4):
        (tmp_path / "number").write_text(str(number))
        _git(tmp_path, "add", "Makefile", "number")
        _git(tmp_path, "commit", "-q", "-m", str(number))
    return tmp_path


def _git(folder: Path, *arguments: str) -> None:
    author = ("-c", "user.name=Bench", "-c", "user.email=bench@example.com", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *author, *arguments], cwd=folder, check=True, capture_output=True)


def test_another_commit_is_installed_as_it_was_committed_and_once(repository: Path) -> None:
    (repository / "number").write_text("not committed")
    told: list[str] = []
    found = checkouts.installed("HEAD~1", told.append)
    assert (found.root / "number").read_text() == "2"
    assert "--only" not in (found.root / ".venv" / ".dev").read_text()
    assert checkouts.installed("HEAD~1", told.append) == found
    assert len(told) == 1


def test_an_installation_that_was_interrupted_is_begun_again(repository: Path) -> None:
    found = checkouts.installed("HEAD", print)
    (found.root / ".installed").unlink()
    (found.root / "number").write_text("half")
    assert (checkouts.installed("HEAD", print).root / "number").read_text() == "3"


def test_few_commits_stay_installed(repository: Path) -> None:
    for number, ref in enumerate(("HEAD~3", "HEAD~2", "HEAD~1")):
        os.utime(checkouts.installed(ref, print).root / ".installed", (number, number))
    oldest = checkouts.installed("HEAD~2", print)
    checkouts.installed("HEAD", print)
    kept = {(folder / "number").read_text() for folder in oldest.root.parent.iterdir()}
    assert kept == {"1", "2", "3"}


def test_a_commit_that_git_does_not_know_is_named(repository: Path) -> None:
    with pytest.raises(checkouts.NoSuchCommitError, match="no commit 'nowhere'"):
        checkouts.installed("nowhere", print)
