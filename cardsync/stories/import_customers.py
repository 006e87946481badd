"""``import_customers``: make the customers of a file known, a batch at a time, and go on where an interrupted run stopped.

How far the file is read is written in the transaction of the batch, under the SHA-256 of the whole file: a run again
goes on after the last batch, a changed file begins from the start, and nothing is counted twice. A pipe has no such name, so a
run from a pipe cannot go on. Memory holds one batch, whatever the file's size. An offset is always the end of a line, which is
why a value in quotes ends on its line, and why files in UTF-16 or gzip are refused (``core.import_lines``).

The whole file is hashed, not its ends: that takes a second for 10 million lines, and an edited line in the middle is not skipped
without a word.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from sqlalchemy import Engine

from cardsync.core.import_lines import BadLine, Customer, Reader, WrongFile, is_blank, reader_for
from cardsync.store import customers
from cardsync.store.ops import imports
from cardsync.store.ops.imports import ImportState

# Lines in one transaction: a second's work, which is what an interruption costs, and a few megabytes. Larger batches were
# not faster.
BATCH_LINES: Final = 20_000
BAD_LINES_KEPT: Final = 20
BYTE_ORDER_MARK: Final = "\ufeff"  # with which spreadsheets begin what they export
HASH_BYTES: Final = 1_048_576  # read at once
LINE_MAX: Final = 65_536  # bytes; what is longer is no customer
KIND_BYTES: Final = 16  # kept of a line that is too long: they tell what kind of file this is


@dataclass(frozen=True, slots=True)
class Refusal:
    """A bad line, and why it is one, without what stands there."""

    line: int
    reason: str


@dataclass(slots=True)
class _Batch:
    """Some lines, read; ``offset_bytes`` and ``line`` are where they end."""

    offset_bytes: int
    line: int
    lines: int = 0
    customers: list[Customer] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Source:
    """A file, open for reading bytes. ``content_hash`` and ``size`` are ``None`` for a pipe, which is read once."""

    file: BinaryIO
    size: int | None
    content_hash: bytes | None

    @classmethod
    def of(cls, file: BinaryIO) -> Source:
        """Look at what is open, and hash it if it is a file that can be read again."""
        try:
            status = os.fstat(file.fileno())
            again = stat.S_ISREG(status.st_mode) and file.tell() == 0
        except OSError:  # it stands on nothing of the system's
            again = False
        if not again:
            return cls(file, None, None)
        digest = hashlib.sha256()
        while block := file.read(HASH_BYTES):
            digest.update(block)
        file.seek(0)
        return cls(file, status.st_size, digest.digest())

    def begin(self, engine: Engine, *, restart: bool) -> ImportState:
        """How far it was read before."""
        if self.content_hash is None:
            return ImportState()
        with engine.begin() as connection:
            return imports.begin(connection, self.content_hash, restart=restart)


def import_customers(
    engine: Engine,
    source: Source,
    so_far: ImportState,
    *,
    keep: Callable[[Sequence[Refusal]], None],
    told: Callable[[ImportState], None],
) -> ImportState:
    """Read on from ``so_far`` to the end. Each batch's bad lines go to ``keep`` before it is committed, its state to ``told``
    after. Raises ``WrongFile`` (of another kind, or empty), and ``Superseded`` if another process imports the same file.
    """
    for batch in _batches(source.file, so_far):
        keep(batch.refusals)
        with engine.begin() as connection:
            new = customers.add_known(connection, batch.customers) if batch.customers else 0
            after = _after(so_far, batch, new)
            if source.content_hash is not None:
                imports.advance(connection, source.content_hash, so_far, after)
        so_far = after
        told(so_far)
    if source.content_hash is not None:
        with engine.begin() as connection:
            imports.forget(connection, source.content_hash)
    return so_far


def _after(before: ImportState, batch: _Batch, new: int) -> ImportState:
    shown = [{"line": r.line, "reason": r.reason} for r in batch.refusals[:BAD_LINES_KEPT]]
    return ImportState(
        offset_bytes=batch.offset_bytes,
        line=batch.line,
        lines=before.lines + batch.lines,
        customers=before.customers + len(batch.customers),
        new=before.new + new,
        bad=before.bad + len(batch.refusals),
        bad_lines=[*before.bad_lines, *shown][:BAD_LINES_KEPT],
    )


def _batches(file: BinaryIO, so_far: ImportState) -> Iterator[_Batch]:
    read: Reader | None = None
    if so_far.offset_bytes:
        read = _reader(file)
        file.seek(so_far.offset_bytes)
    batch = _Batch(so_far.offset_bytes, so_far.line)
    for text, length in _lines(file):
        batch.offset_bytes += length
        batch.line += 1
        text = text if batch.line > 1 else text.removeprefix(BYTE_ORDER_MARK)
        if is_blank(text):
            continue
        if read is None:
            read, is_header = _reader_for(text, batch.line)
            if is_header:
                continue
        batch.lines += 1
        try:
            batch.customers.append(read(text))
        except BadLine as bad:
            batch.refusals.append(Refusal(batch.line, str(bad)))
        if batch.lines >= BATCH_LINES:
            yield batch
            batch = _Batch(batch.offset_bytes, batch.line)
    if read is None:
        raise WrongFile("the file is empty")
    if batch.lines:
        yield batch


def _reader(file: BinaryIO) -> Reader:
    """How the file's lines are read, from its first one that is not empty."""
    lines = (text.removeprefix(BYTE_ORDER_MARK) for text, _ in _lines(file))
    return reader_for(next(text for text in lines if not is_blank(text)))[0]


def _reader_for(text: str, line: int) -> tuple[Reader, bool]:
    try:
        return reader_for(text)
    except WrongFile as error:
        raise type(error)(f"line {line}: {error}") from None


def _lines(file: BinaryIO) -> Iterator[tuple[str, int]]:
    """Lines and their lengths in bytes. What is no UTF-8 becomes what no check lets pass; what is too long ends with a NUL."""
    while raw := file.readline(LINE_MAX):
        length = len(raw)
        if length == LINE_MAX and not raw.endswith(b"\n"):
            raw = raw[:KIND_BYTES] + b"\0"
            while rest := file.readline(LINE_MAX):
                length += len(rest)
                if rest.endswith(b"\n"):
                    break
        yield raw.decode("utf-8", "surrogateescape").rstrip("\r\n"), length
