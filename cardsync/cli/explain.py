"""``cardsync explain CARD_ID``: why the registry says of a card what it says."""

from __future__ import annotations

import dataclasses
import uuid
from typing import Final

import click

from cardsync.cli import console
from cardsync.cli.console import printable
from cardsync.store import history
from cardsync.store.history import Facts, History

CHANGES: Final = ("seq", "at", "change", "fields", "cause")
HINTS: Final = ("evidence_no", "received_at", "status", "result", "state", "payment_type", "event_id", "last_error")
OBSERVATIONS: Final = ("observation_no", "asked_at", "lane", "outcome", "listed", "changed", "removed", "suspicious")


@click.command()
@click.argument("card_id", type=click.UUID)
@console.json_option
def explain(card_id: uuid.UUID, as_json: bool) -> None:
    """Say why the registry says of a card what it says: its changes, the hints, what Ottu was asked."""
    loaded = console.load("database")
    with console.engine(loaded) as engine, engine.connect() as connection:
        found = history.of_card(connection, card_id)
    if found is None:
        console.fail(f"there is no card {card_id}, and no hint of the last {loaded.inbox_content_days} days named it")
    verdict = _verdict(found)
    if as_json:
        console.print_json({"verdict": verdict, **dataclasses.asdict(found)})
        return
    click.echo(verdict)
    if found.card and found.customer:
        _section("Card", found.card)
        _section("Customer", found.customer)
    for title, columns, rows in (
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
    """One sentence of the evidence for what the registry says."""
    card, customer = found.card, found.customer
    if card is None or customer is None:
        return "Dropped: a hint named this card, and no list showed it while it was waited for."
    asked = printable(customer["reconciled_at"])
    open_hints = sum(hint["status"] in ("pending", "failed") for hint in found.hints)
    match card["status"]:
        case "active" if customer["reconciled_at"] is None:
            said = "Active: a verified notification says so; no list was ever believed of this customer."
        case "active":
            said = (
                f"Active since {printable(card['confirmed_at'])}; the list last believed, of {asked}, does not deny it."
            )
        case "unconfirmed":
            said = (
                f"Unconfirmed: a hint of {printable(card['awaited_at'])} named it, no list has shown it yet; "
                f"the customer is looked at again at {printable(customer['due_at'])}."
            )
        case "deleting":
            said = f"Deleting: a deletion was asked for; no list without it has proved it (the last is of {asked})."
        case _ if card["removed_because"] == "requested":
            said = f"Removed at {printable(card['removed_at'])}: it was asked for, and a list without it proved it."
        case _:
            said = f"Removed at {printable(card['removed_at'])}: a complete list no longer had it."
    if customer["dirty_since"] is not None:
        said += f" The customer may differ from Ottu since {printable(customer['dirty_since'])}."
    if customer["removals_held"]:
        said += " The brake holds removals of this customer back (cardsync brake show)."
    if open_hints:
        said += f" {open_hints} hints are still open."
    return said
