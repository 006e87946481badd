"""The data directory of ``cardsync dev``: a lock, its secrets, and the settings that other commands there may use meanwhile.

Rules: one ``cardsync dev`` for each directory, by a lock (``cardsync.files``). Files have mode 0600, in a folder of mode 0700. A
secret is generated once, because the database depends on it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cardsync.dev.servers.errors import DirectoryInUse, ServiceError
from cardsync.files import Lock, LockHeld, make_private_folder, write_private
from cardsync.setting_sources import DEV_FILE, DEV_LOCK
from cardsync.store.access import keys

SECRETS_FILE: Final = "secrets.json"
STAND_IN_FILE: Final = (
    "simulator.json"  # the stand-in's cards; with it, the registry beside it is of invented customers
)
OTTU_FILE: Final = "ottu-host"  # which real Ottu the registry here is of
# Each command that reads `dev.json` holds the lock shared for an instant, to see whether a `cardsync dev` runs.
LOCK_PATIENCE_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """The secrets of one directory. ``api_key`` opens /v1; the others are used between our own processes."""

    secret_key: str
    webhook_key: str
    ottu_api_key: str
    api_key: str

    @classmethod
    def generate(cls) -> Secrets:
        """New secrets."""
        return cls(secrets.token_hex(32), secrets.token_hex(20), secrets.token_hex(20), keys.new_key())


class Directory:
    """The data directory, while one ``cardsync dev`` uses it."""

    def __init__(self, path: Path) -> None:
        self._wanted = path
        self._lock: Lock | None = None

    @property
    def path(self) -> Path:
        """The directory's path with all links resolved: one name for one directory."""
        return self._wanted.resolve()

    def acquire(self) -> None:
        """Make the directory if it is missing, and lock it. Raises ``DirectoryInUse``, ``ServiceError``."""
        try:
            make_private_folder(self._wanted)
            self._lock = Lock.take(self.path / DEV_LOCK, patience_seconds=LOCK_PATIENCE_SECONDS, write_holder=True)
        except LockHeld as held:
            told = f"`cardsync dev` already runs in {self.path} (process {held.holder})"
            raise DirectoryInUse(told) from None
        except OSError as error:
            raise ServiceError(f"the data directory {self._wanted} cannot be used: {error.strerror}") from error

    def release(self) -> None:
        """Withdraw the settings, and release the directory. Idempotent."""
        self.withdraw()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def require_one_ottu(self, host: str | None) -> None:
        """Refuse a registry of another Ottu: each customer that one of them invented would cost a call to the other.

        ``host`` is a real Ottu's, ``None`` the stand-in's. Raises ``ServiceError``.
        """
        file = self.path / OTTU_FILE
        kept = file.read_text(encoding="utf-8").strip() if file.exists() else None
        before = "the stand-in for Ottu" if (self.path / STAND_IN_FILE).exists() else kept
        now = "the stand-in for Ottu" if host is None else host
        if before not in (None, now):
            raise ServiceError(
                f"the registry in {self.path} is of {before}, and now Ottu is {now}: keep them apart with another folder "
                "(CARDSYNC_DATA_DIR=...), or remove the data with `cardsync dev --reset`"
            )
        if host is not None:
            write_private(file, host)

    def offer(self, values: Mapping[str, object], ports: Sequence[int]) -> None:
        """Let other commands in this directory use these settings, where they have none of their own.

        ``ports`` are those of our processes, for the next start if this one is killed (``withdraw``).
        """
        content = {"pid": os.getpid(), "ports": [*ports], "settings": dict(values)}
        write_private(self.path / DEV_FILE, json.dumps(content))

    def withdraw(self) -> Sequence[int]:
        """Take back the settings that were offered. Return the ports of a run that was killed, in the order given; else none."""
        file = self.path / DEV_FILE
        try:
            ports = [int(port) for port in json.loads(file.read_text(encoding="utf-8"))["ports"]]
        except (OSError, ValueError, LookupError, TypeError):
            ports = []
        file.unlink(missing_ok=True)
        return ports

    def secrets(self) -> Secrets:
        """The secrets of this directory, generated at the first call. Raises ``ServiceError`` for a damaged file."""
        file = self.path / SECRETS_FILE
        if not file.exists():
            self.keep(made := Secrets.generate())
            return made
        try:
            known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            return Secrets(**known)
        except (OSError, ValueError, TypeError) as error:
            # Not generated again: with another key every card of the database would look new.
            raise ServiceError(f"{file} cannot be read: put it back, or remove the data directory") from error

    def keep(self, those: Secrets) -> None:
        """Write the secrets down, in place of earlier ones."""
        write_private(self.path / SECRETS_FILE, json.dumps(dataclasses.asdict(those), indent=2))
