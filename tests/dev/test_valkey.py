"""The embedded Valkey: kept data, recovery from kills, privacy."""

from __future__ import annotations

import os
import platform
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from cardsync.dev.servers import valkey as module
from cardsync.dev.servers.errors import DirectoryInUse, ServiceError
from cardsync.dev.servers.valkey import EmbeddedValkey


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    made = EmbeddedValkey(tmp_path / "a folder" / "valkey")
    yield made.start()
    if made.directory.exists():
        made.remove()


def client(server: EmbeddedValkey, *, seconds: float = 60) -> redis.Redis:
    return redis.Redis.from_url(server.url, socket_timeout=seconds, socket_connect_timeout=seconds)


def test_what_was_stored_outlives_a_kill_and_a_stop(server: EmbeddedValkey) -> None:
    url = server.url
    for end in (server.kill, server.stop):
        client(server).incr("kept")
        end()
        assert server.pid is None
        server.start()
        assert server.url == url
    assert client(server).get("kept") == b"2"
    server.flush()
    assert client(server).get("kept") is None


def test_it_wants_a_password_that_no_command_line_shows(server: EmbeddedValkey) -> None:
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=server.port).ping()
    assert not any(server.password in word for word in psutil.Process(server.pid).cmdline())
    assert stat.S_IMODE((server.directory / "valkey.conf").stat().st_mode) == 0o600
    listening = {c.laddr.ip for c in psutil.Process(server.pid).net_connections() if c.status == "LISTEN"}
    assert listening == {"127.0.0.1"}


def test_a_paused_server_does_not_answer_until_it_is_resumed(server: EmbeddedValkey) -> None:
    server.pause()
    with pytest.raises(redis.TimeoutError):
        client(server, seconds=1).ping()
    server.resume()
    assert client(server).ping()


def test_two_starts_on_one_directory_give_a_clear_error(server: EmbeddedValkey) -> None:
    with pytest.raises(DirectoryInUse, match=str(os.getpid())):
        EmbeddedValkey(server.directory).start()
    assert client(server).ping()


def test_what_a_killed_run_left_is_recovered(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cardsync.dev.servers.valkey import EmbeddedValkey\n"
        "print(EmbeddedValkey(Path(sys.argv[1])).start().pid, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "v")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        left = psutil.Process(int(starter.stdout.readline()))
        left.suspend()
        starter.kill()
    server = EmbeddedValkey(tmp_path / "v").start()
    try:
        assert not left.is_running() or left.status() == psutil.STATUS_ZOMBIE
        assert client(server).ping()
    finally:
        server.remove()
    assert not server.directory.exists()


def test_a_wheel_without_a_server_for_this_machine_falls_back_to_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServiceError, match="valkey-server or redis-server"):
        module.find_server()
    program = tmp_path / "redis-server"
    program.write_text("")
    program.chmod(0o755)
    assert module.find_server() == program
