"""``cardsync secret``: change CARDSYNC_SECRET_KEY or CARDSYNC_TOKENS_AT_REST while everything runs (docs/deployment.md)."""

from __future__ import annotations

import dataclasses
from typing import Final

import click

from cardsync.cli import console
from cardsync.store.access import secret_keys
from cardsync.stories import rotate as story

COLUMNS: Final = ("key_id", "added_at", "here")


@click.group()
def secret() -> None:
    """Change CARDSYNC_SECRET_KEY, or show which keys open the database."""


@secret.command()
@console.json_option
def show(as_json: bool) -> None:
    """List the secret keys that open this database, by their ids, and what this process has of them."""
    loaded = console.load("database", "secret")
    ring = loaded.key_ring()
    here = {key.key_id.hex(): "current" if key is ring.current else "previous" for key in ring.keys}
    with console.engine(loaded) as engine, engine.connect() as connection:
        found = secret_keys.known(connection)
    rows = [{**dataclasses.asdict(key), "here": here.get(key.key_id, "no")} for key in found]
    if as_json:
        console.print_json(rows)
    else:
        console.print_rows(COLUMNS, rows)


@secret.command()
@console.json_option
def rotate(as_json: bool) -> None:
    """Make the database know CARDSYNC_SECRET_KEY, encrypt all open hints with it, and store tokens as the settings say.

    CARDSYNC_PREVIOUS_SECRET_KEYS names the key before. CARDSYNC_TOKENS_AT_REST says how cards hold tokens.
    May be interrupted, and run again at any time.
    """
    loaded = console.load("database", "secret")
    ring = loaded.key_ring()
    with console.engine(loaded) as engine, console.progress("hints and cards", None) as advance:
        done = story.rotate(engine, ring, tell=lambda count: advance(count, ""))
    if as_json:
        console.print_json(dataclasses.asdict(done))
    else:
        click.echo(f"{done.written} hints, kept notifications and secrets were encrypted with the current key.")
        how = "encrypted with it" if ring.encrypts_cards else "put in the clear (CARDSYNC_TOKENS_AT_REST)"
        click.echo(f"{done.cards} tokens of cards were {how}.")
    if done.unreadable or done.unreadable_cards:
        console.fail(
            f"{done.unreadable} hints and {done.unreadable_cards} cards can be read with no key that is set here: "
            "name the key before in CARDSYNC_PREVIOUS_SECRET_KEYS"
        )


@secret.command()
@click.option("--yes", is_flag=True, help="Every process runs with the new key, and all spools are empty.")
def retire(yes: bool) -> None:
    """Make the database forget the older keys: from then on they open nothing here."""
    if not yes:
        raise click.UsageError(
            "a process that has only an older key then stops at its next start, and hints on disk that it wrote cannot be "
            "read: see that every process has the new key and cardsync_spool_files is 0, and say --yes"
        )
    loaded = console.load("database", "secret")
    with console.engine(loaded) as engine:
        retired = story.retire(engine, loaded.key_ring())
    click.echo(f"{retired} older keys were retired; take CARDSYNC_PREVIOUS_SECRET_KEYS out of the settings.")
