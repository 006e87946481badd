"""Customers whose last list was odd (``core.oddities``): how many, in which ways, and a card to begin with.

For an operator. Bounded: beyond a thousand such customers the count says no more than that.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

COUNTED_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class OddLists:
    """``customers`` are at most ``COUNTED_MAX``; ``by_oddity`` counts customers; ``example`` is a card of one of them."""

    customers: int
    by_oddity: Mapping[str, int]
    example: uuid.UUID | None


_SUMMARY = text("""
    WITH odd AS MATERIALIZED (
        SELECT id, list_oddities FROM cardsync.customers WHERE list_oddities <> '{}'::text[] ORDER BY id LIMIT :limit
    )
    SELECT (SELECT count(*) FROM odd) AS customers,
           (SELECT c.card_id FROM cardsync.cards AS c JOIN odd ON odd.id = c.customer LIMIT 1) AS example
""")
_BY_ODDITY = text("""
    SELECT oddity, count(*) AS customers
    FROM (SELECT list_oddities FROM cardsync.customers WHERE list_oddities <> '{}'::text[] ORDER BY id LIMIT :limit) AS odd,
         unnest(odd.list_oddities) AS oddity
    GROUP BY oddity ORDER BY customers DESC, oddity
""")


def summary(connection: Connection) -> OddLists:
    """Read how many customers' last lists were odd, and why."""
    row = connection.execute(_SUMMARY, {"limit": COUNTED_MAX}).one()
    by_oddity = {r.oddity: r.customers for r in connection.execute(_BY_ODDITY, {"limit": COUNTED_MAX})}
    return OddLists(row.customers, by_oddity, row.example)
