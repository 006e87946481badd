"""``cardsync keys``: keys of the HTTP API. A key is shown once, when it is made, and is not stored."""

from __future__ import annotations

import dataclasses
import uuid
from typing import Final

import click

from cardsync.cli import console
from cardsync.core.card_numbers import looks_like_full_number
from cardsync.errors import Refused
from cardsync.store.access import keys as store
from cardsync.store.access import token_reads

READ_COLUMNS: Final = ("at", "key_id", "name", "card_id")
COLUMNS: Final = (
    *("key_id", "name", "owner", "prefix", "scopes", "calls_per_day", "requests_per_second"),
    *("created_at", "last_used_at", "expires_at", "revoked_at", "held_at"),
)


def check_name(_: click.Context, __: click.Parameter, name: str | None) -> str | None:
    """Refuse a name that is too long, cannot be printed, or looks like a full card number: it is kept for good."""
    if name is None:
        return None
    if not 1 <= len(name) <= store.NAME_MAX or not name.isprintable():
        raise click.BadParameter(f"must be 1 to {store.NAME_MAX} printable characters")
    if looks_like_full_number(name):
        raise click.BadParameter("looks like a full card number")
    return name


@click.group()
def keys() -> None:
    """Create, list, rotate, revoke or release keys of the HTTP API; list the tokens that they read."""


@keys.command()
@click.option("--name", required=True, callback=check_name, help="The service that uses it.")
@click.option("--scope", "scopes", type=click.Choice(store.SCOPES), multiple=True, required=True, help="May repeat.")
@click.option(
    "--owner",
    callback=check_name,
    help="Owner of the key: keys of one owner share idempotency keys; by default the key's name.",
)
@click.option(
    "--expires-in", "days", type=click.IntRange(1, store.LIFE_DAYS_MAX), metavar="DAYS", help="By default never."
)
@click.option(
    "--calls-per-day",
    type=click.IntRange(0, store.CALLS_PER_DAY_MAX),
    help="Calls to Ottu that it may cause; by default a tenth of OTTU_DAILY_CALLS.",
)
@click.option(
    "--requests-per-second",
    type=click.IntRange(1, store.REQUESTS_PER_SECOND_MAX),
    help=f"Requests that it may send; by default {store.REQUESTS_PER_SECOND}.",
)
@console.json_option
def create(
    name: str,
    scopes: tuple[store.Scope, ...],
    owner: str | None,
    days: int | None,
    calls_per_day: int | None,
    requests_per_second: int | None,
    as_json: bool,
) -> None:
    """Make a key and print it, this one time."""
    key = store.new_key()
    terms = store.Terms(
        owner=owner,
        expires_in_days=days,
        calls_per_day=calls_per_day,
        requests_per_second=requests_per_second,
    )
    with console.engine(console.load("database")) as engine, engine.begin() as connection:
        hashed, prefix = store.key_hash(key), store.shown_prefix(key)
        key_id = store.create(connection, name, hashed, scopes, prefix=prefix, terms=terms)
    if as_json:
        facts = {"key": key, "key_id": key_id, "name": name, "owner": owner or name, "scopes": sorted(set(scopes))}
        console.print_json(facts)
        return
    click.echo(key)
    console.note(f"Key {key_id}. It is not shown again.")


@keys.command()
@click.argument("name")
@console.json_option
def rotate(name: str, as_json: bool) -> None:
    """Make a new key for NAME and print it, this one time.

    Owner, scopes and quotas stay. The old key works for another 24 hours, or until it is revoked.
    """
    key = store.new_key()
    with console.engine(console.load("database")) as engine, engine.begin() as connection:
        try:
            rotated = store.rotate(connection, name, key)
        except Refused as error:
            console.fail(str(error))
    if as_json:
        console.print_json({"key": key, "name": name, **dataclasses.asdict(rotated)})
        return
    click.echo(key)
    console.note(f"Key {rotated.key_id}. It is not shown again.")
    console.note(f"Key {rotated.old_key_id} works until {console.rfc3339(rotated.old_expires_at)}.")


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
    """Revoke a key."""
    with console.engine(console.load("database")) as engine, engine.begin() as connection:
        revoked = store.revoke(connection, key_id)
    if not revoked:
        console.fail(f"there is no key {key_id}, or it is revoked already")
    click.echo(f"Key {key_id} is revoked.")


@keys.command()
@click.argument("key_ids", metavar="[KEY_ID]...", type=click.UUID, nargs=-1)
@click.option("--all", "all_of_them", is_flag=True, help="All keys that are held.")
def release(key_ids: tuple[uuid.UUID, ...], all_of_them: bool) -> None:
    """Let keys work again that are held since a backup was restored (`cardsync db restored`).

    First revoke those that were revoked after the backup was made: nothing in it says so.
    """
    if bool(key_ids) is all_of_them:
        raise click.UsageError("name the keys, or say --all")
    with console.engine(console.load("database")) as engine, engine.begin() as connection:
        released = store.release(connection, None if all_of_them else key_ids)
    if missing := [str(key_id) for key_id in key_ids if key_id not in released]:
        console.fail(f"{len(released)} keys are released; {', '.join(missing)}: no such key is held")
    click.echo(f"{len(released)} keys are released.")


@keys.command()
@click.option("--card", "card_id", type=click.UUID, help="Only reads of this card's token.")
@click.option("--key", "key_id", type=click.UUID, help="Only reads by this key.")
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=50,
    show_default=True,
    help="At most this many, the newest first.",
)
@console.json_option
def reads(card_id: uuid.UUID | None, key_id: uuid.UUID | None, limit: int, as_json: bool) -> None:
    """List which key read which card's token over HTTP, the newest first.

    Records are kept for CARDSYNC_READ_RECORD_DAYS. What services read in SQL is not in them.
    """
    with console.engine(console.load("database")) as engine, engine.connect() as connection:
        found = token_reads.listing(connection, card_id=card_id, key_id=key_id, limit=limit)
    rows = [dataclasses.asdict(read) for read in found]
    if as_json:
        console.print_json(rows)
    else:
        console.print_rows(READ_COLUMNS, rows)
