"""A reader of logical decoding: what PostgreSQL's plugin ``pgoutput`` says, by its documentation (protocol version 1).

https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

Row = dict[str, str | None]

# Of a begin, a commit, an origin and a type there is nothing that a copy of the tables needs.
WITHOUT_ROWS: Final = b"BCOY"


@dataclass
class Copy:
    """Tables as the stream leaves them. A row is known by its key, which is sent with each change of it."""

    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    rows: dict[str, dict[tuple[str | None, ...], Row]] = field(default_factory=dict)
    inserted: dict[str, list[Row]] = field(default_factory=dict)
    _tables: dict[int, tuple[str, tuple[str, ...], tuple[int, ...]]] = field(default_factory=dict)

    def apply(self, messages: Iterable[bytes]) -> None:
        """Do what the messages say."""
        for message in messages:
            kind, rest = message[:1], _Bytes(message[1:])
            if kind == b"R":
                self._describe(rest)
            elif kind in (b"I", b"U", b"D"):
                self._change(kind, rest)
            else:
                assert kind in WITHOUT_ROWS, kind

    def _describe(self, said: _Bytes) -> None:
        number = said.number("I")
        schema, name = said.text(), said.text()
        assert said.number("c") == b"d", "the table's old rows are sent by their key alone"
        columns, key = [], []
        for place in range(said.number("H")):
            if said.number("B") & 1:
                key.append(place)
            columns.append(said.text())
            said.number("i"), said.number("i")
        table = f"{schema}.{name}"
        self.columns[table] = tuple(columns)
        self._tables[number] = table, tuple(columns), tuple(key)

    def _change(self, kind: bytes, said: _Bytes) -> None:
        table, columns, key = self._tables[said.number("I")]
        rows, old = self.rows.setdefault(table, {}), None
        part = said.number("c")
        if part in (b"K", b"O"):
            old = rows.pop(tuple(said.values()[place] for place in key), None)
            part = said.number("c") if kind == b"U" else b""
        if kind == b"D":
            return
        assert part == b"N"
        values = said.values()
        where = tuple(values[place] for place in key)
        old = rows.get(where, old)
        # What is long and did not change is not sent again.
        rows[where] = {
            name: (old or {}).get(name) if value is UNCHANGED else value
            for name, value in zip(columns, values, strict=True)
        }
        if kind == b"I":
            self.inserted.setdefault(table, []).append(rows[where])


UNCHANGED: Final = "\0unchanged"


class _Bytes:
    """Reads one message from its beginning to its end."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def number(self, form: str):  # type: ignore[no-untyped-def]  # as `struct` has it
        (value,) = struct.unpack_from(f"!{form}", self._content, self._at)
        self._at += struct.calcsize(f"!{form}")
        return value

    def text(self) -> str:
        end = self._content.index(b"\0", self._at)
        found = self._content[self._at : end].decode()
        self._at = end + 1
        return found

    def values(self) -> list[str | None]:
        return [self._value() for _ in range(self.number("H"))]

    def _value(self) -> str | None:
        kind = self.number("c")
        if kind == b"n":
            return None
        if kind == b"u":
            return UNCHANGED
        length = self.number("I")
        found = self._content[self._at : self._at + length].decode()
        self._at += length
        return found
