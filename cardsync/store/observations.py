"""Observations: each list that was asked for, and its outcome. They are the evidence behind every change."""

from __future__ import annotations

from typing import Final

from sqlalchemy import text

from cardsync.db import Transaction
from cardsync.store.customers import Ticket

OUTCOME_MAX: Final = 40  # characters; outcomes are our own words

_RECORD = text("""
    INSERT INTO cardsync.observations
        (observation_no, customer, lane, asked_at, outcome, calls, listed, changed, removed, suspicious)
    VALUES (:number, :customer, :lane, :asked_at, :outcome, :calls, :listed, :changed, :removed, :suspicious)
    ON CONFLICT (observation_no) DO NOTHING
""")


def record(
    connection: Transaction,
    ticket: Ticket,
    *,
    outcome: str,
    calls: int,
    listed: int | None = None,
    changed: int = 0,
    removed: int = 0,
    suspicious: int = 0,
) -> None:
    """Write one observation; its number is the ticket's."""
    connection.execute(
        _RECORD,
        {
            "number": ticket.number,
            "customer": ticket.customer,
            "lane": ticket.lane,
            "asked_at": ticket.asked_at,
            "outcome": outcome[:OUTCOME_MAX],
            "calls": calls,
            "listed": listed,
            "changed": changed,
            "removed": removed,
            "suspicious": suspicious,
        },
    )
