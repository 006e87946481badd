"""A page of a list: a keyset with a unique tie-breaker, and a bound for what one page may cost.

Where an index holds exactly the rows that a filter asks for, in the order of the list, a page reads those and stops. Where none
does, a page looks through ``LOOKED_AT_MAX`` rows in the list's order and keeps those that fit: a filter that hardly any row fits
costs no more than one that all fit. Such a page may be short. It says so, and the next one begins after the last row that was
looked at, so that nothing is shown twice or left out.

Rejected: an index for each combination of filters. Each hint writes the inbox's indexes before Ottu is answered.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, TextClause, text

PAGE: Final = 50
# Rows may lie on as many blocks that are read from a disk; a page has 300 ms.
LOOKED_AT_MAX: Final = 2_000

Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the next page begins: after the row of this moment and id."""

    at: dt.datetime
    ref: uuid.UUID


@dataclass(frozen=True, slots=True)
class Page:
    """The rows of a page, in the list's order, and where the next one begins; ``None`` at the end.

    ``looked_at``: of a short page how many rows were looked at for it, while older ones may fit too.
    """

    rows: tuple[Facts, ...]
    after: Place | None
    looked_at: int | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """What a list goes by, as columns of its table: a moment, then an id of ours that no other row has."""

    at: str
    ref: str
    newest_first: bool = True

    @property
    def before_all(self) -> dict[str, Any]:
        """The place before the first row."""
        if self.newest_first:
            return {"at": "infinity", "ref": uuid.UUID(int=0)}
        return {"at": "-infinity", "ref": uuid.UUID(int=0)}

    @property
    def after_place(self) -> str:
        """SQL: whether a row comes after the place."""
        return f"({self.at}, {self.ref}) {'<' if self.newest_first else '>'} (cast(:at AS timestamptz), cast(:ref AS uuid))"

    def by(self, at: str, ref: str) -> str:
        """SQL: the order, of columns of these names."""
        way = "DESC" if self.newest_first else "ASC"
        return f"ORDER BY {at} {way}, {ref} {way}"


@dataclass(frozen=True, slots=True)
class Listing:
    """A list with its filter. ``walks``: it looks through rows that need not fit."""

    statement: TextClause
    order: Order
    walks: bool

    def page(self, connection: Connection, after: Place | None, **parameters: Any) -> Page:
        """The rows after a place."""
        place = self.order.before_all if after is None else {"at": after.at, "ref": after.ref}
        limits = {"limit": PAGE + 1, **({"most": LOOKED_AT_MAX} if self.walks else {})}
        found = [dict(row) for row in connection.execute(self.statement, {**place, **limits, **parameters}).mappings()]
        places = [Place(row.pop("place_at"), row.pop("place_ref")) for row in found]
        ends = [(row.pop("looked_at"), row.pop("end_at"), row.pop("end_ref")) for row in found] if self.walks else []
        rows = [row for row in found if row["ref"] is not None]
        if len(rows) > PAGE:
            return Page(tuple(rows[:PAGE]), places[PAGE - 1])
        if ends and ends[0][0] >= LOOKED_AT_MAX:
            looked_at, *end = ends[0]
            return Page(tuple(rows), Place(*end), looked_at)
        return Page(tuple(rows), None)


def exact(columns: str, table: str, order: Order, *within: str) -> Listing:
    """A list whose filter an index answers in the list's order; of several parts, an index answers each."""
    parts = " UNION ALL ".join(
        f"(SELECT {order.at} AS at, {order.ref} AS ref FROM {table} WHERE {one} AND {order.after_place}"
        f" {order.by(order.at, order.ref)} LIMIT :limit)"
        for one in within
    )
    if len(within) == 1:
        return Listing(
            text(f"""
                SELECT {order.at} AS place_at, {order.ref} AS place_ref, {columns} FROM {table}
                WHERE {within[0]} AND {order.after_place} {order.by(order.at, order.ref)} LIMIT :limit
            """),
            order,
            walks=False,
        )
    return Listing(
        text(f"""
            SELECT found.at AS place_at, found.ref AS place_ref, one.*
            FROM (SELECT at, ref FROM ({parts}) AS parts {order.by("at", "ref")} LIMIT :limit) AS found
            {_row(columns, table, order)}
            {order.by("found.at", "found.ref")}
        """),
        order,
        walks=False,
    )


def walk(columns: str, table: str, order: Order, within: str, fits: str) -> Listing:
    """A list that looks through the rows of ``within``, for which there is an index in its order, and keeps those that fit.

    There is a row also where nothing fits: it says where the page ended.
    """
    return Listing(
        text(f"""
            WITH looked AS MATERIALIZED (
                SELECT {order.at} AS at, {order.ref} AS ref, {fits} AS fits FROM {table}
                WHERE {within} AND {order.after_place} {order.by(order.at, order.ref)} LIMIT :most
            ), ending AS (
                SELECT count(*) OVER () AS looked_at, at AS end_at, ref AS end_ref FROM looked
                {_last(order)} LIMIT 1
            ), found AS MATERIALIZED (
                SELECT at, ref FROM looked WHERE fits {order.by("at", "ref")} LIMIT :limit
            )
            SELECT ending.*, rows.* FROM ending LEFT JOIN (
                SELECT found.at AS place_at, found.ref AS place_ref, one.* FROM found {_row(columns, table, order)}
            ) AS rows ON true
            {order.by("rows.place_at", "rows.place_ref")}
        """),
        order,
        walks=True,
    )


def _row(columns: str, table: str, order: Order) -> str:
    """SQL: the row of what was found, by its id. With the limit, or PostgreSQL might read all rows for a page of them."""
    return f"CROSS JOIN LATERAL (SELECT {columns} FROM {table} WHERE {order.ref} = found.ref LIMIT 1) AS one"


def _last(order: Order) -> str:
    """SQL: the order turned round."""
    return Order(order.at, order.ref, newest_first=not order.newest_first).by("at", "ref")
