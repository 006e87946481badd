"""How fresh what we know of a customer is, for readers who wait for it. What they wait for is shared, by row and lock."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import Connection, text

from cardsync.core.cards import Environment
from cardsync.store import customers


@dataclass(frozen=True, slots=True)
class Freshness:
    """How far the looking at a customer has come. ``read_at`` is the moment of this reading, by the database's clock.

    ``due_in_seconds`` is 0 when the next look is due, or under way.
    """

    customer: int
    read_at: dt.datetime
    reconciled_at: dt.datetime | None
    failures: int
    due_in_seconds: float


_FRESHNESS = """
    SELECT id, clock_timestamp() AS read_at, reconciled_at, failures,
           CASE WHEN lease_until > clock_timestamp() THEN 0
                ELSE greatest(0, coalesce(extract(epoch FROM due_at - clock_timestamp()), 0)) END::float8 AS due_in_seconds
    FROM cardsync.customers
"""
_BY_NAME = text(f"{_FRESHNESS} WHERE environment = :environment AND customer_id = :customer_id")
_BY_ID = text(f"{_FRESHNESS} WHERE id = :customer")


def of(connection: Connection, environment: Environment, customer_id: str) -> Freshness | None:
    """How fresh the customer is; ``None`` for one whom nothing ever named."""
    row = connection.execute(_BY_NAME, {"environment": environment, "customer_id": customer_id}).one_or_none()
    return None if row is None else Freshness(*row)


def now(connection: Connection, customer: int) -> Freshness:
    """How fresh a known customer is."""
    return Freshness(*connection.execute(_BY_ID, {"customer": customer}).one())


# The lock makes looking and marking one step, beside whoever takes or settles the ticket. The last line: somebody rang a moment
# ago, and the ticket that will be taken is newer than all who wait for it. A sweep's or a retry's turn may be far off: not those.
_WILL_COME = text("""
    SELECT coalesce(reconciled_at >= :since, false)
        OR coalesce(lease_until > clock_timestamp() AND asked_at >= :since, false)
        OR coalesce(lease_until <= clock_timestamp(), true) AND coalesce(due_at <= clock_timestamp(), false)
            AND lane IN ('deletion', 'hint', 'read') AND coalesce(rung_at > clock_timestamp() - interval '1 second', false)
    FROM cardsync.customers WHERE id = :customer FOR UPDATE
""")


def want(connection: Connection, customer: int, *, since: dt.datetime) -> bool:
    """See to it that a list asked for at ``since`` or later is believed of the customer; true if the caller must ring for it.

    One that is believed already, is being asked for, or was rung for a moment ago serves: it costs no further call.
    """
    if connection.execute(_WILL_COME, {"customer": customer, "since": since}).scalar_one():
        return False
    customers.mark_dirty(connection, customer, evidence_no=None, lane="read")
    return True
