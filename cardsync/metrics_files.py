"""Where the figures of several processes meet: small files in ``CARDSYNC_DATA_DIR/metrics``.

``prepare`` must run before ``cardsync.metrics`` is imported, because prometheus-client chooses its storage at
import; that is why it stands in a file of its own, which imports nothing of prometheus-client.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path
from typing import Final

_DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"  # prometheus-client's own name for it
_HOST: Final = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())


def prepare(data_dir: Path) -> None:
    """Choose where the processes' figures meet; forget those of this host's processes that are no more.

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
    _forget_dead_processes(directory)


def process_name() -> str:
    """Host and process id: containers that share the folder all have a process 1."""
    return f"{_HOST}-{os.getpid()}"


def _forget_dead_processes(directory: Path) -> None:
    for path in directory.glob(f"*_{_HOST}-*.db"):
        process_id = path.stem.rsplit("-", 1)[-1]
        if process_id.isdigit() and not _is_alive(int(process_id)):
            path.unlink(missing_ok=True)


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def is_shared() -> bool:
    """Whether the figures of several processes meet in a folder."""
    return _DIRECTORY in os.environ
