"""``cardsync brake``: the brake that stops removals when a pass of sweeps would remove too much at once."""

from __future__ import annotations

import click

from cardsync.cli import console
from cardsync.store import customers, gate, operator
from cardsync.store.brake import release_brake


@click.group()
def brake() -> None:
    """Show or release the brake on removals."""


@brake.command()
@console.json_option
def show(as_json: bool) -> None:
    """Say whether the brake is on, and what it holds back."""
    with console.engine(console.load("database")) as engine, engine.connect() as connection:
        state = gate.state(connection)
        held = operator.customers_held(connection)
    facts = {
        "engaged_at": state.brake_engaged_at,
        "customers_held": held,
        "pass_cards": state.pass_cards,
        "pass_removed": state.pass_removed,
    }
    if as_json:
        console.print_json({"engaged": state.brake_engaged_at is not None, **facts})
        return
    click.echo("The brake is on: nothing is removed." if state.brake_engaged_at else "The brake is off.")
    console.print_facts(facts)
    if state.brake_engaged_at:
        console.note("Look at Ottu's answers first; then let removals go on with: cardsync brake release")


@brake.command()
def release() -> None:
    """Let removals go on, counted from zero, and have the customers looked at again whom the brake held."""
    with console.engine(console.load("database")) as engine, engine.begin() as connection:
        held = customers.release_held(connection)  # customers before the gate: the order in which all others lock them
        was_on = release_brake(connection)
    click.echo("The brake is released." if was_on else "The brake was not on.")
    if held:
        click.echo(f"{held} customers are looked at again.")
