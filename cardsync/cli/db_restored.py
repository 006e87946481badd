"""``cardsync db restored``: say that a backup was restored, before any process starts on it."""

from __future__ import annotations

import dataclasses
import datetime as dt

import click

from cardsync import db as database
from cardsync.cli import console
from cardsync.cli.moment import Moment
from cardsync.stories.begin_epoch import Begun, begin_epoch


@click.command()
@click.option(
    "--at",
    "restored_to",
    metavar="T",
    type=Moment(),
    help="Moment that the backup is of: what was made later, by processes that already ran, is not held.",
)
@click.option("--yes", is_flag=True, help="Do it. Without this it is only said what would be done.")
@console.json_option
def restored(restored_to: dt.datetime | None, yes: bool, as_json: bool) -> None:
    """Say that a backup was restored, before any process starts: nothing in it knows what was done since.

    The feed begins a new epoch, and numbers leap ahead. API keys, endpoints, operators, open deletions and erasures are held
    until you look at them: each may have been revoked, removed or done since.
    """
    loaded = console.load("database")
    with console.engine(loaded) as engine:
        at, newest = database.current_revision(engine), database.newest_revision()
        if at != newest:
            console.fail(f"the database is at {at or 'no migration'}, the newest is {newest}; run: cardsync db upgrade")
        if restored_to is not None:
            with engine.connect() as connection:
                now = database.moment(connection)
            if restored_to > now:
                raise click.BadParameter("lies ahead", param_hint="--at")
        begun = begin_epoch(engine, restored_to=restored_to, by=console.os_user(), rehearse=not yes)
    if as_json:
        console.print_json({"done": yes, **dataclasses.asdict(begun)})
    else:
        console.print_facts(dataclasses.asdict(begun))
    _say_what_next(begun, done=yes)


def _say_what_next(begun: Begun, *, done: bool) -> None:
    if not done:
        console.note("Nothing was changed. To do it, with no process running: cardsync db restored --yes")
        return
    steps = {
        "cardsync keys list; revoke what was revoked since; then: cardsync keys release --all": begun.keys_held,
        "cardsync endpoints list; remove or enable each one": begun.endpoints_held,
        "cardsync operators invite each one who may still sign in": begun.operators_disabled,
        "ask again in the console for what was cancelled there": begun.operations_cancelled,
        "cardsync deletions list --status pending; replay or cancel each one": begun.deletions_held,
        "cardsync erasures import FILE, with the newest export": True,
        "cardsync customers erase each person again whose erasure is held, if it is still wanted": begun.erasures_held,
    }
    console.note("Now look at what is held:")
    for step, matters in steps.items():
        if matters:
            console.note(f"  {step}")
