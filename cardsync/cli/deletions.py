"""``cardsync deletions``: request the deletion of a card, follow it, and verify that no receipt was changed.

A request here is the same as over HTTP or in SQL: it is stored, and a running worker does the rest.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Mapping
from typing import Any, Final

import click
from sqlalchemy import Connection

from cardsync import db
from cardsync.cli import chains, console
from cardsync.cli.show_customers import customer_option, number_of
from cardsync.core.card_numbers import looks_like_full_number
from cardsync.core.cards import Environment
from cardsync.core.fields import is_storable
from cardsync.core.idempotency import is_key, request_hash
from cardsync.errors import Misconfigured
from cardsync.settings import Settings
from cardsync.store import seals
from cardsync.store.deletions import receipts
from cardsync.store.deletions import requests as store
from cardsync.store.deletions.requests import Deletion, PublicStatus

LIST_COLUMNS: Final = ("deletion_id", "requested_at", "status", "card_id", "requested_by", "attempts", "error")
LIST_MAX: Final = 10_000
STEP_COLUMNS: Final = ("step_no", "at", "step", "detail")


def check_reason(_: click.Context, __: click.Parameter, reason: str | None) -> str | None:
    """Refuse a reason that is too long, cannot be stored, or looks like a full card number."""
    if reason is None:
        return None
    if len(reason) > store.REASON_MAX or not is_storable(reason):
        raise click.BadParameter(f"must be {store.REASON_MAX} storable characters at most")
    if looks_like_full_number(reason):
        raise click.BadParameter("looks like a full card number")
    return reason


def check_key(_: click.Context, __: click.Parameter, key: str | None) -> str | None:
    """Refuse what cannot be an idempotency key."""
    if key is not None and not is_key(key):
        raise click.BadParameter("must be 1 to 255 visible ASCII characters")
    return key


def refuse_where_ottu_deletes_nothing(loaded: Settings) -> None:
    """Raise ``Misconfigured`` where Ottu offers no API for cards (KSA): a request would wait for ever."""
    if loaded.ottu_cards_api == "unavailable":
        raise Misconfigured("OTTU_CARDS_API is unavailable: no card can be deleted there")


reason_option = click.option("--reason", callback=check_reason, help="Why. It is stored, so write no person's name.")
key_option = click.option("--idempotency-key", callback=check_key, help="The same key again gives the same answer.")


@click.group()
def deletions() -> None:
    """Ask for deletions, list, show, replay or cancel them; verify their receipts."""


@deletions.command()
@click.argument("card_id", type=click.UUID)
@reason_option
@click.option("--when-unlocked", is_flag=True, help="If an agreement locks the card, go on once another took it over.")
@key_option
@console.json_option
def request(
    card_id: uuid.UUID, reason: str | None, when_unlocked: bool, idempotency_key: str | None, as_json: bool
) -> None:
    """Ask for a card's deletion. A running worker takes it up at once."""
    asker = console.os_user()
    wish = {"kind": "deletion", "card_id": str(card_id), "reason": reason, "when_unlocked": when_unlocked}
    loaded = console.load("database")
    refuse_where_ottu_deletes_nothing(loaded)
    with console.engine(loaded) as engine, engine.begin() as connection:
        asked = store.request(
            connection,
            card_id=card_id,
            requested_by=asker,
            reason=reason,
            idempotency_key=idempotency_key,
            request_hash=request_hash(asker, wish) if idempotency_key is not None else None,
            when_unlocked=when_unlocked,
        )
        deletion = _find(connection, asked.deletion_id)
    if as_json:
        console.print_json(dataclasses.asdict(deletion))
        return
    console.print_facts(dataclasses.asdict(deletion))
    if not asked.fresh:
        console.note("It was asked for before.")


@deletions.command("list")
@click.option("--status", type=click.Choice(store.STATUSES), help="Only deletions in this state.")
@customer_option
@click.option("--limit", type=click.IntRange(1, LIST_MAX), default=50, show_default=True, help="At most this many.")
@console.json_option
def list_deletions(
    status: PublicStatus | None, customer: tuple[Environment, str] | None, limit: int, as_json: bool
) -> None:
    """List deletions, the newest first."""
    with console.engine(console.load("database")) as engine, engine.connect() as connection:
        whose = None if customer is None else number_of(connection, *customer)
        found = store.listing(connection, status=status, limit=limit, customer=whose)
    rows = [dataclasses.asdict(one) for one in found]
    if as_json:
        console.print_json(rows)
    else:
        console.print_rows(LIST_COLUMNS, rows)


@deletions.command()
@click.argument("deletion_id", type=click.UUID)
@console.json_option
def show(deletion_id: uuid.UUID, as_json: bool) -> None:
    """Show one deletion and its receipt: every step, with who asked, Ottu's answers, and the list that proved it."""
    with console.engine(console.load("database")) as engine, engine.connect() as connection:
        deletion = _find(connection, deletion_id)
        steps = [_step(one) for one in receipts.steps(connection, deletion_id)]
    if as_json:
        console.print_json({**dataclasses.asdict(deletion), "steps": steps})
        return
    console.print_facts(dataclasses.asdict(deletion))
    click.echo("\nReceipt:")
    console.print_rows(STEP_COLUMNS, [{**step, "detail": _in_words(step["detail"])} for step in steps])


@deletions.command()
@click.argument("deletion_id", type=click.UUID)
def replay(deletion_id: uuid.UUID) -> None:
    """Open a failed or blocked deletion again, or let go one that is held since a restore.

    A running worker takes it up within seconds.
    """
    with console.engine(console.load("database")) as engine, engine.begin() as connection:
        deletion = _find(connection, deletion_id)
        opened = store.replay(connection, deletion_id)
    if not opened:
        console.fail(f"deletion {deletion_id} is {deletion.status}")
    click.echo(f"Deletion {deletion_id} is open again.")


@deletions.command()
@click.argument("deletion_id", type=click.UUID)
def cancel(deletion_id: uuid.UUID) -> None:
    """End a deletion for which Ottu was not called yet, or that is held since a restore; its card is active again."""
    with console.engine(console.load("database")) as engine, engine.begin() as connection:
        deletion = _find(connection, deletion_id)
        cancelled = store.cancel(connection, deletion_id, by=console.os_user())
    if not cancelled:
        console.fail(f"deletion {deletion_id} is {deletion.status}, and Ottu was called for it")
    click.echo(f"Deletion {deletion_id} is cancelled.")


@deletions.command()
@chains.noted_option
@console.json_option
def verify(noted_hex: str | None, as_json: bool) -> None:
    """Recompute the chain of all receipts, check its seals, and print the hash of its head.

    A seal is made with CARDSYNC_SECRET_KEY, about a second after a step. Without that key a sealed step cannot be changed
    unseen, not even by the owner of the database. Keep the head's hash somewhere else: it, or the worker's log, shows that
    the end was cut off.
    """
    noted = chains.noted_hash(noted_hex)
    loaded = console.load("database", "secret")
    with console.engine(loaded) as engine, engine.connect() as connection:
        keys = [seals.RECEIPTS.key(key.secret) for key in loaded.key_ring().keys]
        verified = receipts.verify(connection, noted=noted, keys=keys)
        now = db.moment(connection)
    chains.tell(seals.RECEIPTS, verified, noted=noted, now=now, as_json=as_json)


def _find(connection: Connection, deletion_id: uuid.UUID) -> Deletion:
    deletion = store.show(connection, deletion_id)
    if deletion is None:
        console.fail(f"there is no deletion {deletion_id}")
    return deletion


def _step(step: receipts.Step) -> dict[str, Any]:
    return {**dataclasses.asdict(step), "hash": step.hash.hex()}


def _in_words(detail: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {console.printable(value)}" for name, value in detail.items() if value is not None)
