"""``cardsync spool``: notifications that were set aside on this host's disk, without what they say."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
from sqlalchemy.exc import SQLAlchemyError

from cardsync.cli import console
from cardsync.core.spool_format import read_record, read_row
from cardsync.errors import MalformedBody
from cardsync.spool import FOLDER, Spool, names

LIST_COLUMNS: Final = ("id", "event_id", "reason", "written_at", "size_bytes")
LIST_MAX: Final = 10_000
RETRY_SECONDS: Final = 0.5

ids_argument = click.argument("ids", metavar="[ID]...", nargs=-1)
all_option = click.option("--all", "everything", is_flag=True, help="All of them.")


@click.group()
def spool() -> None:
    """List, restore or drop notifications that were set aside on this host's disk.

    A notification is set aside when the database refuses what is in it, or when it is damaged. Those that wait for the database
    are not meant here: a running web process stores them by itself.
    """


@spool.command("list")
@click.option("--limit", type=click.IntRange(1, LIST_MAX), default=50, show_default=True, help="At most this many.")
@console.json_option
def list_set_aside(limit: int, as_json: bool) -> None:
    """List what was set aside, the oldest first: its id, why, and when it was written."""
    rows = [_shown(file) for file in _set_aside(_spool())[:limit]]
    if as_json:
        console.print_json(rows)
    else:
        console.print_rows(LIST_COLUMNS, rows)


@spool.command()
@ids_argument
@all_option
def restore(ids: Sequence[str], everything: bool) -> None:
    """Let notifications wait for the database again. A running web process takes them up within seconds."""
    here = _spool()
    chosen = _chosen(here, ids, everything=everything)
    for file in chosen:
        try:
            here.restore(file)
        except OSError as error:
            console.fail(f"{_id(file)} cannot be restored: {error.strerror}")
    click.echo(f"{len(chosen)} restored.")


@spool.command("drain")
@click.option(
    "--wait",
    "seconds",
    type=click.FloatRange(0, 3_600),
    default=0.0,
    help="Try again for this long until none is left.",
)
def drain_now(seconds: float) -> None:
    """Store what waits on this host's disk for the database, now: before a host or its volume is given up.

    A running web process does so by itself; both take turns. Exit status 1 if something is left.
    """
    from cardsync import db
    from cardsync.spool import ring
    from cardsync.stories.drain import Drained, drain

    loaded = console.load("database", "secret")
    here, keys = _spool(), loaded.key_ring()
    kept = ring.Ring(loaded.data_dir / ring.FOLDER, keep_minutes=loaded.keep_minutes, max_bytes=loaded.spool_max_bytes)
    until = time.monotonic() + seconds
    engine = db.make_engine(loaded.database(), name="cardsync spool", pool_size=1, autocommit=True)
    why, done = "another process is at it", Drained()
    try:
        while not here.is_empty():
            try:
                done += drain(engine, here, keys=keys, kept=kept, ring=_no_bell, rest=_goes_on)
            except (SQLAlchemyError, OSError) as error:
                why = console.database_error(error) or str(error.strerror if isinstance(error, OSError) else error)
            if here.is_empty() or time.monotonic() >= until:
                break
            time.sleep(RETRY_SECONDS)
    finally:
        engine.dispose()
    if not here.is_empty():
        console.fail(f"notifications still wait on this disk: {why}")
    click.echo(f"{done.drained} stored, {done.bad} set aside; none waits.")


def _no_bell() -> None:
    """Workers find what was stored by themselves, within a tenth of a second."""


def _goes_on(_seconds: float) -> bool:
    return False


@spool.command()
@ids_argument
@all_option
def drop(ids: Sequence[str], everything: bool) -> None:
    """Remove notifications for good. What they say is lost, unless Ottu's next list of the customer says it."""
    here = _spool()
    chosen = _chosen(here, ids, everything=everything)
    here.remove(chosen)
    left = [file for file in chosen if file.exists()]
    if left:
        console.fail(f"{_id(left[0])} cannot be removed ({len(left)} in all)")
    click.echo(f"{len(chosen)} dropped.")


def _spool() -> Spool:
    loaded = console.load()
    return Spool(loaded.data_dir / FOLDER, max_files=loaded.spool_max_files, max_bytes=loaded.spool_max_bytes)


def _set_aside(here: Spool) -> list[Path]:
    try:
        return here.set_aside_files()
    except OSError as error:
        console.fail(f"the spool cannot be read: {error.strerror}")


def _chosen(here: Spool, ids: Sequence[str], *, everything: bool) -> list[Path]:
    if everything == bool(ids):
        raise click.UsageError("name the ids that `cardsync spool list` shows, or give --all")
    files = {_id(file): file for file in _set_aside(here)}
    unknown = next((one for one in ids if one not in files), None)
    if unknown is not None:
        console.fail(f"{console.printable(unknown)} is not set aside here")
    return list(files.values()) if everything else [files[one] for one in dict.fromkeys(ids)]


def _id(file: Path) -> str:
    return file.name.removesuffix(names.BAD)


def _shown(file: Path) -> dict[str, Any]:
    """What may be shown of it: no word of the notification's own."""
    try:
        content = file.read_bytes()
        event_id = (read_row if content.startswith(b"{") else read_record)(content).event_id
    except (MalformedBody, OSError):
        event_id = None
    return {
        "id": _id(file),
        "event_id": event_id,
        "reason": names.reason_of(file.name),
        "written_at": names.written_at(file),
        "size_bytes": file.stat().st_size if file.exists() else 0,
    }
