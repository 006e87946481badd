"""How long notifications waited for the list that settles them: what the objective of freshness is measured by."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import text

from cardsync.db import Answer, Transaction
from cardsync.store.customers import Ticket

# The index on (environment, customer_id, evidence_no) finds the customer's notifications, which are few.
_OLDEST = text("""
    SELECT given.number, (
        SELECT extract(epoch FROM clock_timestamp() - min(received_at))::float8
        FROM cardsync.events AS e
        WHERE e.environment = c.environment AND e.customer_id = c.customer_id AND e.evidence_no < given.number
          AND e.status = 'done' AND e.received_at > coalesce(c.reconciled_at, '-infinity')
    )
    FROM unnest(cast(:customers AS bigint[]), cast(:numbers AS bigint[])) AS given (customer, number)
    JOIN cardsync.customers AS c ON c.id = given.customer
""")


def seconds_since_oldest(connection: Transaction, tickets: Sequence[Ticket]) -> Answer[dict[int, float | None]]:
    """Return the age of the oldest notification that each ticket's list settles, by its number; ``None`` if there is none.

    Call it before the list is applied: what is older than the look before was settled then.
    """
    if not tickets:
        return dict
    parameters = {"customers": [t.customer for t in tickets], "numbers": [t.number for t in tickets]}
    rows = connection.execute(_OLDEST, parameters)
    return lambda: {row[0]: row[1] for row in rows}
