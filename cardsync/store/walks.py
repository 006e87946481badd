"""Walks over all customers: when one began, who is done, who is next. (A "pass" is the brake's word for a day of sweeps.)

Done is whoever's believed list was asked for after the walk began, whoever asked: that is in the customers' rows, so nothing of
a walk is lost with the process that walks. A few thousand rows are read at once, however many there are.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from cardsync.errors import Superseded
from cardsync.store.customers import more_urgent

PAGE: Final = 2_000  # customers whose rows are looked at in one statement


@dataclass(frozen=True, slots=True)
class Walk:
    """One walk over the customers up to number ``last_customer``, ``expected`` in all."""

    walk_id: int
    began_at: dt.datetime
    began_by: str
    expected: int
    last_customer: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some customers in order: those still to be looked at, how many are done, and where the page ends."""

    customers: tuple[int, ...]
    seen: int
    end: int


_OPEN = text("""
    SELECT walk_id, began_at, began_by, expected, last_customer FROM cardsync.walks WHERE ended_at IS NULL
""")
# Two that begin at once get one walk: one row may be open.
_BEGIN = text("""
    INSERT INTO cardsync.walks (began_by, expected, last_customer)
    SELECT :by, count(*), coalesce(max(id), 0) FROM cardsync.customers
    ON CONFLICT DO NOTHING
""")
_END = text("""
    UPDATE cardsync.walks SET ended_at = clock_timestamp()
    WHERE ended_at IS NULL AND walk_id = coalesce(cast(:walk_id AS bigint), walk_id)
""")


def begin(connection: Connection, *, by: str, restart: bool) -> tuple[Walk, bool]:
    """The walk that is open, or a new one; and whether it was begun before. ``restart`` ends the one that is open."""
    if restart:
        connection.execute(_END, {"walk_id": None})
    found = connection.execute(_OPEN).one_or_none()
    if found is not None:
        return Walk(*found), True
    begun = connection.execute(_BEGIN, {"by": by}).rowcount == 1
    return Walk(*connection.execute(_OPEN).one()), not begun


def end(connection: Connection, walk: Walk) -> None:
    """Note that every customer has been tried."""
    connection.execute(_END, {"walk_id": walk.walk_id})


_STANDING = text("""
    SELECT ended_at IS NOT NULL AS ended, walk_id < (SELECT max(walk_id) FROM cardsync.walks) AS replaced
    FROM cardsync.walks WHERE walk_id = :walk_id
""")
_PAGE = text("""
    SELECT id, coalesce(reconciled_at >= :began_at, false) AS seen FROM cardsync.customers
    WHERE id > :after AND id <= :last_customer ORDER BY id LIMIT :limit
""")


def page(connection: Connection, walk: Walk, *, after: int) -> Page | None:
    """The next customers; ``None`` after the last, or once another process has come to the end of this walk.

    Raises ``Superseded`` if another walk was begun.
    """
    standing = connection.execute(_STANDING, {"walk_id": walk.walk_id}).one()
    if standing.replaced:
        raise Superseded("another pass was begun")
    if standing.ended:
        return None
    parameters = {"began_at": walk.began_at, "after": after, "last_customer": walk.last_customer, "limit": PAGE}
    rows = connection.execute(_PAGE, parameters).all()
    if not rows:
        return None
    unseen = tuple(row.id for row in rows if not row.seen)
    return Page(unseen, len(rows) - len(unseen), rows[-1].id)


# Whoever is due for a better reason keeps it: a hint must not wait behind the sweeps, nor must one that is tried again. Rung for
# now, so that no worker is sent.
_MAKE_DUE = text(f"""
    UPDATE cardsync.customers
    SET due_at = least(due_at, clock_timestamp()), rung_at = clock_timestamp(),
        lane = {more_urgent("lane", "'sweep'")}
    WHERE id = :customer AND (reconciled_at IS NULL OR reconciled_at < :began_at)
""")


def make_due(connection: Connection, walk: Walk, customer: int) -> bool:
    """Make the customer due now, whatever its back-off says: a person asked for it. False for one who is done already."""
    return connection.execute(_MAKE_DUE, {"customer": customer, "began_at": walk.began_at}).rowcount == 1


_SEEN = text("""
    SELECT count(*) FROM cardsync.customers WHERE id <= :last_customer AND reconciled_at >= :began_at
""")
_CHANGED = text("""
    SELECT count(DISTINCT customer) FROM cardsync.observations
    WHERE asked_at >= :began_at AND outcome = 'changed' AND customer <= :last_customer
""")


def tally(connection: Connection, walk: Walk) -> tuple[int, int]:
    """How many of the walk's customers are done, and of how many something changed, since it began. Reads a whole table."""
    parameters = {"began_at": walk.began_at, "last_customer": walk.last_customer}
    seen: int = connection.execute(_SEEN, parameters).scalar_one()
    changed: int = connection.execute(_CHANGED, parameters).scalar_one()
    return seen, changed
