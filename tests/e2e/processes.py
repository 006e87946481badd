"""cardsync's processes as an operator runs them: the real command, in a process group of its own, output in a file.

Rules: nothing of this machine's settings reaches them; the one that starts it ends it, with all that it started, by its id.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import psutil

from cardsync.dev.servers.processes import descendants
from tests.waiting import WAIT_SECONDS, until

STOP_SECONDS: Final = 120.0  # a deadline: a worker finishes what runs, on a busy machine too
COMMAND_SECONDS: Final = 300.0  # a deadline: a command takes a second, and many of them where a machine is busy


def command(*arguments: str) -> list[str]:
    """The installed command, or what it would run."""
    installed = Path(sys.executable).with_name("cardsync")
    start = [str(installed)] if installed.exists() else [sys.executable, "-c", "from cardsync.cli import main; main()"]
    return [*start, *arguments]


def clean_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """These settings and what a Python needs to start."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME", "LANG") if name in os.environ}
    return {**kept, "PYTHONUNBUFFERED": "1", **settings}


def run(folder: Path, settings: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=clean_environment(settings),
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )


def _stands_still(process: psutil.Process) -> bool:
    """Whether each thread is stopped: one that waits for a processor goes on for a while after the signal."""
    threads = Path(f"/proc/{process.pid}/task")
    try:
        states = [stat.read_text().rpartition(")")[2].split()[0] for stat in threads.glob("*/stat")]
        return all(state in "TtZX" for state in states) and process.status() in (
            psutil.STATUS_STOPPED,
            psutil.STATUS_ZOMBIE,
        )
    except (psutil.NoSuchProcess, OSError):
        return False  # it ended as we looked: the next look does not find it


class Process:
    """One long-running command. ``start`` may follow its end; all its starts write one file."""

    def __init__(self, folder: Path, name: str, arguments: list[str], settings: Mapping[str, str]) -> None:
        self.name = name
        self.settings = dict(settings)
        self.output_path = folder / f"{name}.out"
        self._folder = folder
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self._earlier = 0  # characters that earlier starts wrote
        self._group_may_live = False

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its group."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Process:
        """Start it; returns at once."""
        assert not self.is_running
        self._earlier = len(self.output())
        with self.output_path.open("ab") as output:
            self._process = subprocess.Popen(
                command(*self._arguments),
                cwd=self._folder,
                env=clean_environment(self.settings),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._group_may_live = True
        return self

    def output(self) -> str:
        """All that it has written, on both channels."""
        return self.output_path.read_text(encoding="utf-8", errors="replace") if self.output_path.exists() else ""

    def says(self, text: str, *, seconds: float = WAIT_SECONDS) -> None:
        """Wait until its output since its last start holds ``text``."""
        what = f"{self.name} says {text!r}: {self.output_path}"
        until(lambda: text in self.output()[self._earlier :], what, seconds=seconds)

    def signal(self, number: int) -> None:
        """Send a signal to the process itself, not to what it started."""
        os.kill(self.pid, number)

    def pause(self) -> None:
        """Let the process and all that it started stand still, as pausing a container does; returns when all of them do."""
        os.killpg(self.pid, signal.SIGSTOP)
        until(lambda: all(map(_stands_still, descendants(self.pid))), f"every thread of {self.name} stands still")

    def resume(self) -> None:
        """Let what was paused go on."""
        os.killpg(self.pid, signal.SIGCONT)

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Wait for its end and return the exit status."""
        assert self._process is not None
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {seconds:g} s; {self.output()[-3_000:]}") from None
        self._end_group()
        return status

    def stop(self) -> int:
        """End it as a service manager does, and return the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """End it as a crash of the whole container would: SIGKILL to it and to all that it started."""
        if self._process is not None:
            self._end_group()
            self._process.wait()

    def _end_group(self) -> None:
        """The group outlives its leader as long as anything in it lives, and so does its id. Afterwards it may be another's."""
        if not self._group_may_live:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._group_may_live = False
