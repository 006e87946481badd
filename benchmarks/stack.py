"""The processes of a run: the servers it stands on, and those that are measured. All of them end with the run.

The rules: PostgreSQL is the embedded one with its defaults, and durable (``fsync`` and ``synchronous_commit`` are looked up
and must be on); its files lie on a real disk, since a RAM disk would make every commit free. Commands run as a
user would start them, with only the settings given here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

import psycopg

from benchmarks.bodies import KEY
from benchmarks.checkouts import HERE, Checkout
from cardsync.dev.servers.ports import free_port
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.dev.servers.valkey import EmbeddedValkey

DISK: Final = Path("/var/tmp")  # noqa: S108  # outlives a restart, so it is no RAM disk; the folder in it is our own
SECRET: Final = "bench-secret-key-of-at-least-32-characters"
API_KEY: Final = "bench-api-key-0001"
READY_SECONDS: Final = 240.0
STOP_SECONDS: Final = 20.0
POLL_SECONDS: Final = 0.02
DURABLE: Final = ("fsync", "synchronous_commit", "full_page_writes")


class NotReadyError(Exception):
    """A process that is to be measured does not answer; the text ends with its last lines."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What the contenders share: one PostgreSQL, one Valkey, one folder."""

    folder: Path
    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey

    @classmethod
    @contextlib.contextmanager
    def laid(cls, parent: Path | None = None) -> Iterator[Ground]:
        """Start the servers, and remove them and all data at the end."""
        folder = Path(tempfile.mkdtemp(prefix="cardsync-bench-", dir=parent or (DISK if DISK.is_dir() else None)))
        postgres, valkey = EmbeddedPostgres(folder / "postgres"), EmbeddedValkey(folder / "valkey")
        try:
            with postgres.start(), valkey.start():
                ground = cls(folder, postgres, valkey)
                ground._must_be_durable()
                yield ground
        finally:
            for server in (postgres, valkey):
                if server.directory.exists():
                    server.remove()
            shutil.rmtree(folder, ignore_errors=True)

    def database(self, name: str, *, schema_of: Checkout | None = None) -> str:
        """Make a database and return its address; with the schema that this checkout's ``cardsync db upgrade`` makes."""
        self.postgres.create_database(name)
        url = self.postgres.url_for(name)
        if schema_of is not None:
            environment = environment_of(self.settings(url), schema_of)
            command = schema_of.command("db", "upgrade")
            done = subprocess.run(
                command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                raise NotReadyError(f"{schema_of.name} made no schema:\n{done.stderr[-2_000:]}")
        return url

    def settings(self, database_url: str, **more: str) -> dict[str, str]:
        """The environment of cardsync's processes; what they keep on disk belongs to the database, and so to one checkout."""
        return {
            "CARDSYNC_DATABASE_URL": database_url,
            "CARDSYNC_BROKER_URL": self.valkey.url,
            "CARDSYNC_SECRET_KEY": SECRET,
            "CARDSYNC_DATA_DIR": str(self.folder / f"data-{urlsplit(database_url).path[1:]}"),
            "OTTU_BASE_URL": "http://127.0.0.1:9",  # nobody answers there; who needs Ottu names the stand-in
            "OTTU_API_KEY": API_KEY,
            "OTTU_WEBHOOK_KEYS": KEY,
            **more,
        }

    def _must_be_durable(self) -> None:
        values = {name: str(value(self.postgres.url, f"SHOW {name}")) for name in DURABLE}
        if set(values.values()) != {"on"}:
            raise NotReadyError(f"PostgreSQL is not durable: {values}")


class Running:
    """One process in the foreground, its output in a file; a context manager."""

    def __init__(
        self,
        folder: Path,
        name: str,
        command: tuple[str, ...],
        environment: Mapping[str, str],
        *,
        of: Checkout = HERE,
    ) -> None:
        self._log_path = folder / f"{name}.log"
        self._name, self._folder, self._command = name, folder, command
        self._environment = environment_of(environment, of)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, env=self._environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    def wait_for_port(self, port: int) -> None:
        """Return once somebody listens. Raises ``NotReadyError``."""
        self._wait(lambda: _listens(port))

    def wait_for_answer(self, url: str) -> None:
        """Return once ``url`` is answered with 200. Raises ``NotReadyError``."""
        self._wait(lambda: _answers(url))

    def wait_for_line(self, words: str) -> None:
        """Return once the output holds ``words``. Raises ``NotReadyError``."""
        self._wait(lambda: words in self.output())

    def wait_for_output(self, holds: Callable[[str], bool]) -> None:
        """Return once the output is as wanted. Raises ``NotReadyError``."""
        self._wait(lambda: holds(self.output()))

    def output(self) -> str:
        """All that it has written."""
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    def _wait(self, is_ready: object) -> None:
        assert callable(is_ready)
        assert self._process is not None
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if is_ready():
                return
            time.sleep(POLL_SECONDS)
        raise NotReadyError(f"{self._name} does not answer:\n{self.output()[-2_000:]}")


def cardsync(
    ground: Ground, name: str, *arguments: str, environment: Mapping[str, str], of: Checkout = HERE
) -> Running:
    """A command of ours, not started yet."""
    return Running(ground.folder, f"{name}-{of.label}", of.command(*arguments), environment, of=of)


@contextlib.contextmanager
def web(
    ground: Ground, environment: Mapping[str, str], *, workers: int, of: Checkout = HERE
) -> Iterator[tuple[Running, int]]:
    """``cardsync web``, ready; yields the process and its port."""
    port = free_port()
    arguments = ("web", "--port", str(port), "--workers", str(workers))
    with cardsync(ground, "web", *arguments, environment=environment, of=of) as running:
        running.wait_for_answer(f"http://127.0.0.1:{port}/readyz")
        yield running, port


@contextlib.contextmanager
def worker(ground: Ground, environment: Mapping[str, str], *, of: Checkout = HERE) -> Iterator[Running]:
    """``cardsync worker``, ready."""
    with cardsync(ground, "worker", "worker", environment=environment, of=of) as running:
        running.wait_for_line("worker_started")
        yield running


def value(database_url: str, query: str) -> object:
    """The one value that a query answers."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        row = connection.execute(query).fetchone()  # type: ignore[call-overload]
    assert row is not None
    return row[0]


def environment_of(given: Mapping[str, str], of: Checkout) -> dict[str, str]:
    """What a process of a checkout gets: what is given, and where its files are. Nothing of the caller's own settings."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": str(of.root),  # its own files, whatever is installed
        **given,
    }


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310  # an address of ours
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
