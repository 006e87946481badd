"""``cardsync customers import``: customers that no notification has named yet, from a file. (``erase`` has a module of its own.)

Ottu offers no list of customers: a customer that was neither in a notification nor imported is not known. Importing again changes
nothing, and an interrupted import goes on where it stopped (``cardsync.stories.import_customers``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import click
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from cardsync.cli import console
from cardsync.cli.erase import erase
from cardsync.cli.show_customers import show
from cardsync.core.import_lines import WrongFile
from cardsync.store.ops.imports import ImportState
from cardsync.stories import import_customers as story
from cardsync.stories.import_customers import Refusal, Source

Keep = Callable[[Sequence[Refusal]], None]


@click.group()
def customers() -> None:
    """Show a customer, make customers known, or erase one."""


customers.add_command(erase)
customers.add_command(show)


@customers.command("import")
@click.argument("file", type=click.File("rb"))
@click.option(
    "--bad-lines", type=click.Path(dir_okay=False, path_type=Path), help="Write all bad lines' numbers there."
)
@click.option("--restart", is_flag=True, help="Begin from the start, where an interrupted import would go on.")
@console.json_option
def import_customers(file: BinaryIO, bad_lines: Path | None, restart: bool, as_json: bool) -> None:
    """Make the customers of FILE (or - for standard input) known; they are then looked at like all others.

    FILE is text in UTF-8: CSV with a header that names environment and customer_id (any order; separated by comma,
    semicolon or tab), one customer a line; or JSON lines with these two names. If it is interrupted, the same command goes
    on where it stopped; an import from a pipe begins again.
    """
    source = Source.of(file)
    if bad_lines is not None and bad_lines.exists() and Path(file.name).exists() and bad_lines.samefile(file.name):
        raise click.UsageError("--bad-lines names the file that is to be read")
    if source.content_hash is None:
        console.note("This cannot be resumed: what is read from a pipe begins again after an interruption.")
    with console.engine(console.load("database")) as engine:
        so_far = source.begin(engine, restart=restart)
        if so_far.line:
            console.note(f"Going on after line {so_far.line} (--restart begins from the start).")
        with _kept(bad_lines, after_line=so_far.line) as keep:
            _import(engine, source, so_far, keep, as_json)


def _import(engine: Engine, source: Source, so_far: ImportState, keep: Keep, as_json: bool) -> None:
    interrupted = False
    with console.progress("bytes", source.size) as advance:

        def told(now: ImportState) -> None:
            nonlocal so_far
            advance(now.offset_bytes - so_far.offset_bytes, f"{now.customers} customers")
            so_far = now

        advance(so_far.offset_bytes, "")
        try:
            story.import_customers(engine, source, so_far, keep=keep, told=told)
        except WrongFile as error:
            raise click.UsageError(str(error)) from None
        except KeyboardInterrupt:
            interrupted = True
        except DBAPIError:
            console.note(_stopped(source, so_far))
            raise  # what became of the database, the group says
    _report(so_far, as_json)
    if interrupted:
        console.fail(f"interrupted. {_stopped(source, so_far)}")
    if so_far.bad:
        console.fail(f"{so_far.bad} of {so_far.lines} lines were bad")


def _stopped(source: Source, so_far: ImportState) -> str:
    goes_on = "the same command goes on there" if source.content_hash is not None else "the same command begins again"
    return f"Stopped after line {so_far.line}; {goes_on}."


def _report(summary: ImportState, as_json: bool) -> None:
    facts = asdict(summary)
    if as_json:
        console.print_json({name: facts[name] for name in ("lines", "customers", "new", "bad", "bad_lines")})
    else:
        click.echo(f"{summary.customers} customers, {summary.new} of them new; {summary.bad} bad lines.")
    for bad in summary.bad_lines:
        console.note(f"line {bad['line']}: {bad['reason']}")
    if summary.bad > len(summary.bad_lines):
        console.note(f"... and {summary.bad - len(summary.bad_lines)} more; --bad-lines FILE writes all of them.")


@contextmanager
def _kept(path: Path | None, *, after_line: int) -> Iterator[Keep]:
    """Where bad lines are written, as JSON lines: those after ``after_line`` are written again, since their batch was not
    committed. Raises ``click.UsageError`` if the file to go on with is another's.
    """
    if path is None:
        yield lambda _: None
        return
    with path.open("r+b" if after_line and path.exists() else "wb") as file:
        try:
            file.seek(_end_of_known(file, after_line))
        except (ValueError, LookupError, TypeError):
            raise click.UsageError(f"{path} holds something else than bad lines") from None
        file.truncate()

        def keep(refusals: Sequence[Refusal]) -> None:
            file.writelines(json.dumps(asdict(r)).encode() + b"\n" for r in refusals)
            file.flush()
            os.fsync(file.fileno())  # before the batch is committed: none that is counted is missing here

        yield keep


def _end_of_known(file: BinaryIO, after_line: int) -> int:
    """Where the bad lines up to ``after_line`` end."""
    if not after_line:
        return 0
    end = 0
    for line in file:
        if not line.endswith(b"\n"):  # what a killed run left half written
            break
        if json.loads(line)["line"] > after_line:
            break
        end += len(line)
    return end
