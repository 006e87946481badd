"""``cardsync erasures``: receipts of erasures, kept outside of the database, for the day on which an old backup is restored."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterator
from typing import BinaryIO

import click

from cardsync.cli import console
from cardsync.cli.moment import Moment
from cardsync.core import erasure_receipt
from cardsync.core.erasure_receipt import Receipt
from cardsync.errors import MalformedBody
from cardsync.store.deletions import erasures_again
from cardsync.stories.erase_again import erase_again

LINES_SHOWN = 10  # of those that cannot be read


@click.group()
def erasures() -> None:
    """Export receipts of erasures, or erase again the persons that a restored backup brought back."""


@erasures.command()
@click.option("--since", metavar="T", type=Moment(), help="Only those that were done, or asked for, since then.")
def export(since: dt.datetime | None) -> None:
    """Print a receipt of each erasure, one JSON object a line, to be kept outside of the database and of its backups.

    Each is sealed with CARDSYNC_SECRET_KEY. It names the customer's id, and nothing else of the person.
    """
    loaded = console.load("database", "secret")
    secret = loaded.key_ring().current.secret
    with console.engine(loaded) as engine, engine.connect() as connection:
        for receipt in erasures_again.receipts(connection, since):
            click.echo(erasure_receipt.line(receipt, secret))


@erasures.command("import")
@click.argument("file", type=click.File("rb"))
@console.json_option
def import_receipts(file: BinaryIO, as_json: bool) -> None:
    """Erase again the persons that a restored backup brought back, by the receipts in FILE (or - for standard input).

    What the backup knows of them goes; nothing is deleted at Ottu, and a card that was saved since comes back with the next list.
    May be run again at any time. CARDSYNC_PREVIOUS_SECRET_KEYS names older keys that receipts were sealed with.
    """
    loaded = console.load("database", "secret")
    secrets = [key.secret for key in loaded.key_ring().keys]
    bad: list[tuple[int, str]] = []
    with console.engine(loaded) as engine:
        done = erase_again(engine, _receipts(file, secrets, bad))
    if as_json:
        facts = {"erased": done.erased, "known": done.known, "open": [dataclasses.asdict(one) for one in done.open]}
        console.print_json({**facts, "bad_lines": len(bad)})
    else:
        click.echo(f"{done.erased} persons were erased again; {done.known} erasures were known.")
        for one in done.open:
            asked = f"asked for {console.rfc3339(one.requested_at)}"
            console.note(f"Not done when the file was written: {console.printable(one.customer_id)}, {asked}")
    for number, why in bad[:LINES_SHOWN]:
        console.note(f"line {number}: {why}")
    if bad:
        console.fail(f"{len(bad)} lines were passed over")


def _receipts(file: BinaryIO, secrets: list[bytes], bad: list[tuple[int, str]]) -> Iterator[Receipt]:
    """The receipts of a file; lines that are none go to ``bad``, with their number and why."""
    number = 0
    while text := file.readline(erasure_receipt.LINE_MAX_BYTES + 1):
        number += 1
        if not text.strip():
            continue
        try:
            yield erasure_receipt.read(text, secrets)
        except MalformedBody as error:
            bad.append((number, str(error)))
        while text and len(text) > erasure_receipt.LINE_MAX_BYTES and not text.endswith(b"\n"):
            text = file.readline(erasure_receipt.LINE_MAX_BYTES + 1)  # the rest of a line that is too long
