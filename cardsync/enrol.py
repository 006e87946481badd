"""``enrol``: make the customers of a file known, a batch at a time, and go on where an interrupted run stopped.

How far the file is read is written in the transaction of the batch, under the SHA-256 of the whole file: a run again
goes on after the last batch, a changed file begins anew, and nothing is counted twice. What comes through a pipe has no
such name and cannot be gone on with. Memory holds one batch, whatever the file's size.

The whole file is hashed, not its ends: a second of reading for 10 million lines, against an edited line in the middle that
would be skipped without a word.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from sqlalchemy import Engine

from cardsync.core.customer_lines import BadLine, Customer, Reader, reader_for
from cardsync.store import customers, imports
from cardsync.store.imports import ImportState

# Lines in one transaction: a second's work, which is what an interruption costs, and a few megabytes. Larger batches were
# not faster.
BATCH_LINES: Final = 20_000
BAD_LINES_KEPT: Final = 20
BYTE_ORDER_MARK: Final = "\ufeff"  # with which spreadsheets begin what they export
HASH_BYTES: Final = 1_048_576  # read at once
LINE_MAX: Final = 65_536  # bytes; what is longer is no customer


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


def enrol(
    engine: Engine,
    source: Source,
    so_far: ImportState,
    *,
    keep: Callable[[Sequence[Refusal]], None],
    told: Callable[[ImportState], None],
) -> ImportState:
    """Read on from ``so_far`` to the end. Each batch's bad lines go to ``keep`` before it is committed, its state to ``told``
    after. Raises ``NoHeader``, and ``Superseded`` if another process imports the same file.
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
        if not text.strip():
            continue
        if read is None:
            read, is_header = reader_for(text)
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
    if batch.lines:
        yield batch


def _reader(file: BinaryIO) -> Reader:
    """How the file's lines are read, from its first one that is not empty."""
    first = next(text for text, _ in _lines(file) if text.strip())
    return reader_for(first.removeprefix(BYTE_ORDER_MARK))[0]


def _lines(file: BinaryIO) -> Iterator[tuple[str, int]]:
    """Lines and their lengths in bytes. What is no UTF-8 becomes what no check lets pass; what is too long, a NUL."""
    while raw := file.readline(LINE_MAX):
        length = len(raw)
        if length == LINE_MAX and not raw.endswith(b"\n"):
            raw = b"\0"
            while rest := file.readline(LINE_MAX):
                length += len(rest)
                if rest.endswith(b"\n"):
                    break
        yield raw.decode("utf-8", "surrogateescape").rstrip("\r\n"), length
