"""How lines reach the log: whole and in order; no work waits for the process that reads them.

A log's reader may stand still: a frozen collector, a terminal that is paused, a container's engine with a full disk. A pipe
takes some 64 kB before it holds up its writer, and a web that is held up answers no payer. So a long-running process writes its
lines on a thread of its own. What the reader does not take waits, within a bound, and beyond it is counted and left out; once
lines are taken again, one line says how many are missing.

The thread lets lines gather for a few milliseconds: a write for each hint cost a fifth of what answering it costs, and each write
lets threads change. A warning is written at once, behind those before it. A killed process may lose its last few milliseconds of
lines; what they tell of is in the database. A command for a person writes each line itself: its lines stand between its answers.
"""

from __future__ import annotations

import atexit
import io
import os
import select
import threading
import time
from collections.abc import Callable
from typing import BinaryIO, ClassVar, Final, TextIO

GATHER_SECONDS: Final = 0.005
MOST_WAITING_BYTES: Final = 4_194_304  # some 20,000 lines
FLUSH_SECONDS: Final = 2.0  # at the end of a process, whose reader may stand still


class LogLines:
    """The lines of one stream, of all its loggers, in the order in which they came.

    ``tell_of_lost`` is called with the number of lines that were left out, once lines are taken again.
    """

    _all: ClassVar[dict[tuple[int, bool], LogLines]] = {}

    def __init__(self, stream: TextIO, *, at_once: bool, tell_of_lost: Callable[[int], object]) -> None:
        self._stream, self._file = stream, _unbuffered(stream)  # kept both: a stream is known by its identity
        self._at_once, self._tell_of_lost = at_once, tell_of_lost
        self._thread: threading.Thread | None = None
        self._begin_empty()

    @classmethod
    def of(cls, stream: TextIO, *, at_once: bool, tell_of_lost: Callable[[int], object]) -> LogLines:
        """Those of a stream, the same for each of its loggers. ``at_once``: the thread that has a line writes it."""
        key = (id(stream), at_once)
        found = cls._all.get(key)
        if found is None:
            found = cls._all[key] = cls(stream, at_once=at_once, tell_of_lost=tell_of_lost)
        return found

    def add(self, line: bytes, *, is_urgent: bool = False) -> None:
        """Take a line, without its end. Raises nothing, and waits for nothing unless each line is written at once."""
        with self._changed:
            if self._waiting_bytes > MOST_WAITING_BYTES:
                self._lost += 1
                return
            self._waiting.append(line)
            self._waiting_bytes += len(line)
            if self._thread is None and not self._at_once:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()
        if self._at_once:
            self._write()
            return
        if is_urgent:
            self._is_urgent.set()
        if not self._is_woken.is_set():
            self._is_woken.set()

    def flush(self, seconds: float = FLUSH_SECONDS) -> bool:
        """Wait until all is written, for so long at the most; whether it is."""
        self._is_urgent.set()
        self._is_woken.set()
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._is_writing, timeout=seconds)

    def _begin_empty(self) -> None:
        self._waiting: list[bytes] = []
        self._waiting_bytes = self._lost = 0
        self._is_writing = False
        self._changed = threading.Condition()
        self._is_woken, self._is_urgent = threading.Event(), threading.Event()
        self._thread = None

    def _run(self) -> None:
        while True:
            self._is_woken.wait()
            self._is_urgent.wait(GATHER_SECONDS)
            self._is_woken.clear()
            self._is_urgent.clear()
            self._write()

    def _write(self) -> None:
        """Write all that waits. A full disk below the log, a pipe without a reader and a closed file fail nothing."""
        with self._changed:
            lines, self._waiting, self._waiting_bytes = self._waiting, [], 0
            self._is_writing = bool(lines)
        is_heard = True
        if lines:
            try:
                _write_whole(self._file, b"\n".join((*lines, b"")))
            except (OSError, ValueError):  # ValueError: the file is closed
                is_heard = False
        lost = 0
        with self._changed:
            self._is_writing = False
            if not is_heard:
                self._lost = 0  # no reader is there to be told
            elif self._waiting_bytes <= MOST_WAITING_BYTES:  # else there is no room for the line that tells
                lost, self._lost = self._lost, 0
            self._changed.notify_all()
        if lost:
            self._tell_of_lost(lost)

    @classmethod
    def all(cls) -> list[LogLines]:
        """Those of all streams."""
        return list(cls._all.values())


def flush() -> None:
    """Write the lines that wait; at the end of a process, and within a bound."""
    until = time.monotonic() + FLUSH_SECONDS
    for lines in LogLines.all():
        lines.flush(max(0.0, until - time.monotonic()))


def _begin_anew_in_a_child() -> None:
    """A process that was forked has neither the thread nor, for sure, the lock; the lines that wait are its parent's."""
    for lines in LogLines.all():
        lines._begin_empty()


atexit.register(flush)
os.register_at_fork(after_in_child=_begin_anew_in_a_child)


def _unbuffered(stream: TextIO) -> BinaryIO:
    """What is behind a stream, past its buffer: a thread that waits inside a buffer's lock would not let the process end."""
    try:
        stream.flush()
        return io.FileIO(stream.fileno(), "wb", closefd=False)
    except (OSError, ValueError, AttributeError):  # in place of a file there is a test's memory
        return stream.buffer


def _write_whole(file: BinaryIO, content: bytes) -> None:
    left = memoryview(content)
    while left:
        written = file.write(left)
        if written is None:  # another program made the file non-blocking, and it is full
            select.select([], [file], [])
            continue
        left = left[written:]
    if not isinstance(file, io.FileIO):
        file.flush()
