"""``cardsync keys``: who may use the HTTP API. A key is shown once, when it is made, and kept nowhere."""

from __future__ import annotations

import dataclasses
import uuid
from typing import Final

import click

from cardsync.cli import console
from cardsync.store import keys as store

COLUMNS: Final = ("key_id", "name", "scopes", "created_at", "revoked_at")


@click.group()
def keys() -> None:
    """Create, list or revoke keys of the HTTP API."""


@keys.command()
@click.option("--name", required=True, help="Whose key it is.")
@click.option("--scope", "scopes", type=click.Choice(store.SCOPES), multiple=True, required=True, help="May repeat.")
@console.json_option
def create(name: str, scopes: tuple[store.Scope, ...], as_json: bool) -> None:
    """Make a key and print it, this once."""
    if not 1 <= len(name) <= store.NAME_MAX or not name.isprintable():
        raise click.BadParameter(f"must be 1 to {store.NAME_MAX} printable characters", param_hint="--name")
    key = store.new_key()
    with console.engine(console.load("database")) as engine, engine.begin() as connection:
        key_id = store.create(connection, name, store.key_hash(key), scopes)
    if as_json:
        console.print_json({"key": key, "key_id": key_id, "name": name, "scopes": sorted(set(scopes))})
        return
    click.echo(key)
    console.note(f"Key {key_id}. It is not shown again.")


@keys.command("list")
@console.json_option
def list_keys(as_json: bool) -> None:
    """List all keys ever made, without the keys themselves."""
    with console.engine(console.load("database")) as engine, engine.connect() as connection:
        rows = [dataclasses.asdict(key) for key in store.listing(connection)]
    if as_json:
        console.print_json(rows)
    else:
        console.print_rows(COLUMNS, rows)


@keys.command()
@click.argument("key_id", type=click.UUID)
def revoke(key_id: uuid.UUID) -> None:
    """Let a key open nothing from now on."""
    with console.engine(console.load("database")) as engine, engine.begin() as connection:
        revoked = store.revoke(connection, key_id)
    if not revoked:
        console.fail(f"there is no key {key_id}, or it is revoked already")
    click.echo(f"Key {key_id} is revoked.")
