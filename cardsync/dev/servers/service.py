"""A server process in one directory: it can be started, stopped, paused and killed, and recovers from a kill.

The promise: the holder of the directory's lock owns every server process in that directory. A start therefore first ends what an
earlier run that was killed left behind. A second start at the same time is refused with a clear error.

Rules: the server listens on 127.0.0.1 only and always asks for a password. The password never stands on a command line. The
server's output goes to ``server.log``. A process is recognised by its name *and* its working directory, never by its id alone,
because the kernel gives ids out again.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, Final, Self

from psutil import Process

from cardsync.dev.servers.errors import DirectoryInUse, ServiceError
from cardsync.dev.servers.ports import free_port, is_free
from cardsync.dev.servers.processes import descendants, end, freeze, how_it_ended, parent_id, send, working_in
from cardsync.files import Lock, LockHeld, write_private

READY_SECONDS: Final = 120.0  # a crash recovery on a slow disk takes long; a healthy start takes 0.1 s
STOP_SECONDS: Final = 20.0  # a fast shutdown writes a checkpoint; after this the server is killed
ORPHAN_SECONDS: Final = 5.0  # a server's children end by themselves when they see that it is gone
POLL_SECONDS: Final = 0.02
LOG_TAIL_LINES: Final = 15
LOG_TAIL_BYTES: Final = 16_384


class Service(ABC):
    """One embedded server and its directory; a context manager. ``start`` may follow ``stop`` or ``kill``.

    The port is chosen once: the URL stays the same after ``kill`` and ``start``, and in a later run unless another program has
    taken the port.
    """

    name: ClassVar[str]  # the server's name in messages
    process_names: ClassVar[frozenset[str]]  # what the kernel calls its processes
    stop_signal: ClassVar[int] = signal.SIGTERM

    def __init__(self, directory: Path, *, port: int | None = None) -> None:
        self.directory = directory.absolute()
        self.log_path = self.directory / "server.log"
        self._wanted_port = port
        self._port: int | None = None
        self._password: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: Lock | None = None

    # What each kind of server implements.

    @abstractmethod
    def _prepare(self) -> None:
        """Make what the server needs before it can start. Called under the lock, after the recovery."""

    @abstractmethod
    def _launch(self, log: int) -> subprocess.Popen[bytes]:
        """Start the server process; its output goes to the descriptor ``log``."""

    @abstractmethod
    def _answers(self) -> bool:
        """Tell whether the server answers a client that has the password."""

    @abstractmethod
    def _data_directory(self) -> Path | None:
        """The working directory of its processes, or None if it does not exist yet."""

    # What all servers have in common.

    @property
    def port(self) -> int:
        """The port on 127.0.0.1. Raises ``ServiceError`` before the first start."""
        if self._port is None:
            raise ServiceError(f"{self.name} was never started: it has no port yet")
        return self._port

    @property
    def password(self) -> str:
        """The generated password, as kept in the directory (mode 0600)."""
        if self._password is None:
            raise ServiceError(f"{self.name} was never started: it has no password yet")
        return self._password

    @property
    def pid(self) -> int | None:
        """The process id of the running server, else None."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def ended_how(self) -> str:
        """How a server that is no longer running ended, in words: its exit status or the signal."""
        return how_it_ended(None if self._process is None else self._process.poll())

    @property
    def remark(self) -> str:
        """What a person should know of the choice of the program; mostly nothing."""
        return ""

    def start(self) -> Self:
        """Start the server and return when it answers. Raises ``ServiceError``; then nothing runs."""
        if self.pid is not None:
            return self
        self._acquire()
        try:
            self._end_leftovers(self._data_directory())
            self._password = _kept_text(self.directory / "password", lambda: secrets.token_urlsafe(24))
            self._prepare()
            self._port = self._choose_port()
            write_private(self.directory / "port", str(self._port))
            with self._fresh_log() as log:
                self._process = self._launch(log)
            self._wait_until_it_answers()
        except OSError as error:
            self._abandon()
            raise ServiceError(f"{self.name} cannot be started in {self.directory}: {error}") from error
        except BaseException:
            self._abandon()
            raise
        return self

    def stop(self) -> None:
        """Ask the server to end and return when it has ended; after 20 seconds kill it. Idempotent."""
        self._stop(self.stop_signal)

    def kill(self) -> None:
        """Kill the server with SIGKILL, like a crash; return when it and its children are gone."""
        self._abandon()

    def pause(self) -> None:
        """Pause every process of the server (SIGSTOP): connections stay open, and there is no answer."""
        seen: set[int] = set()
        while new := [
            p for p in self._processes() if p.pid not in seen
        ]:  # parents first, so that no new child is missed
            freeze(new)
            seen.update(process.pid for process in new)

    def resume(self) -> None:
        """Undo ``pause``."""
        for process in self._processes():
            send(process, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _acquire(self) -> None:
        if self._lock is not None:  # the server died by itself: the lock is still ours
            return
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lock = Lock.take(self.directory / "lock", write_holder=True)
        except LockHeld as held:
            told = f"{self.name} already runs in {self.directory} (started by process {held.holder})"
            raise DirectoryInUse(told) from None
        except OSError as error:
            raise ServiceError(f"{self.name} cannot use {self.directory}: {error.strerror}") from error

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _stop(self, number: int) -> None:
        if self.pid is not None and self._process is not None:
            self.resume()
            self._process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        self._abandon()

    def _abandon(self) -> None:
        """Kill what still runs, and release the directory."""
        try:
            if self._process is not None:
                family = self._processes()[1:] if self.pid is not None else self._orphans()
                self._process.kill()
                self._process.wait()
                self._process = None
                end(family, patience_seconds=ORPHAN_SECONDS)
        finally:
            self._release()

    def _processes(self) -> list[Process]:
        """The server and its children, the oldest first."""
        return [] if self.pid is None else descendants(self.pid)

    def _orphans(self) -> list[Process]:
        """The children of a server that died by itself: they have another parent now, and are found by where they work."""
        directory = self._data_directory()
        return [] if directory is None or not directory.exists() else working_in(directory, self.process_names)

    def _end_leftovers(self, directory: Path | None) -> None:
        """End the processes of an earlier run in that directory; a server that is alive is asked first."""
        if directory is None or not directory.exists():
            return
        left = working_in(directory, self.process_names)
        ids = {p.pid for p in left}
        for process in left:
            send(process, signal.SIGCONT)
            if parent_id(process) not in ids:
                send(process, self.stop_signal)
        end(left, patience_seconds=STOP_SECONDS)

    def _choose_port(self) -> int:
        if self._wanted_port is not None:
            if not is_free(self._wanted_port):
                raise ServiceError(f"{self.name} cannot use port {self._wanted_port}: something else listens there")
            return self._wanted_port
        last = self._port or _number_in(self.directory / "port")
        return last if last is not None and is_free(last) else free_port()

    @contextlib.contextmanager
    def _fresh_log(self) -> Iterator[int]:
        """Open a new log for this start; keep the log before it as ``server.log.1``, and no older one."""
        with contextlib.suppress(FileNotFoundError):
            self.log_path.replace(self.log_path.with_name("server.log.1"))
        log = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            yield log
        finally:
            os.close(log)

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not self._answers():
            if self.pid is None:
                raise ServiceError(f"{self.name} ended while it started; {self._log_tail()}")
            if time.monotonic() > deadline:
                raise ServiceError(f"{self.name} did not answer within {READY_SECONDS:.0f} s; {self._log_tail()}")
            time.sleep(POLL_SECONDS)

    def _log_tail(self) -> str:
        lines = tail(self.log_path)
        return f"the last lines of {self.log_path}:\n{lines}" if lines else f"{self.log_path} is empty"


def tail(path: Path) -> str:
    """Return the last lines of a log, at most 15 lines and 16 KiB; an empty text if there is no such file."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-LOG_TAIL_LINES:])
    return ""


def _kept_text(path: Path, make: Callable[[], str]) -> str:
    if not path.exists():
        write_private(path, make())
    return path.read_text(encoding="utf-8").strip()


def _number_in(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
