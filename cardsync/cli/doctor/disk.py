"""What ``cardsync doctor`` checks on this host's disk: the data folder, and the spool in it, which must outlast a restart."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Final

from cardsync.cli.doctor.check import Check
from cardsync.errors import SpoolUnusable
from cardsync.settings import Settings
from cardsync.spool import FOLDER, Spool

MOUNTS: Final = Path("/proc/self/mountinfo")  # proc(5); Linux alone has it
# Memory, and the layer of a container that goes with the container.
A_BLOCK: Final = 4_096  # bytes
PASSING: Final = {"tmpfs": "memory", "ramfs": "memory", "overlay": "a container's own layer"}


def data_folder(directory: Path) -> Check:
    """Whether it can be written, and only by us."""
    name = "data folder"
    if not directory.exists():
        parent = next(p for p in directory.absolute().parents if p.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            return Check(name, "ok", f"{directory} will be made at the first start")
        return Check(name, "failed", f"{directory} cannot be made", "make it, or set CARDSYNC_DATA_DIR")
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(A_BLOCK))  # a full disk still takes an empty file
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        advice = "let the processes' user write there, or set CARDSYNC_DATA_DIR"
        return Check(name, "failed", f"{directory} cannot be written ({error.strerror})", advice)
    if directory.stat().st_mode & 0o077:
        return Check(name, "warning", f"{directory} is open to other users", f"chmod 700 {directory}")
    return Check(name, "ok", f"{directory} is writable and private")


def spool(loaded: Settings, *, mounts: Path = MOUNTS) -> Check:
    """Whether hints can wait there for the database, for how long, and how many do."""
    name, folder = "spool", loaded.data_dir / FOLDER
    kept = Spool(folder, max_files=loaded.spool_max_files, max_bytes=loaded.spool_max_bytes)
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    try:
        if there == folder.absolute():
            kept.check()
            if folder.stat().st_mode & 0o077:
                return Check(name, "failed", f"{folder} is open to other users", f"chmod 700 {folder}")
        state = kept.state()
        free_bytes = shutil.disk_usage(there).free
        kind = filesystem(there, mounts)
    except SpoolUnusable as error:
        return Check(
            name, "failed", str(error), "hints are lost while the database is away; make room, or mend the disk"
        )
    except OSError as error:
        return Check(
            name, "failed", f"{folder} cannot be looked at ({error.strerror})", "let the processes' user read it"
        )
    if free_bytes < A_BLOCK:
        advice = "hints are lost while the database is away; make room"
        return Check(name, "failed", f"the disk of {there} is full", advice)
    found = f"{state.waiting} hints wait, {free_bytes // 2**20} MiB are free"
    if state.bad:
        advice = "cardsync spool list says why; mend that, then: cardsync spool restore --all"
        return Check(name, "warning", f"{state.bad} hints were set aside; {found}", advice)
    if kind in PASSING:
        advice = "put CARDSYNC_DATA_DIR on a volume that outlasts the process, its container and a restart"
        return Check(name, "warning", f"{there} is on {PASSING[kind]} ({kind}): what waits there can be lost", advice)
    if free_bytes < loaded.spool_max_bytes:
        advice = "make room, or lower CARDSYNC_SPOOL_MAX_BYTES"
        return Check(name, "warning", f"less than CARDSYNC_SPOOL_MAX_BYTES is free; {found}", advice)
    if kind is None:
        return Check(name, "ok", f"{found}; whether its disk lasts cannot be told on this system")
    return Check(name, "ok", f"{found}, on {kind}")


def filesystem(place: Path, mounts: Path = MOUNTS) -> str | None:
    """The kind of file system that a place is on, ``None`` where that cannot be told."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    best, kind = -1, None
    for line in lines:
        before, _, after = line.partition(" - ")
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split(" ")[4]))
        if (
            place.resolve().is_relative_to(point) and len(point.parts) >= best
        ):  # of two at one place the later hides the other
            best, kind = len(point.parts), after.split(" ")[0]
    return kind
