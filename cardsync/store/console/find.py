"""Finding: what a person typed, exactly, by indexes alone. What is found is an id of ours, which may stand in a URL."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import Connection, text

Kind = Literal["customer", "card", "event", "deletion", "erasure"]
FOUND_MAX: Final = 20  # of one kind


@dataclass(frozen=True, slots=True)
class Found:
    """One thing: ``ref`` is our id of it, ``by`` what it was found by, ``environment`` where it has one."""

    kind: Kind
    ref: str
    by: str
    environment: str | None


_BY_ID = text("""
    SELECT 'card' AS kind, c.card_id::text AS ref, 'card' AS by, o.environment
    FROM cardsync.cards AS c JOIN cardsync.customers AS o ON o.id = c.customer WHERE c.card_id = :id
    UNION ALL SELECT 'event', event_id::text, 'event', environment FROM cardsync.events WHERE event_id = :id
    UNION ALL SELECT 'deletion', deletion_id::text, 'deletion', NULL FROM cardsync.deletions WHERE deletion_id = :id
    UNION ALL SELECT 'erasure', erasure_id::text, 'erasure', NULL FROM cardsync.erasures WHERE erasure_id = :id
""")
_BY_TEXT = text("""
    SELECT 'customer' AS kind, id::text AS ref, 'customer' AS by, environment FROM cardsync.customers
    WHERE environment IN ('production', 'sandbox') AND customer_id = :said
    UNION ALL SELECT 'card', card_id::text, 'agreement', environment FROM cardsync.agreements
    WHERE environment IN ('production', 'sandbox') AND agreement_id = :said
    UNION ALL (
        SELECT 'event', event_id::text, 'session', environment FROM cardsync.events
        WHERE session_id = :said ORDER BY evidence_no DESC LIMIT :limit
    )
    UNION ALL (
        SELECT 'event', event_id::text, 'reference', environment FROM cardsync.events
        WHERE reference_number = :said ORDER BY evidence_no DESC LIMIT :limit
    )
    UNION ALL (
        SELECT 'event', event_id::text, 'order', environment FROM cardsync.events
        WHERE order_no = :said ORDER BY evidence_no DESC LIMIT :limit
    )
""")


def find(connection: Connection, said: str) -> list[Found]:
    """All that bears this id exactly, at most ``FOUND_MAX`` notifications of a session, a reference or an order."""
    found = [Found(*row) for row in connection.execute(_BY_TEXT, {"said": said, "limit": FOUND_MAX})]
    try:
        wanted = uuid.UUID(said)
    except ValueError:
        return found
    return [*(Found(*row) for row in connection.execute(_BY_ID, {"id": wanted})), *found]
