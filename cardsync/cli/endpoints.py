"""``cardsync endpoints``: where notifications and changes are sent to. A secret is shown once, when it is made."""

from __future__ import annotations

import dataclasses
from typing import Final

import click

from cardsync.cli import console
from cardsync.cli.keys import check_name
from cardsync.core import delivery
from cardsync.errors import Refused
from cardsync.outgoing.addresses import require_url
from cardsync.store.deliveries import endpoints as store
from cardsync.stories import endpoints as story
from cardsync.stories.endpoints import NewEndpoint
from cardsync.stories.try_endpoint import try_endpoint

COLUMNS: Final = ("name", "kind", "status", "pending", "failed", "behind", "delivered_at", "last_error", "url")


@click.group()
def endpoints() -> None:
    """Add, list, show, test, disable, enable, rotate or remove endpoints, which get notifications or changes."""


def _check_url(_: click.Context, __: click.Parameter, url: str) -> str:
    try:
        require_url(url)
    except Refused as error:
        raise click.BadParameter(str(error)) from None
    return url


@endpoints.command()
@click.option("--name", required=True, callback=check_name, help="A name for logs and metrics.")
@click.option("--url", required=True, callback=_check_url, help="https, or http to a loopback or private address.")
@click.option(
    "--kind",
    type=click.Choice(delivery.KINDS),
    required=True,
    help="Messages that the endpoint gets: notifications or changes.",
)
@click.option(
    "--from-seq",
    type=click.IntRange(0, 2**63 - 1),
    help="Of kind changes: begin after this change; by default only with new ones.",
)
@console.json_option
def add(name: str, url: str, kind: delivery.Kind, from_seq: int | None, as_json: bool) -> None:
    """Add an endpoint and print its secret, this one time. Each message to it is signed with that."""
    if from_seq is not None and kind != "changes":
        raise click.BadParameter("only an endpoint of kind changes has a place in the feed", param_hint="--from-seq")
    loaded = console.load("database", "secret")
    with console.engine(loaded) as engine:
        added = story.add(engine, NewEndpoint(name, url, kind, from_seq), loaded.key_ring())
    if as_json:
        facts = {"endpoint_id": added.endpoint_id, "secret": added.secret, "name": name, "kind": kind, "url": url}
        console.print_json(facts)
        return
    click.echo(added.secret)
    console.note(f"Endpoint {added.endpoint_id}. The secret is not shown again.")


@endpoints.command("list")
@console.json_option
def list_endpoints(as_json: bool) -> None:
    """List all endpoints, without their secrets."""
    with console.engine(console.load("database")) as engine, engine.connect() as connection:
        rows = [dataclasses.asdict(one) for one in store.listing(connection)]
    if as_json:
        console.print_json(rows)
    else:
        console.print_rows(COLUMNS, rows)


@endpoints.command()
@click.argument("name")
@console.json_option
def show(name: str, as_json: bool) -> None:
    """Show one endpoint: how far it is behind, and why."""
    with console.engine(console.load("database")) as engine, engine.connect() as connection:
        found = dataclasses.asdict(store.show(connection, name))
    if as_json:
        console.print_json(found)
    else:
        console.print_facts(found)


@endpoints.command()
@click.argument("name")
@console.json_option
def test(name: str, as_json: bool) -> None:
    """Send one signed message of type cardsync.test now, and say how it was answered. A disabled endpoint gets it too."""
    loaded = console.load("database", "secret")
    with console.engine(loaded) as engine:
        with engine.connect() as connection:
            found = store.show(connection, name)
        ended = try_endpoint(engine, name, loaded.key_ring())
    if as_json:
        console.print_json({"endpoint_id": found.endpoint_id, "status": ended.status, "error": ended.error})
    elif ended.error is None:
        click.echo(f"{name} answered {ended.status}.")
    if delivery.verdict(ended.status) != "delivered":
        console.fail(f"{name} did not take it: {ended.error or f'answered {ended.status}'}")


@endpoints.command()
@click.argument("name")
def disable(name: str) -> None:
    """Send nothing more to NAME. Notifications queue for three days; the place in the feed is kept."""
    _change(name, "disabled", store.disable, "it is disabled already")


@endpoints.command()
@click.argument("name")
def enable(name: str) -> None:
    """Go on sending to NAME, from where it was left."""
    _change(name, "enabled", store.enable, "it is not disabled")


@endpoints.command()
@click.argument("name")
def remove(name: str) -> None:
    """Remove NAME. What waits for it is given up."""
    _change(name, "removed", store.remove, "it cannot be removed")


def _change(name: str, done: str, change: store.Change, why_not: str) -> None:
    with console.engine(console.load("database")) as engine, engine.begin() as connection:
        store.show(connection, name)  # raises for a name that is none
        changed = change(connection, name)
    if not changed:
        console.fail(f"endpoint {name}: {why_not}")
    click.echo(f"Endpoint {name} is {done}.")


@endpoints.command()
@click.argument("name")
@console.json_option
def rotate(name: str, as_json: bool) -> None:
    """Make a new secret for NAME and print it, this one time. The old one signs beside it for 24 hours."""
    loaded = console.load("database", "secret")
    with console.engine(loaded) as engine:
        rotated = story.rotate(engine, name, loaded.key_ring())
    if as_json:
        console.print_json(dataclasses.asdict(rotated))
        return
    click.echo(rotated.secret)
    console.note(f"It is not shown again. The old secret signs beside it until {console.rfc3339(rotated.old_until)}.")
