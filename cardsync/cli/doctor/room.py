"""What ``cardsync doctor`` checks of the server itself: which one it is, room for sessions, and slots that keep its log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Engine

from cardsync.cli import console
from cardsync.cli.doctor.check import Check
from cardsync.core import connections
from cardsync.settings import Settings
from cardsync.store import heartbeats
from cardsync.store.ops import server
from cardsync.store.ops.server import LateSlot

USED_WARNING: Final = 0.8  # of the server's sessions: a deployment beside the running one takes as many again


def standby(engine: Engine) -> Check | None:
    """A failed check if the address leads to a hot standby, where services may read and no process of ours works."""
    with engine.connect() as connection:
        if not server.is_standby(connection):
            return None
    advice = "name all hosts in CARDSYNC_DATABASE_URL, with target_session_attrs=read-write"
    return Check(
        "standby", "failed", "this server is a hot standby: services may read here, cardsync must write", advice
    )


def checks(engine: Engine) -> Iterator[Check]:
    """How many of the server's sessions are in use, and slots that hold back its log and are not read, or not fast enough."""
    with engine.connect() as connection:
        used, most = server.sessions(connection)
        slots = server.late_slots(connection)
    found = f"{used} of {most} sessions are in use"
    if used >= USED_WARNING * most:
        advice = "raise max_connections, or put a pooler before it (docs/deployment/pgbouncer.md)"
        yield Check("sessions", "warning", f"{found}: without a free one hints go to the spool", advice)
    else:
        yield Check("sessions", "ok", found)
    yield from (_slot(slot) for slot in slots)


def _slot(slot: LateSlot) -> Check:
    name = console.printable(slot.name)
    if slot.is_lost:
        found = f"the server removed log that the reader of the slot {name} had not read: it can never go on"
        return Check(
            "slots", "warning", found, "drop the slot, and let its reader begin again with a copy of the tables"
        )
    if slot.is_read:
        found = f"the reader of the slot {name} is behind: {slot.kept} of the log is kept for it"
        return Check("slots", "warning", found, "see why it is slow, or confirms nothing: this fills the server's disk")
    found = f"no program reads the slot {name}, which keeps {slot.kept} of the log"
    advice = "start its reader, or, in its database, SELECT pg_drop_replication_slot(name): it fills the server's disk"
    return Check("slots", "failed" if slot.is_beyond else "warning", found, advice)


def for_all(engine: Engine, loaded: Settings) -> Check:
    """Whether the server has room for all that the known processes may hold, by this process's settings."""
    with engine.connect() as connection:
        _, room = server.sessions(connection)
        found = [one for one in heartbeats.read(connection) if not one.is_missed]
    cap = loaded.database_connections
    of_each: dict[heartbeats.Kind, int] = {
        "web": connections.of_web(loaded.web_threads, cap).all,
        "worker": connections.of_worker(loaded.worker_threads, cap).all,
        "beat": connections.of_beat(cap),
        "console": connections.of_console(),
    }
    seen = {kind: [one for one in found if one.process.kind == kind] for kind in of_each}
    most = sum(one.connections or of_each[one.process.kind] for one in found)
    # Of these one is counted that is not started yet, or is of a release that has no heartbeats.
    most += sum(of_each[kind] for kind in heartbeats.SHOWN if not seen[kind])
    counted = ", ".join(f"{len(ones)} {kind}" for kind, ones in seen.items())
    unseen = " and a ".join(kind for kind in heartbeats.SHOWN if not seen[kind])
    said = (
        f"the processes at work ({counted}){f', and a {unseen},' if unseen else ''} may hold {most} sessions; "
        f"the server has {room}"
    )
    if most <= room:
        return Check("connections", "ok", said)
    advice = "set CARDSYNC_DATABASE_CONNECTIONS, raise max_connections, or put a pooler before it (docs/deployment.md)"
    return Check("connections", "warning", said, advice)
