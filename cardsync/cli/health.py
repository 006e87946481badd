"""``cardsync health``: is this host's worker or beat at work? For a supervisor's check, which starts again what is not."""

from __future__ import annotations

import click

from cardsync.cli import console
from cardsync.store import heartbeats
from cardsync.store.heartbeats import KINDS, Heartbeat, Kind


@click.command()
@click.argument("kind", type=click.Choice(KINDS))
@click.option(
    "--pid", type=click.IntRange(min=1), help="Ask for this process alone; else one of the kind on this host is enough."
)
@console.json_option
def health(kind: Kind, pid: int | None, as_json: bool) -> None:
    """Ask the database whether a worker or beat of this host was at work in the last 30 seconds.

    A database that does not answer, or is not migrated yet, says nothing of the process: then the exit status is 0 too, so that
    no supervisor ends healthy processes while the database is away. A clock of the host that is wrong is told, and the status is
    0: a process that is started again has the same clock.
    """
    loaded = console.load("database")
    try:
        with console.engine(loaded) as engine, engine.connect() as connection:
            found = heartbeats.read(connection)
    except Exception as error:
        line = console.database_error(error)
        if line is None:
            raise
        _say(as_json, None, f"unknown: {line}")
        return
    mine = [one for one in found if one.process.kind == kind and _is_asked_for(one, pid)]
    at_work = [one for one in mine if not one.is_missed]
    if not at_work:
        age = f"; the last heartbeat is {mine[0].seconds_ago:.0f} s old" if mine else "; it never had a heartbeat"
        if as_json:
            _say(as_json, False, f"no {kind} is at work{age}")
        console.fail(f"no {kind} of this host is at work{age}")
    wrong = heartbeats.wrong_clocks(at_work)
    clock = f"; this host's clock differs by {wrong[0].clock_ahead_seconds:+.0f} s from the database's" if wrong else ""
    _say(as_json, True, f"{len(at_work)} at work; heartbeat {at_work[0].seconds_ago:.0f} s ago{clock}")


def _is_asked_for(one: Heartbeat, pid: int | None) -> bool:
    return one.process.host == heartbeats.this_host() and pid in (None, one.process.pid)


def _say(as_json: bool, healthy: bool | None, found: str) -> None:
    if as_json:
        console.print_json({"healthy": healthy, "found": found})
    else:
        click.echo(found)
