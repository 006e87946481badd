"""How long notifications waited for the list that settles them: what the objective of freshness is measured by."""

from __future__ import annotations

from sqlalchemy import text

from cardsync.db import Answer, Transaction
from cardsync.store.customers import Ticket

# The index on (environment, customer_id, evidence_no) finds the customer's notifications, which are few.
_OLDEST = text("""
    SELECT extract(epoch FROM clock_timestamp() - min(received_at))::float8
    FROM cardsync.events
    WHERE environment = :environment AND customer_id = :customer_id AND evidence_no < :number AND status = 'done'
      AND received_at > coalesce((SELECT reconciled_at FROM cardsync.customers WHERE id = :customer), '-infinity')
""")


def seconds_since_oldest(connection: Transaction, ticket: Ticket) -> Answer[float | None]:
    """Return the age of the oldest notification that this ticket's list settles; ``None`` if there is none.

    Call it before the list is applied: what is older than the look before was settled then.
    """
    parameters = {
        "environment": ticket.environment,
        "customer_id": ticket.customer_id,
        "number": ticket.number,
        "customer": ticket.customer,
    }
    return connection.execute(_OLDEST, parameters).scalar_one
