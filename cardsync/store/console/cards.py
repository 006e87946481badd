"""A card as the console shows one: its evidence, without a token or a fingerprint. Three statements, whatever its history."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, text

from cardsync.store.console.customers import impersonal

NEWEST: Final = 20  # of each kind of evidence

Facts = Mapping[str, Any]

_CARD = text("""
    SELECT r.*, c.life AS lives, c.cause AS last_cause, c.awaited_at, c.customer,
           o.reconciled_at, o.dirty_since, o.due_at, o.lane, o.failures, o.last_error, o.removals_held, o.list_oddities
    FROM registry.cards AS r JOIN cardsync.cards AS c USING (card_id) JOIN cardsync.customers AS o ON o.id = c.customer
    WHERE r.card_id = :card_id
""")
_OF_CUSTOMER: Final = (
    "reconciled_at",
    "dirty_since",
    "due_at",
    "lane",
    "failures",
    "last_error",
    "removals_held",
    "list_oddities",
)
_DELETIONS = text("""
    SELECT r.deletion_id, r.requested_at, r.status, r.requested_by, r.reason, r.attempts, r.finished_at, r.error,
           r.when_unlocked, d.locked_by
    FROM registry.deletions AS r JOIN cardsync.deletions AS d USING (deletion_id)
    WHERE d.card_id = :card_id ORDER BY d.requested_at DESC, d.deletion_id LIMIT :newest
""")
# Changes and hints in one statement: both are short lists by time.
_HISTORY = text("""
    (SELECT 'change' AS source, f.at, f.change AS state, f.seq::text AS ref,
            jsonb_build_object('fields', f.fields, 'cause', f.cause) AS facts
     FROM cardsync.card_changes AS f WHERE f.card_id = :card_id ORDER BY f.seq DESC LIMIT :newest)
    UNION ALL
    (SELECT 'notification', e.received_at, e.status, e.event_id::text,
            jsonb_build_object('result', e.result, 'state', e.state, 'payment_type', e.payment_type)
     FROM cardsync.events AS e
     WHERE e.environment = :environment AND e.customer_id = :customer_id AND e.card_id = :card_id
     ORDER BY e.evidence_no DESC LIMIT :newest)
    ORDER BY at DESC, ref DESC
""")


@dataclass(frozen=True, slots=True)
class Card:
    """A card, its customer's freshness, and its evidence, the newest first."""

    facts: Facts
    customer: Facts
    deletions: tuple[Facts, ...]
    history: tuple[Facts, ...]


def show(connection: Connection, card_id: uuid.UUID, *, personal: bool) -> Card | None:
    """One card; without ``personal`` no name and no masked number is returned. ``None`` if there is no such one."""
    row = connection.execute(_CARD, {"card_id": card_id}).mappings().one_or_none()
    if row is None:
        return None
    facts = {name: value for name, value in row.items() if name not in _OF_CUSTOMER}
    whose = {"environment": row["environment"], "customer_id": row["customer_id"]}
    deletions = connection.execute(_DELETIONS, {"card_id": card_id, "newest": NEWEST}).mappings()
    history = connection.execute(_HISTORY, {"card_id": card_id, "newest": NEWEST, **whose}).mappings()
    return Card(
        impersonal(facts, personal),
        {name: row[name] for name in _OF_CUSTOMER},
        tuple(dict(one) for one in deletions),
        tuple(dict(one) for one in history),
    )
