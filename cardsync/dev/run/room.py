"""Whether the disks that ``cardsync dev`` writes to are full: then this is said first, since it explains every other error.

Rules: it is asked, not understood from the errors of five programs, each of which words a full disk in its own way.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Final

from cardsync.dev.servers.account import substitute_for

# Below this PostgreSQL cannot write its next file of the write-ahead log, which has 16 MiB; what it has may go on for a while.
LEAST_BYTES: Final = 4 * 2**20


def full_disk(data_dir: Path) -> str | None:
    """Name the disk that has no room left, or None. Root's PostgreSQL may be on another one than the data directory."""
    for folder in (data_dir, substitute_for(data_dir / "postgres")):
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(folder).free
            if free < LEAST_BYTES:
                return f"the disk of {folder} is full ({free // 2**10} KiB are free): make room"
    return None
