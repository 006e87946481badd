"""``cardsync brake``: the brake that stops removals when the lists of recent looks lack too many cards."""

from __future__ import annotations

import dataclasses

import click

from cardsync.cli import console
from cardsync.core.brake import Limits
from cardsync.settings import Settings
from cardsync.store import brake as store
from cardsync.store.deletions import askers
from cardsync.stories.release_brake import release_brake
from cardsync.stories.release_deletions import release_deletions

SHOWN: int = 10  # on a terminal; JSON has more
ASKERS = ("asker", "held_since", "day", "asked", "deletions_held")
CUSTOMERS = ("customer", "environment", "customer_id", "reconciled_at")


@click.group()
def brake() -> None:
    """Show or release the brakes: on removals, and on requests for deletions."""


@brake.command()
@console.json_option
def show(as_json: bool) -> None:
    """Say whether the brake is on, since when, for which customers, and which list engaged it."""
    loaded = console.load("database")
    limits = _limits(loaded)
    with console.engine(loaded) as engine, engine.connect() as connection:
        state = store.state(connection, limits)
        requests = [dataclasses.asdict(one) for one in askers.held(connection)]
    if as_json:
        facts = {"engaged": state.engaged_at is not None, **dataclasses.asdict(state), **_settings(limits)}
        console.print_json({**facts, "requests": requests})
        return
    click.echo("The brake is on: nothing is removed." if state.engaged_at else "The brake is off.")
    facts = dataclasses.asdict(state)
    console.print_facts({k: v for k, v in facts.items() if k not in ("example", "held", "lost")} | _settings(limits))
    if state.example is not None:
        of = state.example
        click.echo(
            f"\nThe list that engaged it, of {of['environment']} {console.printable(of['customer_id'])} (customer"
            f" {of['customer']}, observation {of['observation_no']}), should have confirmed {of['expected']} cards and"
            f" lacked {of['lacked']}."
        )
    for title, customers in (("Held", state.held), ("Lost cards before it was on", state.lost)):
        if customers:
            click.echo(f"\n{title}, by number:")
            console.print_rows(CUSTOMERS, customers[:SHOWN])
    if state.engaged_at:
        console.note("Look at Ottu's answers first; then let removals go on with: cardsync brake release")
    click.echo("\nRequests for deletions are held of:" if requests else "\nNo requests for deletions are held.")
    if requests:
        console.print_rows(ASKERS, requests)
        console.note(
            "Ask them first; then: cardsync brake release --requests [--asker NAME], or: cardsync deletions cancel ID"
        )


@brake.command()
@click.option(
    "--accept",
    type=click.IntRange(0, 1_000_000),
    default=0,
    metavar="N",
    help="Remove the held cards of at most N customers. Only if you know that the cards are gone.",
)
@click.option("--requests", is_flag=True, help="Release held requests for deletions instead: they are called for.")
@click.option("--asker", help="With --requests: only those of this asker, as `brake show` names it.")
def release(accept: int, requests: bool, asker: str | None) -> None:
    """Let removals go on, watched, and look at the held customers again, a few at a time.

    If the lists still lack cards, the brake is on again after a handful of customers. The brake on requests for deletions is
    another one: it is released with --requests.
    """
    if asker is not None and not requests:
        raise click.UsageError("--asker goes with --requests")
    loaded = console.load("database")
    with console.engine(loaded) as engine:
        if requests:
            freed = release_deletions(engine, by=console.os_user(), asker=asker)
            click.echo(f"{len(freed.askers)} askers are released; {freed.deletions} deletions are called for.")
            if freed.left:
                most = "at least " if freed.left == askers.AT_ONCE else ""
                console.fail(
                    f"{most}{freed.left} are held still, since another session locked them: release them again"
                )
            return
        released = release_brake(engine, _limits(loaded), accept=accept)
    click.echo("The brake is released." if released.was_engaged else "The brake was not on.")
    if released.was_engaged and released.customers_held:
        click.echo(
            f"{released.customers_held} customers are looked at again by and by, {len(released.due_now)} of them now;"
            " see: cardsync brake show"
        )


def _limits(loaded: Settings) -> Limits:
    return Limits(loaded.removal_brake_share, loaded.removal_brake_floor)


def _settings(limits: Limits) -> dict[str, object]:
    return {"share": limits.share, "floor": limits.floor}
