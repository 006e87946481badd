"""Find, pause and end processes of this machine, for the embedded servers.

Rules: a process is recognised by its name *and* its working directory, never by an id from a file alone, because the kernel gives
ids out again. A zombie counts as gone: in a container whose process 1 does not wait for its children, orphans stay zombies.
"""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path
from typing import Final

import psutil
from psutil import Process

from cardsync.dev.servers.errors import ServiceError

KILL_SECONDS: Final = 60.0  # SIGKILL is not instant: the kernel first writes back or frees what the process held
FREEZE_SECONDS: Final = 60.0  # one that waits for a disk stops only after that
POLL_SECONDS: Final = 0.01


def working_in(directory: Path, names: frozenset[str]) -> list[Process]:
    """Return the processes with these names whose working directory is ``directory``; so not a shell in the same place."""
    here = str(directory.resolve())
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() in names and process.cwd() == here:
                found.append(process)
    return found


def descendants(pid: int) -> list[Process]:
    """Return the process and all that descend from it, parents first; nothing if it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        head = Process(pid)
        return [head, *head.children(recursive=True)]
    return []


def parent_id(process: Process) -> int | None:
    """Return the id of the parent, or None if the process is gone."""
    try:
        return int(process.ppid())
    except psutil.NoSuchProcess:
        return None


def send(process: Process, number: int) -> None:
    """Send a signal; do nothing if the process is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def freeze(processes: list[Process]) -> None:
    """Pause the processes, and return when all of them are paused: one that runs on another core takes a moment.

    Raises ``ServiceError`` if one goes on running.
    """
    for process in processes:
        send(process, signal.SIGSTOP)
    deadline = time.monotonic() + FREEZE_SECONDS
    while moving := [p for p in processes if not _stands_still(p)]:
        if time.monotonic() > deadline:
            raise ServiceError(f"processes do not stop: {sorted(p.pid for p in moving)}")
        time.sleep(POLL_SECONDS)


def _stands_still(process: Process) -> bool:
    try:
        return _is_gone(process) or process.status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return True


def how_it_ended(status: int | None) -> str:
    """An exit status as ``subprocess`` gives it, in words: the status, or the signal that ended the process."""
    if status is None:
        return "did not end"
    if status >= 0:
        return f"ended with status {status}"
    names = {one.value: one.name for one in signal.Signals}  # not every number has a name
    return f"was ended by {names.get(-status, f'signal {-status}')}"


def end(processes: list[Process], *, patience_seconds: float) -> None:
    """Wait for the processes to end by themselves, then kill the rest. Raises ``ServiceError`` if that fails."""
    for process in processes:
        send(process, signal.SIGCONT)
    left = _wait(processes, patience_seconds)
    for process in left:
        send(process, signal.SIGKILL)
    if left := _wait(left, KILL_SECONDS):
        raise ServiceError(f"processes do not end: {sorted(p.pid for p in left)}")


def _wait(processes: list[Process], seconds: float) -> list[Process]:
    deadline = time.monotonic() + seconds
    left = [p for p in processes if not _is_gone(p)]
    while left and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        left = [p for p in left if not _is_gone(p)]
    return left


def _is_gone(process: Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
