"""Why the registry says of a card what it says: its changes, the hints that named it, what Ottu was asked.

For an operator, one card at a time. Nothing here returns a token or a fingerprint.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, TextClause, text

NEWEST: Final = 20  # of each kind of evidence; the oldest of a card's changes are seldom what is asked for

Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class History:
    """All that speaks of one card; each list has the newest first. ``card`` is ``None`` for one that was dropped."""

    card: Facts | None
    customer: Facts | None
    changes: list[Facts]
    hints: list[Facts]
    observations: list[Facts]


# What the registry shows, and beside it what only an operator needs: how often it came back, what it waits for.
_CARD = text("""
    SELECT r.*, c.life AS lives, c.cause AS last_cause, c.awaited_no, c.awaited_at, c.customer
    FROM registry.cards AS r JOIN cardsync.cards AS c USING (card_id)
    WHERE card_id = :card_id
""")
_CUSTOMER = text("""
    SELECT reconciled_at, dirty_since, due_at, lane, asked_at, failures, last_error, removals_held, applied_no
    FROM cardsync.customers WHERE id = :customer
""")
_CHANGES = text("""
    SELECT seq, at, change, fields, cause FROM cardsync.card_changes
    WHERE card_id = :card_id ORDER BY seq DESC LIMIT :newest
""")
_HINT_COLUMNS = "event_id, evidence_no, received_at, status, result, state, payment_type, scheme, attempts, last_error"
# An open hint has not been led to its card yet: there the token tells. Settled ones hold none.
_HINTS = text(f"""
    SELECT {_HINT_COLUMNS} FROM cardsync.events AS e
    WHERE e.environment = :environment AND e.customer_id = :customer_id
      AND (e.card_id = :card_id OR e.token = (SELECT token FROM cardsync.cards WHERE card_id = :card_id))
    ORDER BY evidence_no DESC LIMIT :newest
""")
# Reads the whole inbox: for a card that is no more there is no customer to begin with.
_HINTS_OF_DROPPED = text(f"""
    SELECT {_HINT_COLUMNS}, environment, customer_id FROM cardsync.events
    WHERE card_id = :card_id ORDER BY evidence_no DESC LIMIT :newest
""")
_OBSERVATIONS = text("""
    SELECT observation_no, lane, asked_at, finished_at, outcome, calls, listed, changed, removed, suspicious
    FROM cardsync.observations WHERE customer = :customer ORDER BY observation_no DESC LIMIT :newest
""")


def of_card(connection: Connection, card_id: uuid.UUID) -> History | None:
    """Gather what speaks of a card; ``None`` if nothing ever did."""
    cards = _rows(connection, _CARD, card_id=card_id)
    if not cards:
        hints = _rows(connection, _HINTS_OF_DROPPED, card_id=card_id, newest=NEWEST)
        return History(None, None, [], hints, []) if hints else None
    card = dict(cards[0])
    customer = card.pop("customer")
    whose = {"environment": card["environment"], "customer_id": card["customer_id"]}
    return History(
        card=card,
        customer=_rows(connection, _CUSTOMER, customer=customer)[0],
        changes=_rows(connection, _CHANGES, card_id=card_id, newest=NEWEST),
        hints=_rows(connection, _HINTS, card_id=card_id, newest=NEWEST, **whose),
        observations=_rows(connection, _OBSERVATIONS, customer=customer, newest=NEWEST),
    )


def _rows(connection: Connection, statement: TextClause, **parameters: Any) -> list[Facts]:
    return [dict(row) for row in connection.execute(statement, parameters).mappings()]
