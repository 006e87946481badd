"""Where the figures of several processes meet: small files in ``CARDSYNC_DATA_DIR/metrics``.

``prepare`` must run before ``cardsync.metrics`` is imported, because prometheus-client chooses its storage at
import; that is why it stands in a file of its own, which imports nothing of prometheus-client.

Each process holds a lock beside its figures, which the kernel lets go of however the process ends; whoever starts removes the
figures whose lock is free. So those of a container that was replaced go too: its host name comes never again, and its process
ids say nothing here. Rejected: the age of a file, since one whose process counts nothing for weeks looks the same as one without.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import sys
from pathlib import Path
from typing import Final

_DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"  # prometheus-client's own name for it
_HOST: Final = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())
_held: dict[int, int] = {}  # process -> its lock's descriptor, open for as long as the process lives


def prepare(data_dir: Path) -> None:
    """Choose where the processes' figures meet; forget those of processes that are no more.

    Figures stay in the process where the folder cannot be written, and where prometheus-client has chosen already: metrics
    never stop the service.
    """
    if "prometheus_client" in sys.modules:
        return
    directory = data_dir / "metrics"
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)  # its mode does not come with the folder below it
        directory.mkdir(exist_ok=True, mode=0o700)
        probe = directory / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError:
        return
    os.environ.setdefault(_DIRECTORY, str(directory))
    forget_ended(directory)


def process_name() -> str:
    """Host and process id: containers that share the folder all have a process 1. The first call says that it lives."""
    name = f"{_HOST}-{os.getpid()}"
    if os.getpid() not in _held:  # a fork has its own
        with contextlib.suppress(OSError):  # a folder that is full or gone: then its figures stay
            _held[os.getpid()] = _hold(Path(os.environ[_DIRECTORY]) / f"{name}.alive")
    return name


def _hold(path: Path) -> int:
    """Lock the file until the process ends. One that was removed while this waited for it is made again."""
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)


def forget_ended(directory: Path) -> None:
    """Remove the figures of processes that have ended, on whichever host. Figures without a lock beside them are left."""
    for alive in directory.glob("*.alive"):
        with contextlib.suppress(OSError), alive.open("r+b") as lock:  # held: it lives, or nobody can tell
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in directory.glob(f"*_{alive.stem}.db"):
                path.unlink(missing_ok=True)
            alive.unlink(missing_ok=True)


def is_shared() -> bool:
    """Whether the figures of several processes meet in a folder."""
    return _DIRECTORY in os.environ
