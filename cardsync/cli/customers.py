"""``cardsync customers import``: customers whom no notification has named yet, from a file. (``erase`` stands in its own.)

Ottu offers no list of customers: who is neither hinted at nor imported is not known. The file is streamed; a
line stands for itself, so a broken one costs that line alone. Importing again changes nothing.
"""

from __future__ import annotations

import csv
import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import BinaryIO, Final

import click
from sqlalchemy import Engine

from cardsync.cli import console
from cardsync.cli.erase import erase
from cardsync.core.cards import CUSTOMER_ID_MAX, ENVIRONMENTS, Environment, is_customer_id
from cardsync.store import customers as store

BATCH: Final = 10_000  # customers in one transaction
BAD_LINES_SHOWN: Final = 20
LINE_MAX: Final = 65_536  # bytes; what is longer is no customer
COLUMNS: Final = ("environment", "customer_id")

Customer = tuple[Environment, str]
Reader = Callable[[str], Customer]


class _BadLine(ValueError):
    """The line names no customer; the text says why, without what stands there."""


@dataclass(slots=True)
class _Summary:
    """What became of the file's lines."""

    lines: int = 0
    customers: int = 0
    new: int = 0
    bad: int = 0
    bad_lines: list[dict[str, object]] = field(default_factory=list)

    def refuse(self, number: int, why: str) -> None:
        self.bad += 1
        if len(self.bad_lines) < BAD_LINES_SHOWN:
            self.bad_lines.append({"line": number, "reason": why})


@click.group()
def customers() -> None:
    """Make customers known, or erase one."""


customers.add_command(erase)


@customers.command("import")
@click.argument("file", type=click.File("rb"))
@console.json_option
def import_customers(file: BinaryIO, as_json: bool) -> None:
    """Make the customers of FILE (or - for standard input) known, who are then looked at like all others.

    FILE is CSV with a header that names environment and customer_id, one customer a line; or JSON lines with
    these two names.
    """
    with console.engine(console.load("database")) as engine:
        summary = _import(engine, file)
    if as_json:
        console.print_json(asdict(summary))
    else:
        click.echo(f"{summary.customers} customers, {summary.new} of them new; {summary.bad} bad lines.")
    for bad in summary.bad_lines:
        console.note(f"line {bad['line']}: {bad['reason']}")
    if summary.bad:
        console.fail(f"{summary.bad} of {summary.lines} lines were bad")


def _import(engine: Engine, file: BinaryIO) -> _Summary:
    summary, batch = _Summary(), list[Customer]()
    with console.progress("bytes", _size(file)) as advance:
        read: Reader | None = None
        for number, line, length in _lines(file):
            advance(length, f"{summary.customers} customers")
            if not line.strip():
                continue
            if read is None:
                read, is_header = _reader_for(line)
                if is_header:
                    continue
            summary.lines += 1
            try:
                batch.append(read(line))
            except _BadLine as bad:
                summary.refuse(number, str(bad))
            if len(batch) >= BATCH:
                _add(engine, batch, summary)
        _add(engine, batch, summary)
    return summary


def _add(engine: Engine, batch: list[Customer], summary: _Summary) -> None:
    if batch:
        with engine.begin() as connection:
            summary.new += store.add_known(connection, batch)
        summary.customers += len(batch)
        batch.clear()


def _lines(file: BinaryIO) -> Iterator[tuple[int, str, int]]:
    """Lines with their numbers and lengths. What is no UTF-8 becomes what no check lets pass."""
    number = 0
    while raw := file.readline(LINE_MAX):
        number += 1
        length = len(raw)
        if length == LINE_MAX and not raw.endswith(b"\n"):
            raw = b"\0"
            while rest := file.readline(LINE_MAX):
                length += len(rest)
                if rest.endswith(b"\n"):
                    break
        text = raw.decode("utf-8", "surrogateescape").rstrip("\r\n")
        yield number, text.removeprefix("\ufeff") if number == 1 else text, length


def _size(file: BinaryIO) -> int | None:
    """The bytes to come; ``None`` for a pipe."""
    try:
        status = os.fstat(file.fileno())
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _reader_for(first_line: str) -> tuple[Reader, bool]:
    """How to read the lines, and whether the first one was a header."""
    if first_line.lstrip().startswith("{"):
        return _read_json, False
    try:
        header = [name.strip().lower() for name in _csv_fields(first_line)]
    except _BadLine:
        header = []
    if any(header.count(column) != 1 for column in COLUMNS):
        raise click.UsageError("the first line must be a header that names environment and customer_id")
    places = [header.index(column) for column in COLUMNS]

    def read_csv(line: str) -> Customer:
        fields = _csv_fields(line)
        if len(fields) != len(header):
            raise _BadLine(f"{len(fields)} fields where the header has {len(header)}")
        return _customer(fields[places[0]], fields[places[1]])

    return read_csv, True


def _csv_fields(line: str) -> list[str]:
    """One line's fields. A quote that is not closed ends with its line: it must not swallow those that follow."""
    try:
        return next(csv.reader([line], strict=True))
    except (csv.Error, StopIteration):
        raise _BadLine("not a line of CSV") from None


def _read_json(line: str) -> Customer:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        raise _BadLine("not JSON") from None
    if not isinstance(content, dict):
        raise _BadLine("not a JSON object")
    return _customer(content.get("environment"), content.get("customer_id"))


def _customer(environment: object, customer_id: object) -> Customer:
    known: Environment | None = next((e for e in ENVIRONMENTS if e == environment), None)
    if known is None:
        raise _BadLine(f"environment must be {' or '.join(ENVIRONMENTS)}")
    if not isinstance(customer_id, str) or not is_customer_id(customer_id):
        raise _BadLine(f"customer_id must be a text of 1 to {CUSTOMER_ID_MAX} characters")
    return known, customer_id
