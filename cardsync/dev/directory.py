"""What ``cardsync dev`` keeps in the data directory: a lock, its secrets, and what it offers to other commands meanwhile.

Rules: one ``cardsync dev`` a directory, by a lock that the kernel lets go however its holder ends; files of mode 0600 in a
folder of mode 0700; a secret is made up once, because the database is bound to it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cardsync.dev.errors import DirectoryInUse, ServiceError
from cardsync.dev.service import write_private
from cardsync.settings import DEV_FILE, DEV_LOCK
from cardsync.store import keys

SECRETS_FILE: Final = "secrets.json"
# Whoever reads `dev.json` holds the lock shared for an instant, to see whether anybody holds it.
LOCK_ATTEMPTS: Final = 10
LOCK_RETRY_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """What is made up for this directory. ``api_key`` opens /v1; the others stand between our own processes."""

    secret_key: str
    webhook_key: str
    ottu_api_key: str
    api_key: str

    @classmethod
    def made_up(cls) -> Secrets:
        """New ones."""
        return cls(secrets.token_hex(32), secrets.token_hex(20), secrets.token_hex(20), keys.new_key())


class Directory:
    """The data directory, for as long as one ``cardsync dev`` has it."""

    def __init__(self, path: Path) -> None:
        self._wanted = path
        self._lock: int | None = None

    @property
    def path(self) -> Path:
        """The directory, by its one name: links resolved."""
        return self._wanted.resolve()

    def acquire(self) -> None:
        """Make the directory if need be, and take it. Raises ``DirectoryInUse``, ``ServiceError``."""
        try:
            self._wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.path / DEV_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ServiceError(f"the data directory {self._wanted} cannot be used: {error.strerror}") from error
        for _ in range(LOCK_ATTEMPTS):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(lock, 0)
                os.pwrite(lock, str(os.getpid()).encode(), 0)
                self._lock = lock
                return
            time.sleep(LOCK_RETRY_SECONDS)
        holder = os.pread(lock, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise DirectoryInUse(f"`cardsync dev` already runs in {self.path} (process {holder})")

    def release(self) -> None:
        """Take back what was offered, and let go of the directory. Idempotent."""
        self.withdraw()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def offer(self, values: Mapping[str, object]) -> None:
        """Let other commands in this directory use these settings where they have none of their own."""
        write_private(self.path / DEV_FILE, json.dumps({"pid": os.getpid(), "settings": dict(values)}))

    def withdraw(self) -> None:
        """Offer nothing any more."""
        (self.path / DEV_FILE).unlink(missing_ok=True)

    def secrets(self) -> Secrets:
        """The secrets of this directory, made up at the first call. Raises ``ServiceError`` for a damaged file."""
        file = self.path / SECRETS_FILE
        if not file.exists():
            self.keep(made := Secrets.made_up())
            return made
        try:
            known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            return Secrets(**known)
        except (OSError, ValueError, TypeError) as error:
            # Not made up anew: with another key every card of the database would look new.
            raise ServiceError(f"{file} cannot be read: put it back, or remove the data directory") from error

    def keep(self, those: Secrets) -> None:
        """Write the secrets down, in place of any before."""
        write_private(self.path / SECRETS_FILE, json.dumps(dataclasses.asdict(those), indent=2))
