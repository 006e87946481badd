"""Threads that a process cannot do without, and the way out for a process that waits for none of them.

Each loop of ours has a border that lets no error end it. Where a thread ends all the same, its process looks healthy and is not:
a worker works at half of its jobs, a web leaves hints on the disk. So its process ends with it, and a supervisor starts it again.

Rules: a thread that serves the process as long as it lives is a ``VitalThread``. A plain one is for a single question, whose end
somebody waits for, or whose loss costs nothing; a test has the list of those.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Final

import structlog

from cardsync import log_lines

log = structlog.get_logger(__name__)

BEFORE_END_SECONDS: Final = 5.0  # for a statement, or the requests that are under way

_before_end: list[Callable[[], object]] = []


class VitalThread(threading.Thread):
    """A daemon thread that ends its process, with status 1, if it ends while ``may_end`` is false: by an error or without one."""

    def __init__(self, work: Callable[[], object], *, name: str, may_end: Callable[[], bool] = lambda: False) -> None:
        super().__init__(name=name, daemon=True)
        self._work, self._may_end = work, may_end

    def run(self) -> None:
        """Work, and look at how that ended."""
        error: str | None = None
        try:
            self._work()
        except BaseException as raised:  # noqa: BLE001  (a thread's border; its text may hold what a hint says)
            error = type(raised).__name__
        if self._may_end():
            return
        log.error(
            "thread_ended", thread=self.name, error=error, because="the process ends with it, to be started again"
        )
        end_process(1)


def before_end(work: Callable[[], object]) -> Callable[[], None]:
    """Let ``end_process`` call this, within its bound; return what takes it back."""
    _before_end.append(work)

    def forget() -> None:
        with contextlib.suppress(ValueError):
            _before_end.remove(work)

    return forget


def end_process(status: int) -> None:
    """End this process now, whatever its other threads wait for; what is to be done before has a few seconds."""

    def leave() -> None:
        for work in _before_end:
            with contextlib.suppress(Exception):
                work()

    leaving = threading.Thread(target=leave, name="before-end", daemon=True)
    with contextlib.suppress(RuntimeError):  # no thread can be had now
        leaving.start()
        leaving.join(BEFORE_END_SECONDS)
    log_lines.flush()
    os._exit(status)
