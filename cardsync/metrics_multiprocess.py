"""Metrics of several processes, put together: each writes small files into ``CARDSYNC_DATA_DIR/metrics``.

``prepare`` must run before ``cardsync.metrics`` is imported, because prometheus-client chooses its storage at import; that is why
it stands in a file of its own, which imports nothing of prometheus-client.

Each process holds a lock beside its files (``cardsync.files``). A process that starts, or that is asked for the metrics, takes
the files whose lock is free: their counts are added to one file of all ended processes, and the files are removed. So a counter
never falls, which Prometheus would read as a restart from zero and count everything again. The files of a replaced container go
too: its host name never comes back, and its process ids mean nothing here. Rejected: the age of a file, since a process that
counts nothing for weeks looks the same as one that has ended.

Adding and reading take turns by a lock of the folder: a reader in between would see an ended process twice, or not at all.
"""

from __future__ import annotations

import contextlib
import operator
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from cardsync.files import Lock, LockHeld, make_private_folder

_DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"  # prometheus-client's own name for it
_HOST: Final = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())
_TIDY_SECONDS: Final = 2.0  # longer than a process that forgets ended ones holds a lock
_TURNS: Final = "turns.lock"
_ENDED: Final = "ended"  # no process's name: those end with a number
_ADDED: Final[dict[str, Callable[[float, float], float]]] = {
    "counter": operator.add,
    "histogram": operator.add,
    "gauge_max": max,
}
_names: list[str] = []  # what this process is called, once it was asked
_held: list[Lock] = []  # its lock, held for as long as the process lives

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_names.clear)  # a fork has a name and a lock of its own


def prepare(data_dir: Path) -> None:
    """Choose the folder for the processes' metrics; remove the files of processes that have ended.

    Metrics stay inside the process if the folder cannot be written, or if prometheus-client has chosen already: metrics never
    stop the service.
    """
    if "prometheus_client" in sys.modules:
        return
    directory = data_dir / "metrics"
    try:
        make_private_folder(data_dir)  # by itself: as a parent of the other it would get the usual mode
        make_private_folder(directory)
        probe = directory / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError:
        return
    os.environ.setdefault(_DIRECTORY, str(directory))
    forget_ended(directory)


def process_name() -> str:
    """Host and process id: containers that share the folder all have a process 1. The first call takes the process's lock."""
    if _names:  # asked several times at every count: without a system call
        return _names[0]
    name = f"{_HOST}-{os.getpid()}"
    _names.append(name)
    alive = Path(os.environ[_DIRECTORY]) / f"{name}.alive"
    with contextlib.suppress(OSError, LockHeld):  # a folder that is full or gone: then its files stay
        _held.append(Lock.take(alive, patience_seconds=_TIDY_SECONDS))
    return name


def forget_ended(directory: Path) -> None:
    """Add up the files of processes that have ended, on any host. Files without a lock file beside them are left."""
    with taking_turns(directory):
        for alive in directory.glob("*.alive"):
            with contextlib.suppress(OSError, LockHeld), Lock.take(alive):  # held: the process lives
                for path in directory.glob(f"*_{alive.stem}.db"):
                    _add_to_ended(path)
                    path.unlink(missing_ok=True)
                alive.unlink(missing_ok=True)


def folder() -> Path:
    """The folder of the processes' files; only where ``is_shared``."""
    return Path(os.environ[_DIRECTORY])


@contextlib.contextmanager
def taking_turns(directory: Path) -> Iterator[None]:
    """Hold the folder's lock; go on without it if it cannot be had in time, since metrics stop nothing."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError, LockHeld):
            held.enter_context(Lock.take(directory / _TURNS, patience_seconds=_TIDY_SECONDS))
        yield


def _add_to_ended(path: Path) -> None:
    """Add one ended process's counts to those of all ended ones; what tells of the living alone is left out.

    A new file takes the place of the old one. If this process is killed before the other file is removed, that process counts
    twice. Those are microseconds, and metrics only.
    """
    kind = path.name.rpartition("_")[0]  # as in counter_HOST-12.db, gauge_max_HOST-12.db
    if kind not in _ADDED:
        return
    from prometheus_client.mmap_dict import MmapedDict  # it finds the folder chosen

    into, draft = path.with_name(f"{kind}_{_ENDED}.db"), path.with_name(f".{kind}_{_ENDED}")
    sums: dict[str, float] = {}
    for file in (into, path):
        if file.exists():
            read = MmapedDict.read_all_values_from_file(str(file))  # type: ignore[no-untyped-call]
            for key, value, *_ in read:
                sums[key] = _ADDED[kind](sums.get(key, 0.0), value)
    draft.unlink(missing_ok=True)
    written = MmapedDict(str(draft))  # type: ignore[no-untyped-call]
    for key, value in sums.items():
        written.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]
    written.close()  # type: ignore[no-untyped-call]
    draft.replace(into)


def is_shared() -> bool:
    """Whether the metrics of several processes are put together from a folder."""
    return _DIRECTORY in os.environ
