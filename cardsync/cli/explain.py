"""``cardsync explain CARD_ID``: explain a card's current status."""

from __future__ import annotations

import dataclasses
import uuid
from typing import Final

import click

from cardsync.cli import console
from cardsync.cli.console import printable
from cardsync.cli.show_customers import customer_option, explain_customer
from cardsync.core import verdict
from cardsync.core.cards import Environment
from cardsync.store.ops.explain import Facts, History, of_card

CHANGES: Final = ("seq", "at", "change", "fields", "cause")
HINTS: Final = ("evidence_no", "received_at", "status", "result", "state", "payment_type", "event_id", "last_error")
OBSERVATIONS: Final = ("observation_no", "asked_at", "lane", "outcome", "listed", "changed", "removed", "suspicious")

DELETIONS: Final = (
    "deletion_id",
    "requested_at",
    "status",
    "requested_by",
    "attempts",
    "finished_at",
    "error",
    "locked_by",
)


@click.command()
@click.argument("card_id", type=click.UUID, required=False)
@customer_option
@console.json_option
def explain(card_id: uuid.UUID | None, customer: tuple[Environment, str] | None, as_json: bool) -> None:
    """Explain a card's current status: its deletions and changes, the hints that named it, what Ottu was asked.

    With --customer in place of a card: how fresh the customer is, and each card in every state.
    """
    if (card_id is None) == (customer is None):
        raise click.UsageError("give a card's id, or --customer ENVIRONMENT ID")
    loaded = console.load("database")
    if customer is not None:
        explain_customer(loaded, *customer, as_json=as_json)
        return
    assert card_id is not None
    with console.engine(loaded) as engine, engine.connect() as connection:
        found = of_card(connection, card_id, loaded.key_ring() if loaded.secret_key else None)
    if found is None:
        console.fail(f"there is no card {card_id}, and no hint of the last {loaded.inbox_content_days} days named it")
    said = _verdict(found)
    if as_json:
        console.print_json({"verdict": said, **dataclasses.asdict(found)})
        return
    click.echo(said)
    if found.card and found.customer:
        _section("Card", found.card)
        _section("Customer", found.customer)
    for title, columns, rows in (
        ("Deletions, newest first", DELETIONS, found.deletions),
        ("Changes, newest first", CHANGES, found.changes),
        ("Hints that named it, newest first", HINTS, found.hints),
        ("What Ottu was asked of the customer, newest first", OBSERVATIONS, found.observations),
    ):
        click.echo(f"\n{title}: {'' if rows else 'none'}")
        if rows:
            console.print_rows(columns, rows)
    console.note(
        f"Hints are shown for {loaded.inbox_content_days} days, lists that removed nothing for {loaded.inbox_days}."
    )


def _section(title: str, facts: Facts) -> None:
    click.echo(f"\n{title}:")
    console.print_facts(facts)


def _verdict(found: History) -> str:
    """The evidence for the card's status, in a sentence or two."""
    if found.card is None or found.customer is None:
        said = [verdict.DROPPED]
    else:
        open_hints = sum(hint["status"] in ("pending", "failed") for hint in found.hints)
        said = verdict.of_card(found.card, found.customer, open_hints=open_hints, deletions=found.deletions)
    return " ".join(one.in_english(printable) for one in said)
