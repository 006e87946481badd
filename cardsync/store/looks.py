"""Looks at a customer that somebody asked for by API: each has an id, under which its end can be asked about for some days.

A look is no job of its own: the customer's row is (``store.freshness``), and any number of requests make one call. A look is done
when a list is believed that was asked for after the look was.
"""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, text

from cardsync.core.cards import Environment
from cardsync.store import freshness
from cardsync.store.access.key_use import CallQuota

# queued: the customer is due, or will be. in_progress: a list that will do is being asked for. done: it is believed.
LookStatus = Literal["queued", "in_progress", "done"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A look that was asked for. ``error`` is why the last try failed, while it is not done."""

    reconciliation_id: uuid.UUID
    environment: Environment
    customer_id: str
    status: LookStatus
    requested_at: dt.datetime
    reconciled_at: dt.datetime | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Requested:
    """The look that a request led to; the caller rings for ``customer`` after the commit if ``is_due``."""

    look: Look
    customer: int
    is_due: bool


_ADD = text("""
    INSERT INTO cardsync.requested_looks (customer, asker, requested_at) VALUES (:customer, :asker, :requested_at)
    RETURNING reconciliation_id
""")
_SHOW = text("""
    SELECT l.reconciliation_id, o.environment, o.customer_id,
           CASE WHEN o.reconciled_at >= l.requested_at THEN 'done'
                WHEN o.lease_until > clock_timestamp() AND o.asked_at >= l.requested_at THEN 'in_progress'
                ELSE 'queued' END AS status,
           l.requested_at,
           CASE WHEN o.reconciled_at >= l.requested_at THEN o.reconciled_at END AS reconciled_at,
           CASE WHEN o.reconciled_at >= l.requested_at THEN NULL WHEN o.failures > 0 THEN o.last_error END AS error
    FROM cardsync.requested_looks AS l JOIN cardsync.customers AS o ON o.id = l.customer
    WHERE l.reconciliation_id = :reconciliation_id
""")


def request(
    connection: Connection, environment: Environment, customer_id: str, *, asker: str, quota: CallQuota | None = None
) -> Requested | None:
    """Ask for a look at a customer; ``None``, to be rolled back, if the key's calls of the day are used up.

    An unknown customer is known on probation. One that was asked about a moment ago is due when its cool-down ends.
    """
    known = freshness.meet(connection, environment, customer_id)
    answer = freshness.ask(connection, known.customer, quota=quota)
    if answer == "spent":
        return None
    added = {"customer": known.customer, "asker": asker, "requested_at": known.read_at}
    look = show(connection, connection.execute(_ADD, added).scalar_one())
    assert look is not None
    return Requested(look, known.customer, answer == "asked")


def show(connection: Connection, reconciliation_id: uuid.UUID) -> Look | None:
    """One look and how far it is; ``None`` if it is not known, or not any more."""
    row = connection.execute(_SHOW, {"reconciliation_id": reconciliation_id}).one_or_none()
    return None if row is None else Look(**row._asdict())
