"""One process of ``cardsync dev``: web, worker or beat, with a log file of its own.

Rules: the process has a session of its own, so that Ctrl-C in a terminal reaches the supervisor alone. It never outlives the
supervisor (``tethered``), and no process of its group outlives it. The size of its log is bounded: the log of the start before is
kept, and a log that passes its bound begins again as an empty file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import psutil

from cardsync.dev.run import tethered
from cardsync.dev.servers.errors import ServiceError
from cardsync.dev.servers.processes import end, how_it_ended, parent_id, send
from cardsync.files import make_private_folder

LOG_MAX_BYTES: Final = 20_000_000
NO_ENVIRONMENT: Final[Mapping[str, str]] = MappingProxyType({})


class Child:
    """``cardsync ARGUMENTS...`` as a process, started once."""

    def __init__(
        self, arguments: Sequence[str], *, directory: Path, environment: Mapping[str, str] = NO_ENVIRONMENT
    ) -> None:
        self.name = arguments[0]
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
        self.log_path = directory / "logs" / f"{self.name}.log"
        self._command = [sys.executable, "-P", "-m", tethered.MODULE, str(directory), *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs, else None."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def ended_how(self) -> str:
        """How it ended, in words: its exit status, or the signal that ended it."""
        return how_it_ended(None if self._process is None else self._process.poll())

    def start(self) -> None:
        """Start the process. Raises ``ServiceError``."""
        try:
            self._begin_log()
            with self.log_path.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,  # never written to: it closes when we end
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    env=self._environment,
                )
        except OSError as error:
            raise ServiceError(f"{self.name} cannot be started: {error.strerror or error}") from error

    def stop(self, patience_seconds: float) -> None:
        """Ask it to stop, and return when it and all that it started are gone. Idempotent."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience_seconds)
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says the latter of zombies
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def bound_log(self) -> None:
        """Empty the log if it is too long, and keep a copy. The process writes in append mode and need not know."""
        with contextlib.suppress(OSError):
            if self.log_path.stat().st_size > LOG_MAX_BYTES:
                shutil.copyfile(self.log_path, self._earlier_log)
                os.truncate(self.log_path, 0)

    @property
    def _earlier_log(self) -> Path:
        return self.log_path.with_name(f"{self.log_path.name}.1")

    def _begin_log(self) -> None:
        make_private_folder(self.log_path.parent)
        with contextlib.suppress(FileNotFoundError):
            self.log_path.replace(self._earlier_log)


def end_leftovers(directory: Path) -> None:
    """End the processes that an earlier ``cardsync dev`` of this directory left behind because it was killed."""
    marks = [tethered.MODULE, str(directory)]
    left = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(process.cmdline()[at : at + 2] == marks for at in (2, 3)):  # Python's own options come before
                left.append(process)
    ids = {process.pid for process in left}
    for process in left:
        if parent_id(process) not in ids:
            send(process, signal.SIGTERM)
    end(left, patience_seconds=tethered.STOP_SECONDS)
