"""``cardsync customers erase``: erase a person, in both environments.

The request is stored and running workers do it. Waiting only reads, so an interrupted wait changes nothing.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from typing import Any, Final

import click
from sqlalchemy import Engine

from cardsync.cli import console
from cardsync.cli.deletions import key_option, reason_option, refuse_where_ottu_deletes_nothing
from cardsync.core.cards import is_customer_id
from cardsync.core.idempotency import request_hash
from cardsync.store.deletions.erasures import Erasure
from cardsync.store.deletions.requests import Deletion
from cardsync.store.ops import operator
from cardsync.stories import erase as story

COLUMNS: Final = ("deletion_id", "environment", "card_id", "status", "attempts", "error")
POLL_SECONDS: Final = 0.5
ASKER_MAX: Final = 110  # characters


@click.command()
@click.argument("customer_id")
@reason_option
@key_option
@click.option("--wait", is_flag=True, help="Wait until it is done, or needs an operator.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, 86_400),
    default=600.0,
    show_default=True,
    help="Wait at most this many seconds.",
)
@console.json_option
def erase(
    customer_id: str, reason: str | None, idempotency_key: str | None, wait: bool, timeout: float, as_json: bool
) -> None:
    """Delete all cards of CUSTOMER_ID, prove it, and remove names and masked numbers.

    Ottu is asked in both environments, also for an unknown customer. Receipts stay.
    """
    if not is_customer_id(customer_id):
        raise click.BadParameter("must be 1 to 64 storable characters", param_hint="CUSTOMER_ID")
    loaded = console.load("database")
    refuse_where_ottu_deletes_nothing(loaded)
    asker = console.os_user()
    hashed = request_hash(asker, {"kind": "erasure", "customer_id": customer_id, "reason": reason})
    with console.engine(loaded) as engine:
        known_as = f"cli:{asker}"[:ASKER_MAX]
        begun = story.begin(engine, story.Wish(customer_id, asker, reason, idempotency_key, hashed, asker=known_as))
        with engine.begin() as connection:
            operator.let_sweep_ring(connection, begun.customers)  # this command has no bell
        if wait:
            erasure, deletions = _wait(engine, begun.erasure_id, timeout)
        else:
            erasure, deletions = _show(engine, begun.erasure_id)
    _print(erasure, deletions, as_json)
    if wait and erasure.status != "done":
        console.fail(f"the erasure is {erasure.status}: {erasure.error or 'it goes on by itself'}")


def _show(engine: Engine, erasure_id: uuid.UUID) -> tuple[Erasure, list[Deletion]]:
    with engine.connect() as connection:
        return story.show(connection, erasure_id)


def _wait(engine: Engine, erasure_id: uuid.UUID, seconds: float) -> tuple[Erasure, list[Deletion]]:
    """Wait until the erasure is done or needs an operator, or the time is over."""
    deadline = time.monotonic() + seconds
    with console.progress("cards", None) as advance:
        finished = 0
        while True:
            erasure, deletions = _show(engine, erasure_id)
            now = sum(1 for one in deletions if one.status == "done")
            advance(now - finished, f"of {len(deletions)}, {erasure.status}")
            finished = now
            remaining = deadline - time.monotonic()
            if erasure.status != "pending" or remaining <= 0:
                return erasure, deletions
            time.sleep(min(POLL_SECONDS, remaining))


def _print(erasure: Erasure, deletions: list[Deletion], as_json: bool) -> None:
    facts: dict[str, Any] = dataclasses.asdict(erasure)
    rows = [dataclasses.asdict(one) for one in deletions]
    if as_json:
        console.print_json({**facts, "deletions": rows})
        return
    console.print_facts(facts)
    click.echo(f"\nDeletions: {'' if rows else 'none'}")
    if rows:
        console.print_rows(COLUMNS, rows)
