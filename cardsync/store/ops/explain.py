"""Why a card has its current status: its changes, the hints that named it, what Ottu was asked.

For an operator, one card at a time. Nothing here returns a token or a fingerprint.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, TextClause, text

from cardsync.ciphers import KeyRing
from cardsync.core.cards import Environment
from cardsync.store import inbox
from cardsync.store.access.secret_keys import fingerprint_key

NEWEST: Final = 20  # of each kind of evidence; an operator seldom needs a card's oldest changes

Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class History:
    """All evidence about one card; each list has the newest first. ``card`` is ``None`` for a card that was dropped."""

    card: Facts | None
    customer: Facts | None
    changes: list[Facts]
    hints: list[Facts]
    observations: list[Facts]
    deletions: list[Facts] = field(default_factory=list)


# What the registry shows, and what only an operator needs: how often the card came back, and what it waits for.
_CARD = text("""
    SELECT r.*, c.life AS lives, c.cause AS last_cause, c.awaited_no, c.awaited_at, c.customer, c.fingerprint
    FROM registry.cards AS r JOIN cardsync.cards AS c USING (card_id)
    WHERE card_id = :card_id
""")
_CUSTOMER = text("""
    SELECT reconciled_at, dirty_since, due_at, lane, asked_at, failures, last_error, removals_held, list_oddities, applied_no
    FROM cardsync.customers WHERE id = :customer
""")
_CHANGES = text("""
    SELECT seq, at, change, fields, cause FROM cardsync.card_changes
    WHERE card_id = :card_id ORDER BY seq DESC LIMIT :newest
""")
_HINT_COLUMNS = "event_id, evidence_no, received_at, status, result, state, payment_type, scheme, attempts, last_error"
# An open hint is not linked to its card yet: it is found by the token in it, which only the secret key can read.
_HINTS = text(f"""
    SELECT {_HINT_COLUMNS} FROM cardsync.events AS e
    WHERE e.environment = :environment AND e.customer_id = :customer_id
      AND (e.card_id = :card_id OR e.event_id = ANY(cast(:open AS uuid[])))
    ORDER BY evidence_no DESC LIMIT :newest
""")
# Reads the whole inbox: a dropped card has no row, so there is no customer to search by.
_HINTS_OF_DROPPED = text(f"""
    SELECT {_HINT_COLUMNS}, environment, customer_id FROM cardsync.events
    WHERE card_id = :card_id ORDER BY evidence_no DESC LIMIT :newest
""")
_OBSERVATIONS = text("""
    SELECT observation_no, lane, asked_at, finished_at, outcome, calls, listed, changed, removed, suspicious
    FROM cardsync.observations WHERE customer = :customer ORDER BY observation_no DESC LIMIT :newest
""")

# What locked the card stands in the deletion's own row: the agreements that it served when Ottu refused.
_DELETIONS = text("""
    SELECT r.deletion_id, r.requested_at, r.status, r.requested_by, r.attempts, r.finished_at, r.error, r.when_unlocked,
           d.locked_by
    FROM registry.deletions AS r JOIN cardsync.deletions AS d USING (deletion_id)
    WHERE d.card_id = :card_id ORDER BY d.requested_at DESC, d.deletion_id LIMIT :newest
""")


def of_card(connection: Connection, card_id: uuid.UUID, ring: KeyRing | None = None) -> History | None:
    """Gather the evidence about a card; ``None`` if there is none. Without a secret key open hints are not found."""
    cards = _rows(connection, _CARD, card_id=card_id)
    if not cards:
        hints = _rows(connection, _HINTS_OF_DROPPED, card_id=card_id, newest=NEWEST)
        return History(None, None, [], hints, []) if hints else None
    card = dict(cards[0])
    customer, fingerprint = card.pop("customer"), bytes(card.pop("fingerprint"))
    whose = {"environment": card["environment"], "customer_id": card["customer_id"]}
    named = [] if ring is None else _open_hints(connection, fingerprint, ring, **whose)
    return History(
        card=card,
        customer=_rows(connection, _CUSTOMER, customer=customer)[0],
        changes=_rows(connection, _CHANGES, card_id=card_id, newest=NEWEST),
        hints=_rows(connection, _HINTS, card_id=card_id, open=named, newest=NEWEST, **whose),
        observations=_rows(connection, _OBSERVATIONS, customer=customer, newest=NEWEST),
        deletions=_rows(connection, _DELETIONS, card_id=card_id, newest=NEWEST),
    )


def _open_hints(
    connection: Connection, fingerprint: bytes, ring: KeyRing, *, environment: Environment, customer_id: str
) -> list[uuid.UUID]:
    key = fingerprint_key(connection, ring)
    opened = inbox.open_hints(connection, environment, customer_id, fingerprint_key=key, ring=ring)
    return [hint.event_id for hint in opened if hint.fingerprint == fingerprint]


def _rows(connection: Connection, statement: TextClause, **parameters: Any) -> list[Facts]:
    return [dict(row) for row in connection.execute(statement, parameters).mappings()]
