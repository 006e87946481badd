"""``cardsync operators``: the people who may use the console."""

from __future__ import annotations

import base64
import dataclasses
from typing import Final

import click

from cardsync import db
from cardsync.cli import chains, console
from cardsync.cli.keys import check_name
from cardsync.store import seals
from cardsync.store.console import journal
from cardsync.store.console import operators as store
from cardsync.store.console.operators import Role

COLUMNS: Final = ("name", "role", "created_at", "disabled_at", "invited_until", "signed_in_at", "sessions")


@click.group()
def operators() -> None:
    """Invite, list or disable operators of the console; verify their journal."""


@operators.command()
@click.option("--name", required=True, callback=check_name, help="Name of the operator; the journal shows it.")
@click.option("--role", required=True, type=click.Choice(store.ROLES), help="Role of the operator.")
@console.json_option
def invite(name: str, role: Role, as_json: bool) -> None:
    """Print a link that signs NAME in, once and within 24 hours.

    The session lasts 12 hours. Inviting the same name again gives a new link and ends older sessions.
    """
    loaded = console.load("database")
    link = store.new_secret()
    with console.engine(loaded) as engine, engine.begin() as connection:
        operator_id = store.invite(connection, name, role, link, by=console.os_user())
    url = f"{loaded.console_base}/sign-in/{base64.urlsafe_b64encode(link).decode().rstrip('=')}"
    if as_json:
        console.print_json({"url": url, "operator_id": operator_id, "name": name, "role": role})
        return
    click.echo(url)
    console.note(f"It works once, within 24 hours. {console.printable(name)} is {role}; older sessions are ended.")


@operators.command("list")
@console.json_option
def list_operators(as_json: bool) -> None:
    """List all operators, disabled ones too."""
    with console.engine(console.load("database")) as engine, engine.connect() as connection:
        rows = [dataclasses.asdict(one) for one in store.listing(connection)]
    if as_json:
        console.print_json(rows)
    elif rows:
        console.print_rows(COLUMNS, rows)
    else:
        console.note("There are no operators. Invite one: cardsync operators invite --name NAME --role admin")


@operators.command()
@click.argument("name", callback=check_name)
def disable(name: str) -> None:
    """End the sessions and the link of NAME at once, and let no new ones begin."""
    with console.engine(console.load("database")) as engine, engine.begin() as connection:
        disabled = store.disable(connection, name, by=console.os_user())
    if not disabled:
        console.fail("there is no operator of that name, or it is disabled already")
    click.echo(f"{console.printable(name)} is disabled, and signed out everywhere.")


@operators.command()
@chains.noted_option
@console.json_option
def verify(noted_hex: str | None, as_json: bool) -> None:
    """Recompute the chain of the journal, check its seals, and print the hash of its head.

    As for receipts (cardsync deletions verify): a sealed action cannot be changed unseen without CARDSYNC_SECRET_KEY. Keep the
    head's hash somewhere else: it, or the worker's log, shows that the end was cut off.
    """
    noted = chains.noted_hash(noted_hex)
    loaded = console.load("database", "secret")
    with console.engine(loaded) as engine, engine.connect() as connection:
        keys = [seals.JOURNAL.key(key.secret) for key in loaded.key_ring().keys]
        verified = journal.verify(connection, noted=noted, keys=keys)
        now = db.moment(connection)
    chains.tell(seals.JOURNAL, verified, noted=noted, now=now, as_json=as_json)
