"""Full resyncs: looks at all customers, once each. The table is ``cardsync.walks``: when one began, and up to which customer.

A customer is done once its believed list was asked for after the resync began, for any reason and by any process. That stands in
the customer's own row, so a resync loses nothing with the process that runs it. At most ``PAGE`` rows are read at once.
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
class Resync:
    """One full resync, of the customers up to number ``last_customer``: ``expected`` of them."""

    walk_id: int
    began_at: dt.datetime
    began_by: str
    expected: int
    last_customer: int


@dataclass(frozen=True, slots=True)
class Page:
    """One page of customers in order: those still to be looked at, the number of those done, and the last customer's number."""

    customers: tuple[int, ...]
    seen: int
    end: int


_OPEN = text("""
    SELECT walk_id, began_at, began_by, expected, last_customer FROM cardsync.walks WHERE ended_at IS NULL
""")
# Two processes that begin at once get one resync: only one row may be open.
_BEGIN = text("""
    INSERT INTO cardsync.walks (began_by, expected, last_customer)
    SELECT :by, count(*), coalesce(max(id), 0) FROM cardsync.customers
    ON CONFLICT DO NOTHING
""")
_END = text("""
    UPDATE cardsync.walks SET ended_at = clock_timestamp()
    WHERE ended_at IS NULL AND walk_id = coalesce(cast(:walk_id AS bigint), walk_id)
""")


def begin(connection: Connection, *, by: str, restart: bool) -> tuple[Resync, bool]:
    """Return the open resync or a new one, and whether it was begun before. ``restart`` ends the open one first."""
    if restart:
        connection.execute(_END, {"walk_id": None})
    found = connection.execute(_OPEN).one_or_none()
    if found is not None:
        return Resync(*found), True
    begun = connection.execute(_BEGIN, {"by": by}).rowcount == 1
    return Resync(*connection.execute(_OPEN).one()), not begun


def end(connection: Connection, resync: Resync) -> None:
    """Note that every customer has been tried."""
    connection.execute(_END, {"walk_id": resync.walk_id})


_STANDING = text("""
    SELECT ended_at IS NOT NULL AS ended, walk_id < (SELECT max(walk_id) FROM cardsync.walks) AS replaced
    FROM cardsync.walks WHERE walk_id = :walk_id
""")
_PAGE = text("""
    SELECT id, coalesce(reconciled_at >= :began_at, false) AS seen FROM cardsync.customers
    WHERE id > :after AND id <= :last_customer ORDER BY id LIMIT :limit
""")


def page(connection: Connection, resync: Resync, *, after: int) -> Page | None:
    """Return the next customers; ``None`` after the last one, or once another process has ended this resync.

    Raises ``Superseded`` if another resync was begun.
    """
    standing = connection.execute(_STANDING, {"walk_id": resync.walk_id}).one()
    if standing.replaced:
        raise Superseded("another resync was begun")
    if standing.ended:
        return None
    parameters = {"began_at": resync.began_at, "after": after, "last_customer": resync.last_customer, "limit": PAGE}
    rows = connection.execute(_PAGE, parameters).all()
    if not rows:
        return None
    unseen = tuple(row.id for row in rows if not row.seen)
    return Page(unseen, len(rows) - len(unseen), rows[-1].id)


# A customer who is due for a more urgent reason keeps its lane: a hint or a retry must not wait behind the sweeps. ``rung_at`` is
# set, so that the sweep does not send a worker for it.
_MAKE_DUE = text(f"""
    UPDATE cardsync.customers
    SET due_at = least(due_at, clock_timestamp()), rung_at = clock_timestamp(),
        lane = {more_urgent("lane", "'sweep'")}
    WHERE id = :customer AND (reconciled_at IS NULL OR reconciled_at < :began_at)
""")


def make_due(connection: Connection, resync: Resync, customer: int) -> bool:
    """Make the customer due now, in spite of its backoff: a person asked for it. False for a customer who is done already."""
    return connection.execute(_MAKE_DUE, {"customer": customer, "began_at": resync.began_at}).rowcount == 1


_SEEN = text("""
    SELECT count(*) FROM cardsync.customers WHERE id <= :last_customer AND reconciled_at >= :began_at
""")
_CHANGED = text("""
    SELECT count(DISTINCT customer) FROM cardsync.observations
    WHERE asked_at >= :began_at AND outcome = 'changed' AND customer <= :last_customer
""")


def tally(connection: Connection, resync: Resync) -> tuple[int, int]:
    """Return how many customers of the resync are done, and how many of them changed since it began. Reads a whole table."""
    parameters = {"began_at": resync.began_at, "last_customer": resync.last_customer}
    seen: int = connection.execute(_SEEN, parameters).scalar_one()
    changed: int = connection.execute(_CHANGED, parameters).scalar_one()
    return seen, changed
