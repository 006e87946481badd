"""What ``cardsync dev`` is made of: the lock and the secrets of its directory, its processes, and the check that they run."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import Engine

from cardsync import setting_sources, settings
from cardsync.dev.live.screen import Screen
from cardsync.dev.run import child as child_module
from cardsync.dev.run import console, key, provision, readiness, room
from cardsync.dev.run.child import Child, end_leftovers
from cardsync.dev.run.directory import SECRETS_FILE, Directory
from cardsync.dev.run.supervisor import Options, Supervisor
from cardsync.dev.servers.errors import DirectoryInUse, ServiceError
from cardsync.dev.servers.ports import is_free
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.dev.simulator import Simulator
from cardsync.store.access import keys
from tests.waiting import until

SECONDS = 60  # a deadline: only a bug takes so long


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    made = Directory(tmp_path / "data")
    made.acquire()
    yield made
    made.release()


# --- the directory ---


def test_what_is_offered_is_read_for_as_long_as_the_directory_is_held(directory: Directory) -> None:
    def offered() -> int:
        return settings.load(environ={"CARDSYNC_DATA_DIR": str(directory.path)}, cwd=directory.path).ottu_daily_calls

    directory.offer({"ottu_daily_calls": 7}, ())
    assert offered() == 7
    file = directory.path / setting_sources.DEV_FILE
    content = file.read_text()
    directory.release()
    file.write_text(content)  # as one leaves it that is killed
    assert offered() == 90_000


def test_a_run_that_was_killed_leaves_its_ports_to_the_next_one_alone(directory: Directory) -> None:
    assert directory.withdraw() == []
    directory.offer({}, (8_000, 8_001))
    assert directory.withdraw() == [8_000, 8_001]
    assert directory.withdraw() == []
    for damaged in ("", "[]", '{"settings": {}}', '{"ports": 8000}', '{"ports": [null]}'):
        (directory.path / setting_sources.DEV_FILE).write_text(damaged)
        assert directory.withdraw() == []


def test_a_port_is_waited_for_until_its_last_holder_is_gone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(provision.wait_for_ports, [port])
            assert not waiting.done()
            holder.close()
            waiting.result(provision.PORT_WAIT_SECONDS)
    assert is_free(port)


def test_a_port_that_another_program_keeps_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provision, "PORT_WAIT_SECONDS", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as holder:
        provision.wait_for_ports([holder.getsockname()[1]])
        assert provision.free_port_from(holder.getsockname()[1]) > holder.getsockname()[1]


def test_the_console_never_gets_the_port_that_web_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        monkeypatch.setattr(console, "CONSOLE_PORT", taken)
        web_port = provision.free_port_from(taken)
        assert console.free_port(web_port) > web_port > taken
    assert console.free_port(taken) > taken
    assert console.free_port(web_port) == taken


def test_a_directory_has_one_holder_and_readers_do_not_disturb_it(directory: Directory) -> None:
    for _ in range(50):
        settings.load(environ={"CARDSYNC_DATA_DIR": str(directory.path)}, cwd=directory.path)
    with pytest.raises(DirectoryInUse, match=f"process {os.getpid()}"):
        Directory(directory.path).acquire()
    directory.release()
    again = Directory(directory.path)
    again.acquire()
    again.release()


def test_secrets_are_generated_once_and_a_damaged_file_is_not_replaced(directory: Directory) -> None:
    assert directory.secrets() == directory.secrets()
    assert directory.secrets().secret_key not in repr(directory.secrets())
    (directory.path / SECRETS_FILE).write_text("{")
    with pytest.raises(ServiceError, match="cannot be read"):
        directory.secrets()


def test_a_directory_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ServiceError, match="cannot be used"):
        Directory(tmp_path / "file" / "data").acquire()


def test_a_revoked_key_is_replaced(directory: Directory, engine: Engine) -> None:
    first = key.ensure(engine, directory)
    assert key.ensure(engine, directory) == first
    with engine.begin() as connection:
        known = keys.find(connection, keys.key_hash(first))
        assert known is not None
        assert known.scopes == set(keys.SCOPES)
        assert keys.revoke(connection, known.key_id)
    assert key.ensure(engine, directory) != first


# --- processes ---


@pytest.fixture
def sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Child]]:
    """A child that runs a program of the test instead of a command, tied to its starter all the same."""
    made: list[Child] = []

    def make(program: str) -> Child:
        child = Child(["sleeper"], directory=tmp_path)
        module = "import runpy, sys; runpy.run_module = lambda *a, **k: exec(PROGRAM); PROGRAM = sys.argv.pop(1)"
        start = f"{module}\nfrom cardsync.dev.run import tethered; tethered.main()"
        child._command = [sys.executable, "-c", start, program, str(tmp_path), "sleeper"]
        made.append(child)
        return child

    yield make
    for child in made:
        child.stop(0)


FOREVER = "import time\nprint('up', flush=True)\nwhile True: time.sleep(1)"
STUBBORN = f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{FOREVER}"


def test_a_process_is_stopped_and_its_log_is_kept_for_one_more_start(sleeper: Callable[[str], Child]) -> None:
    child = sleeper(FOREVER)
    child.start()
    until(lambda: "up" in child.log_path.read_text(), "the process runs")
    child.stop(SECONDS)
    assert child.pid is None
    assert child.ended_how == "was ended by SIGTERM"
    other = sleeper(FOREVER)
    other.start()
    assert "up" in other.log_path.with_name("sleeper.log.1").read_text()


def test_a_process_that_does_not_stop_is_killed_with_all_it_started(sleeper: Callable[[str], Child]) -> None:
    child = sleeper(f"import subprocess\nprint(subprocess.Popen(['sleep', '600']).pid, flush=True)\n{STUBBORN}")
    child.start()
    until(lambda: "up" in child.log_path.read_text(), "the process runs")
    grandchild = int(child.log_path.read_text().split()[0])
    child.stop(0.2)
    assert child.ended_how == "was ended by SIGKILL"
    until(lambda: not _runs(grandchild), "what it started is gone")


def test_a_process_ends_with_its_starter_however_that_ends(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib\nfrom cardsync.dev.run.child import Child\n"
        "child = Child(['simulator', '--port', '0'], directory=pathlib.Path(sys.argv[1]))\n"
        "child.start(); print(child.pid, flush=True); time.sleep(600)"
    )
    starter = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    process_id = int(starter.stdout.readline())
    assert _runs(process_id)
    starter.kill()
    starter.wait()
    starter.stdout.close()
    end_leftovers(tmp_path)
    assert not _runs(process_id)


def test_a_log_that_is_too_long_begins_again(sleeper: Callable[[str], Child], monkeypatch: pytest.MonkeyPatch) -> None:
    child = sleeper("import time\nwhile True: print('x' * 1000, flush=True); time.sleep(0.01)")
    monkeypatch.setattr(child_module, "LOG_MAX_BYTES", 50_000)
    child.start()
    until(lambda: child.log_path.stat().st_size > 60_000, "its log is long")
    child.bound_log()
    assert child.log_path.stat().st_size < 50_000
    assert child.log_path.with_name("sleeper.log.1").stat().st_size > 50_000
    until(lambda: child.log_path.stat().st_size > 5_000, "its log begins again")  # it goes on, at the beginning
    assert "\0" not in child.log_path.read_text()


def _runs(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
        status = Path(f"/proc/{process_id}/stat")
        return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


# --- the check that they run ---


class Stub:
    """A part that ends when the test says so."""

    name = "stub"

    def __init__(self, log_path: Path) -> None:
        self.log_path = log_path
        self.pid: int | None = 1

    @property
    def ended_how(self) -> str:
        return "ended with status 3"


def test_a_part_that_ended_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    part = Stub(tmp_path / "stub.log")
    readiness.require_running([part])
    part.pid = None
    with pytest.raises(ServiceError) as empty:
        readiness.require_running([Stub(part.log_path), part])
    assert str(empty.value) == f"stub ended with status 3. Its log, {part.log_path}, is empty."
    part.log_path.write_text("".join(f"line {n} {'x' * 300}\n\n" for n in range(9)))
    with pytest.raises(ServiceError) as ended:
        readiness.require_running([part])
    first, *lines = str(ended.value).splitlines()
    assert first == f"stub ended with status 3. Its log, {part.log_path}, ends:"
    assert [line.split()[1] for line in lines] == ["3", "4", "5", "6", "7", "8"]
    assert max(map(len, lines)) == 4 + readiness.LINE_CHARACTERS


def test_a_part_that_ends_while_another_is_waited_for_ends_the_wait(tmp_path: Path) -> None:
    web, worker = Stub(tmp_path / "web.log"), Stub(tmp_path / "worker.log")
    worker.pid = None
    with pytest.raises(ServiceError, match=r"^stub ended with status 3\."):
        readiness.wait_for("web", lambda: False, [web, worker], lambda: None)


def test_the_signal_that_ended_a_process_is_named(sleeper: Callable[[str], Child]) -> None:
    child = sleeper(FOREVER)
    child.start()
    assert child.pid is not None
    until(lambda: "up" in child.log_path.read_text(), "the process runs")
    os.kill(child.pid, signal.SIGABRT)
    until(lambda: child.pid is None, "the process is seen to be gone")
    assert child.ended_how == "was ended by SIGABRT"


# --- a full disk ---


@pytest.fixture
def without_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A disk of which nothing is free."""
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: SimpleNamespace(free=room.LEAST_BYTES - 1))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARDSYNC_DATA_DIR", str(tmp_path / "data"))


def test_what_fails_on_a_full_disk_is_called_that_first(
    without_room: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(_: EmbeddedPostgres) -> None:
        raise ServiceError("PostgreSQL cannot do its work")

    monkeypatch.setattr(EmbeddedPostgres, "start", fail)
    options = Options(port=8_000, rate=1, customers=1, seed=1, shoppers=False)
    with pytest.raises(ServiceError, match=r"^the disk of .* is full .*make room.*\n.*cannot do its work") as raised:
        Supervisor(options, Screen()).run()
    assert str(tmp_path / "data") in str(raised.value)


def test_a_disk_with_room_is_not_called_full(tmp_path: Path) -> None:
    assert room.full_disk(tmp_path) is None


def test_the_stand_in_keeps_its_cards_once_there_is_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    kept = tmp_path / "simulator.json"
    simulator = Simulator(state_file=kept)
    simulator.shoppers.step()
    with monkeypatch.context() as now:
        now.setattr("cardsync.dev.simulator.server.write_private", full)
        simulator.stop()
        assert not kept.exists()
    simulator.stop()
    assert kept.exists()
