"""Two Valkey servers, one the other's replica, and a sentinel that names the master and changes it: all real, on this machine.

The first address that clients are given has no sentinel behind it: several must be asked.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import redis

from cardsync.dev.servers.ports import free_port
from cardsync.dev.servers.valkey import EmbeddedValkey, find_server
from cardsync.files import write_private
from tests.waiting import until

MASTER: Final = "cards"
DATABASE: Final = 2
SECONDS: Final = 180.0
DOWN_MILLISECONDS: Final = 3_000  # a master that has no processor for a moment is not down


class Server(EmbeddedValkey):
    """A server that signs in to another one with its own password, as its replica, if it is told whose."""

    def __init__(self, directory: Path, password: str, replica_of: int | None = None) -> None:
        super().__init__(directory)
        directory.mkdir(parents=True)
        write_private(directory / "password", password)
        self._replica_of = replica_of

    def _configuration(self) -> str:
        lines = [f"masterauth {self.password}", "repl-diskless-sync-delay 0"]
        if self._replica_of is not None:
            lines.append(f"replicaof 127.0.0.1 {self._replica_of}")
        return "\n".join((super()._configuration(), *lines, ""))


class Sentinel(EmbeddedValkey):
    """The same program as a sentinel, for the master at ``port``, with a password of its own."""

    def __init__(
        self, directory: Path, port: int, password: str, *, down_milliseconds: int = DOWN_MILLISECONDS
    ) -> None:
        super().__init__(directory)
        self._watched = f"{MASTER} 127.0.0.1 {port} 1"
        self._options = {
            "auth-pass": password,
            "down-after-milliseconds": down_milliseconds,
            "failover-timeout": 5_000,
        }

    def client(self) -> redis.Redis:
        """The sentinel itself."""
        return self._client()

    def _configuration(self) -> str:
        options = [f"sentinel {name} {MASTER} {value}" for name, value in self._options.items()]
        own = ["bind 127.0.0.1", f"port {self.port}", "protected-mode yes", f"requirepass {self.password}", "dir ./"]
        return "\n".join((*own, f"sentinel monitor {self._watched}", *options, ""))

    def _launch(self, log: int) -> subprocess.Popen[bytes]:
        configuration = self.directory / "sentinel.conf"
        write_private(configuration, self._configuration())
        return subprocess.Popen(
            [str(find_server()), str(configuration), "--sentinel"],
            cwd=self._data_directory(),
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


class Replicated:
    """The three of them, as a broker."""

    kind = "sentinel"

    def __init__(self, folder: Path, *, down_milliseconds: int = DOWN_MILLISECONDS) -> None:
        password = secrets.token_hex(16)
        self._folder = folder
        self._servers = [Server(folder / "one", password)]
        self._servers[0].start()
        self._servers.append(Server(folder / "two", password, self._servers[0].port))
        self._servers[1].start()
        self.sentinel = Sentinel(
            folder / "sentinel", self._servers[0].port, password, down_milliseconds=down_milliseconds
        )
        self.sentinel.start()
        self.deployment = ""
        self.secrets: tuple[str, ...] = (password, self.sentinel.password)
        self.url = (
            f"sentinel://127.0.0.1:{free_port()};sentinel://:{password}@127.0.0.1:{self.sentinel.port}/{DATABASE}"
            f"?master={MASTER}&sentinel_password={self.sentinel.password}"
        )

    @property
    def master(self) -> Server:
        """The server that the sentinel names."""
        with self.sentinel.client() as client:
            _, port = client.sentinel_get_master_addr_by_name(MASTER)
        return next(server for server in self._servers if server.port == int(port))

    def has_replica(self) -> bool:
        """Whether the sentinel knows a replica that could follow."""
        with self.sentinel.client() as client:
            found = client.sentinel_slaves(MASTER)
        return any(one["master-link-status"] == "ok" and not one["is_sdown"] for one in found)

    def until_whole(self) -> None:
        """Wait until the master has its replica."""
        until(self.has_replica, "the master has a replica", seconds=SECONDS)

    def until_followed(self, server: Server) -> None:
        """Wait until another server is the master."""
        until(lambda: self.master is not server, "another server is the master", seconds=SECONDS)

    def change_master(self) -> None:
        """Let the replica take over, in good order: the old master goes on as its replica."""
        with self.sentinel.client() as client:
            client.execute_command("SENTINEL", "FAILOVER", MASTER)

    def remove(self) -> None:
        """End all of them."""
        for server in (self.sentinel, *self._servers):
            server.remove()


@contextlib.contextmanager
def replicated(folder: Path, *, down_milliseconds: int = DOWN_MILLISECONDS) -> Iterator[Replicated]:
    """The three of them, with the replica in its place. A master that is silent for ``down_milliseconds`` is followed by it."""
    made = Replicated(folder, down_milliseconds=down_milliseconds)
    try:
        made.until_whole()
        yield made
    finally:
        made.remove()
