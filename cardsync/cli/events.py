"""``cardsync events``: the notifications that were received, without the cards in their hints."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Final, get_args

import click

from cardsync.cli import console
from cardsync.cli.moment import Moment
from cardsync.cli.show_customers import customer_option
from cardsync.core.cards import Environment
from cardsync.store import inbox
from cardsync.store.console.customers import identity_of_card

LIST_COLUMNS: Final = ("event_id", "received_at", "status", "kind", "environment", "customer_id", "last_error")
LIST_MAX: Final = 10_000


@click.group()
def events() -> None:
    """List, show or replay notifications."""


@events.command("list")
@click.option("--status", type=click.Choice(get_args(inbox.Status)), help="Only notifications in this state.")
@customer_option
@click.option("--card", "card_id", type=click.UUID, help="Only those that named this card.")
@click.option("--session", "session_id", help="Only those of this payment.")
@click.option(
    "--since", metavar="T", type=Moment(utc=True), help="Only those received since then; in UTC without an offset."
)
@click.option("--limit", type=click.IntRange(1, LIST_MAX), default=50, show_default=True, help="At most this many.")
@console.json_option
def list_events(
    status: inbox.Status | None,
    customer: tuple[Environment, str] | None,
    card_id: uuid.UUID | None,
    session_id: str | None,
    since: dt.datetime | None,
    limit: int,
    as_json: bool,
) -> None:
    """List notifications, the newest first.

    A notification keeps what it says of a customer, a payment and a card for CARDSYNC_INBOX_CONTENT_DAYS.
    """
    with console.engine(console.load("database")) as engine, engine.connect() as connection:
        if card_id is not None and customer is None:
            customer = identity_of_card(connection, card_id)
        wanted = inbox.Wanted(
            status=status,
            customer=customer,
            session_id=session_id,
            card_id=card_id,
            since=since,
        )
        rows = inbox.listing(connection, wanted, limit=limit)
    if as_json:
        console.print_json(rows)
    else:
        console.print_rows(LIST_COLUMNS, rows)


@events.command()
@click.argument("event_id", type=click.UUID)
@console.json_option
def show(event_id: uuid.UUID, as_json: bool) -> None:
    """Show one notification."""
    with console.engine(console.load("database")) as engine, engine.connect() as connection:
        event = inbox.show(connection, event_id)
    if event is None:
        console.fail(f"there is no event {event_id}")
    if as_json:
        console.print_json(event)
    else:
        console.print_facts(event)


@events.command()
@click.argument("event_id", type=click.UUID)
def replay(event_id: uuid.UUID) -> None:
    """Open a failed notification again. A running worker takes it up within seconds: beat rings for it."""
    with console.engine(console.load("database")) as engine, engine.begin() as connection:
        opened = inbox.replay(connection, event_id)
        event = None if opened else inbox.show(connection, event_id)
    if not opened:
        console.fail(f"event {event_id} is {event['status']}" if event else f"there is no event {event_id}")
    click.echo(f"Event {event_id} is open again; a worker takes it up within seconds, if beat runs.")
