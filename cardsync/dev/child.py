"""One process of ``cardsync dev``: web, worker or beat, its log in a file of its own.

Rules: it runs in a session of its own, so that Ctrl-C in a terminal reaches us alone; it never outlives us (``attached``);
nothing of its group outlives it. Its log is bounded: the log of the start before is kept, and one that grows past its
bound begins anew.
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

from cardsync.dev import attached
from cardsync.dev.errors import ServiceError
from cardsync.dev.processes import end, parent_id, send

LOG_MAX_BYTES: Final = 20_000_000
NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class Child:
    """``cardsync ARGUMENTS...`` as a process; ``start`` may follow its end."""

    def __init__(self, arguments: Sequence[str], *, directory: Path, environment: Mapping[str, str] = NOTHING) -> None:
        self.name = arguments[0]
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
        self.log_path = directory / "logs" / f"{self.name}.log"
        self._command = [sys.executable, "-P", "-m", attached.MODULE, str(directory), *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs, else None."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def ended_how(self) -> str:
        """How it ended, in words: its exit status, or the signal that ended it."""
        status = None if self._process is None else self._process.poll()
        if status is None:
            return "did not end"
        if status >= 0:
            return f"ended with status {status}"
        return f"was ended by {signal.Signals(-status).name}"

    def start(self) -> None:
        """Start the process. Raises ``ServiceError``."""
        if self.pid is not None:
            return
        if self._process is None:
            self._begin_log()
        self._end_group()  # what the one before left: a new one could not have its port
        try:
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
        self._end_group()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def bound_log(self) -> None:
        """Begin the log anew once it is too long. It is written in append mode, so that the process need not know."""
        with contextlib.suppress(OSError):
            if self.log_path.stat().st_size > LOG_MAX_BYTES:
                shutil.copyfile(self.log_path, self._earlier_log)
                os.truncate(self.log_path, 0)

    @property
    def _earlier_log(self) -> Path:
        return self.log_path.with_name(f"{self.log_path.name}.1")

    def _begin_log(self) -> None:
        self.log_path.parent.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self.log_path.replace(self._earlier_log)

    def _end_group(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says the latter of zombies
                os.killpg(self._process.pid, signal.SIGKILL)


def end_leftovers(directory: Path) -> None:
    """End the processes of an earlier ``cardsync dev`` of this directory that was killed: they are ending, or should be."""
    marks = [attached.MODULE, str(directory)]
    left = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(process.cmdline()[at : at + 2] == marks for at in (2, 3)):  # Python's own options come before
                left.append(process)
    ids = {process.pid for process in left}
    for process in left:
        if parent_id(process) not in ids:
            send(process, signal.SIGTERM)
    end(left, patience_seconds=attached.STOP_SECONDS)
