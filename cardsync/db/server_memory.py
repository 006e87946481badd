"""What a data folder remembers of the database's server, so that an old primary that comes back is refused.

At each failover PostgreSQL counts its *timeline* up, and a primary that was away meanwhile comes back with the lower one. It
takes writes all the same, and a process whose address leads there would work on what the others left behind: two primaries at
once (split brain). So the highest timeline that any process with this data folder has met is kept in a small file, with the
server's system identifier, which ``initdb`` draws at random and every standby shares. A session on a lower timeline of the
same system is closed. Another system is another database that somebody chose (a dump that was restored, a move): it is
remembered in its place.

Rules: nothing is raised for a disk that cannot be read or written: then memory alone remembers. An operator who
restores a backup of an older timeline removes the file.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from cardsync.files import make_private_folder, write_private

log = structlog.get_logger(__name__)

FILE: Final = "server-seen.json"
FILE_MAX_BYTES: Final = 1_024
READ_EVERY_SECONDS: Final = 1.0  # what another process with this folder wrote

# For a statement that asks it. A standby has no timeline of its own, and is refused for other reasons.
SYSTEM_IDENTIFIER: Final = "(SELECT system_identifier FROM pg_control_system())"
TIMELINE: Final = (
    "CASE WHEN NOT pg_is_in_recovery() THEN ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END"
)


@dataclass(frozen=True, slots=True)
class Server:
    """A server at one time of its life: its system, and its timeline."""

    system_identifier: int
    timeline: int


class ServerMemory:
    """The memory of one data folder, as one process uses it. Safe to be used by several threads."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._lock = threading.Lock()
        self._newest: Server | None = None
        self._read_at = float("-inf")

    def newest(self) -> Server | None:
        """The newest server that this process met, or another one with this folder a moment ago."""
        if time.monotonic() - self._read_at >= READ_EVERY_SECONDS:
            self._read_again()
        return self._newest

    def meet(self, server: Server) -> str | None:
        """Remember a server that a session was opened on, or say why it must not be used."""
        self._read_again()
        with self._lock:
            known = self._newest
            if known is None or server.system_identifier != known.system_identifier or server.timeline > known.timeline:
                self._newest = server
                self._write(server, known)
                return None
        if server.timeline == known.timeline:
            return None
        return (
            f"an old primary answers, of timeline {server.timeline} where {known.timeline} was seen; if a backup was restored, "
            f"remove {self._file}"
        )

    def is_outdated(self, server: Server) -> bool:
        """Whether a session that was opened on this server should be used no longer."""
        newest = self.newest()
        return (
            newest is not None
            and newest.system_identifier == server.system_identifier
            and newest.timeline > server.timeline
        )

    def _read_again(self) -> None:
        try:
            content = json.loads(self._file.read_bytes()[:FILE_MAX_BYTES])
            found: Server | None = Server(int(content["system_identifier"]), int(content["timeline"]))
        except (OSError, ValueError, TypeError, KeyError):
            found = None
        with self._lock:
            self._read_at = time.monotonic()
            if found is not None and not self._is_newer_here(found):
                self._newest = found

    def _is_newer_here(self, found: Server) -> bool:
        """A file that this process could not write yet says less than it knows."""
        known = self._newest
        return (
            known is not None and known.system_identifier == found.system_identifier and known.timeline > found.timeline
        )

    def _write(self, server: Server, known: Server | None) -> None:
        if known is not None:
            log.warning("another_server", timeline=server.timeline, same_system=_same(server, known))
        content = {"system_identifier": str(server.system_identifier), "timeline": server.timeline}
        try:
            make_private_folder(self._file.parent)
            write_private(self._file, json.dumps(content))
        except OSError as error:
            log.warning("server_not_remembered", file=self._file.name, error=error.strerror)


def _same(one: Server, other: Server) -> bool:
    return one.system_identifier == other.system_identifier
