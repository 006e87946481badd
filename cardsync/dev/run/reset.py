"""``cardsync dev --reset``: remove what earlier runs left in the data directory, and nothing that is not theirs.

Rules: the caller holds the directory's lock. What is removed is named here, so that a folder that was chosen by mistake keeps its
files. The servers remove their own data, which may lie elsewhere.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from cardsync import spool
from cardsync.db import server_memory
from cardsync.dev.run.directory import OTTU_FILE, SECRETS_FILE, STAND_IN_FILE
from cardsync.dev.servers.errors import ServiceError
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.dev.servers.valkey import EmbeddedValkey
from cardsync.setting_sources import DEV_FILE
from cardsync.spool import ring

FILES: Final = (
    DEV_FILE,
    SECRETS_FILE,
    STAND_IN_FILE,
    OTTU_FILE,
    "pgpass",
    "feed-seen.json*",
    f"{server_memory.FILE}*",
    "*-database-url",
)  # patterns
FOLDERS: Final = ("logs", "metrics", spool.FOLDER, ring.FOLDER)


def remove_data(folder: Path) -> None:
    """Remove the data of earlier runs. Raises ``ServiceError`` if something cannot be removed."""
    try:
        for server in (EmbeddedPostgres(folder / "postgres"), EmbeddedValkey(folder / "valkey")):
            if server.directory.exists():
                server.remove()
        for file in [file for pattern in FILES for file in folder.glob(pattern)]:
            file.unlink(missing_ok=True)
        for name in FOLDERS:
            if (folder / name).exists():
                shutil.rmtree(folder / name)
    except OSError as error:
        raise ServiceError(f"the data in {folder} cannot be removed: {error.strerror}") from error
