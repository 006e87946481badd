"""``cardsync customers show`` and ``cardsync cards list``: one customer with all cards, found by id or by our number of it.

Log lines name customers by our own number alone; ``--number`` resolves it.
"""

from __future__ import annotations

from typing import Any, Final

import click
from sqlalchemy import Connection

from cardsync.cli import console
from cardsync.cli.console import printable
from cardsync.core import verdict
from cardsync.core.cards import CARD_STATUSES, ENVIRONMENTS, Environment
from cardsync.settings import Settings
from cardsync.store import freshness
from cardsync.store.console import customers as store
from cardsync.store.console.customers import Customer

CARD_COLUMNS: Final = (
    "card_id",
    "status",
    "brand",
    "number",
    "expires_on",
    "is_preferred",
    "agreements",
    "first_seen_at",
    "removed_at",
    "removed_because",
)
environments: Final = click.Choice(sorted(ENVIRONMENTS))
customer_option = click.option(
    "--customer",
    "customer",
    type=(environments, str),
    metavar="ENVIRONMENT ID",
    help="Only those of this customer.",
)


def number_of(connection: Connection, environment: Environment, customer_id: str) -> int:
    """Our number of a customer. Ends the command if the customer is not known."""
    found = freshness.of(connection, environment, customer_id)
    if found is None:
        console.fail("this customer is not known: no notification and no import named it")
    return found.customer


@click.command()
@click.argument("environment", type=environments, required=False)
@click.argument("customer_id", required=False)
@click.option("--number", type=click.IntRange(1), help="Our own number, as log lines have it, in place of both.")
@console.json_option
def show(environment: Environment | None, customer_id: str | None, number: int | None, as_json: bool) -> None:
    """Show a customer: how fresh, why a look is due, and all cards in every state."""
    if (number is None) == (environment is None or customer_id is None):
        raise click.UsageError("give ENVIRONMENT and CUSTOMER_ID, or --number")
    with console.engine(console.load("database")) as engine, engine.connect() as connection:
        if number is None:
            assert environment is not None
            assert customer_id is not None
            number = number_of(connection, environment, customer_id)
        found = store.show(connection, number, personal=True)
    if found is None:
        console.fail(f"there is no customer {number}")
    said = [*verdict.why_due(found.facts), *verdict.of_customer(found.facts)]
    sentences = [one.in_english(printable) for one in said]
    if as_json:
        console.print_json({"customer": found.facts, "said": sentences, "cards": _cards(found)})
        return
    click.echo(" ".join(sentences))
    console.print_facts(found.facts)
    click.echo("")
    _print_cards(found)


def explain_customer(loaded: Settings, environment: Environment, customer_id: str, *, as_json: bool) -> None:
    """Explain a customer: how fresh, why a look is due, and the status of each card."""
    with console.engine(loaded) as engine, engine.connect() as connection:
        found = store.show(connection, number_of(connection, environment, customer_id), personal=True)
    assert found is not None
    said = " ".join(
        one.in_english(printable) for one in (*verdict.why_due(found.facts), *verdict.of_customer(found.facts))
    )
    of_cards = [
        {"card_id": card["card_id"], "verdict": verdict.of_status(card, found.facts).in_english(printable)}
        for card in found.cards
    ]
    if as_json:
        console.print_json({"verdict": said, "customer": found.facts, "cards": of_cards})
        return
    click.echo(said)
    for one in of_cards:
        click.echo(f"{one['card_id']}  {one['verdict']}")
    if not of_cards:
        console.note("No card of this customer was ever named by a notification or shown by a list.")


@click.group()
def cards() -> None:
    """List a customer's cards."""


@cards.command("list")
@click.option(
    "--customer",
    type=(environments, str),
    required=True,
    metavar="ENVIRONMENT ID",
    help="The customer whose cards are meant.",
)
@click.option("--status", type=click.Choice(CARD_STATUSES), help="Only cards in this state.")
@console.json_option
def list_cards(customer: tuple[Environment, str], status: str | None, as_json: bool) -> None:
    """List a customer's cards in every state, without their tokens; removed ones last."""
    with console.engine(console.load("database")) as engine, engine.connect() as connection:
        found = store.show(connection, number_of(connection, *customer), personal=True)
    assert found is not None
    rows = [card for card in _cards(found) if status in (None, card["status"])]
    if as_json:
        console.print_json(rows)
    else:
        console.print_rows(CARD_COLUMNS, rows)


def _cards(found: Customer) -> list[dict[str, Any]]:
    return [dict(card) for card in found.cards]


def _print_cards(found: Customer) -> None:
    console.print_rows(CARD_COLUMNS, _cards(found))
    if found.more_cards:
        console.note(f"There are more than {store.CARDS_MAX} cards.")
