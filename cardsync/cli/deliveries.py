"""``cardsync deliveries``: notifications on their way to endpoints, without their bodies."""

from __future__ import annotations

from typing import Final

import click

from cardsync.cli import console
from cardsync.store.deliveries import endpoints, listing

COLUMNS: Final = ("delivery_id", "endpoint", "status", "attempts", "made_at", "next_attempt_at", "last_error")
LIST_MAX: Final = 10_000


@click.group()
def deliveries() -> None:
    """List, show or replay deliveries of notifications to endpoints."""


@deliveries.command("list")
@click.option("--endpoint", help="Only deliveries to this endpoint.")
@click.option("--status", type=click.Choice(listing.STATUSES), help="Only deliveries in this state.")
@click.option("--limit", type=click.IntRange(1, LIST_MAX), default=50, show_default=True, help="At most this many.")
@console.json_option
def list_deliveries(endpoint: str | None, status: listing.Status | None, limit: int, as_json: bool) -> None:
    """List deliveries, the newest first."""
    with console.engine(console.load("database")) as engine, engine.connect() as connection:
        rows = listing.listing(connection, endpoint=endpoint, status=status, limit=limit)
    if as_json:
        console.print_json(rows)
    else:
        console.print_rows(COLUMNS, rows)


@deliveries.command()
@click.argument("delivery_id", type=click.IntRange(1, 2**63 - 1), metavar="ID")
@console.json_option
def show(delivery_id: int, as_json: bool) -> None:
    """Show one delivery."""
    with console.engine(console.load("database")) as engine, engine.connect() as connection:
        found = listing.show(connection, delivery_id)
    if found is None:
        console.fail(f"there is no delivery {delivery_id}")
    if as_json:
        console.print_json(found)
    else:
        console.print_facts(found)


@deliveries.command()
@click.argument("delivery_id", type=click.IntRange(1, 2**63 - 1), metavar="[ID]", required=False)
@click.option("--endpoint", help="All failed deliveries to this endpoint, with --failed.")
@click.option("--failed", is_flag=True, help="Goes with --endpoint.")
def replay(delivery_id: int | None, endpoint: str | None, failed: bool) -> None:
    """Send a delivery again, or all failed ones of an endpoint, as far as their bodies are kept."""
    if (delivery_id is None) == (endpoint is None) or failed != (endpoint is not None):
        raise click.UsageError("name one delivery by its ID, or an endpoint with --endpoint NAME --failed")
    with console.engine(console.load("database")) as engine, engine.begin() as connection:
        if endpoint is not None:
            endpoints.show(connection, endpoint)  # raises for a name that is none
            count = listing.replay_failed(connection, endpoint)
            click.echo(f"{count} deliveries are sent again.")
            return
        assert delivery_id is not None
        replayed = listing.replay(connection, delivery_id)
        found = None if replayed else listing.show(connection, delivery_id)
    if not replayed:
        why = "there is none" if found is None else _why_not(bool(found["body_is_kept"]))
        console.fail(f"delivery {delivery_id}: {why}")
    click.echo(f"Delivery {delivery_id} is sent again.")


def _why_not(body_is_kept: bool) -> str:
    return "it is under way, or its endpoint was removed" if body_is_kept else "its body was erased"
