"""What commands share: settings, an engine, output for people and for programs, and how to fail.

Data goes to standard output, and everything else to standard error: progress, notes, failures. On a terminal
there are tables and bars; elsewhere plain lines, columns parted by tabs. Texts that others chose (a
customer's id) are shown with their control characters escaped, so that they never control a terminal.
"""

from __future__ import annotations

import datetime as dt
import getpass
import json
import math
import os
import re
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import click
from psycopg import Error as DriverError
from psycopg import errors as driver_errors
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from cardsync import db, settings
from cardsync.settings import Need, Settings

STATEMENT_TIMEOUT_MS: Final = 30_000  # a person waits, and may ask for more than a request may
PLAIN_PROGRESS_SECONDS: Final = 5.0  # between lines of progress where there is no terminal
STILL_THERE_SECONDS: Final = 60.0  # ... if they would say the same again

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class Failed(click.ClickException):
    """What was asked for was not (all) done: one line, exit status 1."""

    exit_code = 1

    def show(self, file: Any = None) -> None:
        click.echo(f"cardsync: {self.message}", file=file, err=file is None)


def load(*needs: Need) -> Settings:
    """Read the settings. Raises ``Misconfigured``, which the group turns into a line and exit status 2."""
    return settings.load(*needs)


@contextmanager
def engine(loaded: Settings, *, connections: int = 2) -> Iterator[Engine]:
    """An engine for the time of one command."""
    made = db.make_engine(
        loaded.database(direct=True),
        name="cardsync cli",
        pool_size=connections,
        statement_timeout_ms=STATEMENT_TIMEOUT_MS,
    )
    try:
        yield made
    finally:
        made.dispose()


def database_error(error: Exception) -> str | None:
    """An error of the database's in one line without values or addresses; ``None`` for any other error."""
    if isinstance(error, PoolTimeout):
        return "the database does not answer: no connection became free"
    if not isinstance(error, DBAPIError | DriverError):
        return "the database's client failed" if isinstance(error, SQLAlchemyError) else None
    origin = error.orig if isinstance(error, DBAPIError) else error
    if (why := db.unusable(error)) is not None:
        return why
    if isinstance(origin, driver_errors.UndefinedTable | driver_errors.InvalidSchemaName):
        return "the database is not migrated; run: cardsync db upgrade"
    if isinstance(origin, driver_errors.InsufficientPrivilege):
        what = origin.diag.message_primary or "permission denied"
        return f"the database's login may not do this ({what}); docs/deployment.md says which login each command needs"
    if isinstance(origin, DriverError) and origin.diag.message_primary:
        # The primary message names things; values stand in the detail, which is left out.
        return f"the database refused: {origin.diag.message_primary}"
    reason = next(iter(str(origin).strip().splitlines()), type(origin).__name__)
    return f"the database does not answer: {reason}"


def printable(value: object) -> str:
    """``value`` as text that is safe on a terminal and stays on one line."""
    if value is None:
        return "-"
    if isinstance(value, dt.datetime):
        return rfc3339(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(printable(v) for v in value) or "-"
    text = str(value)
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def rfc3339(moment: dt.datetime) -> str:
    """A moment in UTC, with ``Z``."""
    return moment.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")


def os_user() -> str:
    """Who asks, for what is kept of a request: the user of this machine."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user may have no name
        return f"cli:{os.getuid()}"


def print_json(value: object) -> None:
    """Print ``value`` as JSON: moments as RFC 3339, in UTC; readable in every script, and without power over a terminal."""
    click.echo(_UNSEEN.sub(_as_escape, json.dumps(value, default=_json, ensure_ascii=False, indent=2)))


# What JSON leaves as it is, and a terminal obeys: DEL, C1 controls, direction marks and other invisible signs.
_UNSEEN: Final = re.compile(
    "[\\x7f-\\x9f\\xad\\u061c\\u180e\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb\\U000e0000-\\U000e007f]"
)


def _as_escape(found: re.Match[str]) -> str:
    """The character as JSON escapes it, so that a program reads the same text."""
    return json.dumps(found[0])[1:-1]


def _json(value: object) -> str:
    if isinstance(value, dt.datetime):
        return rfc3339(value)
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


def print_rows(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    """Print those columns of the rows: a table on a terminal, lines parted by tabs elsewhere. An empty list says so beside it.

    What is too wide for the terminal as a table is printed row by row, a line for each column.
    """
    if not rows:
        note("There is none.")
    console = Console()
    if not console.is_terminal:
        click.echo("\t".join(columns))
        for row in rows:
            click.echo("\t".join(printable(row[c]) for c in columns))
        return
    least = [_least_width(column, rows) for column in columns]
    if rows and sum(least) + len(_GAP) * (len(columns) - 1) > console.width:
        _print_one_by_one(console, columns, rows)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column, width in zip(columns, least, strict=True):
        table.add_column(column, overflow="fold", min_width=width)
    for row in rows:
        table.add_row(*(Text(printable(row[c])) for c in columns))
    console.print(table)


_GAP: Final = "  "  # between columns
_FOLDED_WIDTH: Final = 16  # a moment's date and minutes; narrower than that a text is hard to read


def _least_width(column: str, rows: Sequence[Mapping[str, object]]) -> int:
    """How narrow a column may be: an id of ours that is cut cannot be copied, other texts may be folded."""
    of_cells = (
        len(str(value)) if isinstance(value, uuid.UUID) else min(Text(printable(value)).cell_len, _FOLDED_WIDTH)
        for value in (row[column] for row in rows)
    )
    return max(len(column), max(of_cells, default=0))


def _print_one_by_one(console: Console, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    for number, row in enumerate(rows):
        lines = Table.grid(padding=(0, len(_GAP), 0, 0))
        lines.add_column(style="bold", no_wrap=True)
        lines.add_column(overflow="fold")
        for column in columns:
            lines.add_row(column, Text(printable(row[column])))
        if number:
            console.print()
        console.print(lines)


def print_facts(facts: Mapping[str, object]) -> None:
    """Print one thing's facts, a line each."""
    width = max((len(name) for name in facts), default=0)
    for name, value in facts.items():
        click.echo(f"{name:<{width}}  {printable(value)}")


def note(text: str) -> None:
    """Say something beside the data."""
    click.echo(text, err=True)


@contextmanager
def told_to_stop(stopping: threading.Event) -> Iterator[None]:
    """Let SIGINT and SIGTERM set the event; a second one ends the process as it would any other."""
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}

    def stop(_number: int, _frame: object) -> None:
        stopping.set()
        for kind, handler in before.items():
            signal.signal(kind, handler)

    for kind in before:
        signal.signal(kind, stop)
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def fail(text: str) -> NoReturn:
    """End the command with one line and exit status 1."""
    raise Failed(text)


def duration(seconds: float) -> str:
    """A time in its largest unit, rounded up: ``40 s``, ``3 min``, ``5 h``, ``12 days``."""
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{math.ceil(seconds / size)} {unit}"
    return f"{math.ceil(seconds)} s"


@contextmanager
def progress(label: str, total: int | None, *, time_to_go: bool = True) -> Iterator[Callable[[int, str], None]]:
    """Show the progress of a long command on standard error; call the yielded function with steps and a remark.

    Without ``time_to_go`` no time left is shown, because the speed so far does not predict the rest; the remark says what is
    known.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain_progress(label, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *((TimeRemainingColumn(),) if time_to_go else ()),
        TextColumn("{task.fields[remark]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=total, remark="")
        yield lambda steps, remark: bar.update(task, advance=steps, remark=remark)


def _plain_progress(label: str, total: int | None) -> Callable[[int, str], None]:
    done, said, line = 0, time.monotonic(), ""

    def advance(steps: int, remark: str) -> None:
        nonlocal done, said, line
        done += steps
        of_all = f" of {total}" if total is not None else ""
        now = f"{label}: {done}{of_all}{f', {remark}' if remark else ''}"
        if time.monotonic() - said >= (PLAIN_PROGRESS_SECONDS if now != line else STILL_THERE_SECONDS):
            said, line = time.monotonic(), now
            note(line)

    return advance
