"""Statements on customers that only an operator's commands need; the stories have their own."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from sqlalchemy import Connection, text

from cardsync.core.call_budget import Lane
from cardsync.store.customers import more_urgent

_HURRY = text(f"""
    UPDATE cardsync.customers SET due_at = least(due_at, clock_timestamp()), lane = {more_urgent("lane", ":lane")}
    WHERE id = :customer AND due_at IS NOT NULL
""")


def hurry(connection: Connection, customer: int, *, lane: Lane) -> None:
    """Make a customer who is due later due now, in spite of its backoff: a person asked for it."""
    connection.execute(_HURRY, {"customer": customer, "lane": lane})


_LET_RING = text("UPDATE cardsync.customers SET rung_at = NULL WHERE id = ANY(:customers) AND due_at IS NOT NULL")


def let_sweep_ring(connection: Connection, customers: Sequence[int]) -> None:
    """Let the next sweep ring for these due customers: a command has no bell of its own."""
    connection.execute(_LET_RING, {"customers": list(customers)})


_RECONCILED_SINCE = text("SELECT reconciled_at >= :moment FROM cardsync.customers WHERE id = :customer")


def reconciled_since(connection: Connection, customer: int, moment: dt.datetime) -> bool:
    """Whether a list asked for at ``moment`` or later is believed of the customer."""
    parameters = {"customer": customer, "moment": moment}
    return connection.execute(_RECONCILED_SINCE, parameters).scalar_one_or_none() is True


_COUNT_HELD = text("SELECT count(*) FROM cardsync.customers WHERE removals_held")


def customers_held(connection: Connection) -> int:
    """How many customers have removals that the brake holds back."""
    count: int = connection.execute(_COUNT_HELD).scalar_one()
    return count
