"""Folding: what hints say becomes what is awaited of their customers, in one statement for any number of hints.

Each hint names a card. Unless a list that was asked for after the hint has shown that card already, the card is awaited from now
on, and its customer may differ from Ottu. Either way the hint is settled, and its content goes with it, in the same statement.

**Answered.** That a later list is believed and the card is active does not say that the hint is answered: a card that an earlier
hint still holds, or the brake, is active although that list lacked it. Such a hint has its own time.

The caller has the customers and the hints locked.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import text

from cardsync.ciphers import KeyRing
from cardsync.core.call_budget import Lane
from cardsync.core.cards import CardFacts
from cardsync.core.diff import RemoteCard
from cardsync.core.repeats import NO_PATIENCE
from cardsync.db import Answer, Transaction
from cardsync.store import customers
from cardsync.store.cards import WRITTEN, is_listed, new
from cardsync.store.inbox import PendingHint

# As json_to_recordset names them, with their types; those that are no text.
_TYPES: Final = {
    "expires_on": "date",
    "is_expired": "boolean",
    "is_preferred": "boolean",
    "cvv_required": "boolean",
    "agreements": "text[]",
}
_RECORD: Final = ", ".join(f"{name} {_TYPES.get(name, 'text')}" for name in WRITTEN)
_COLUMNS: Final = ", ".join(WRITTEN)

# A removed card that a hint names again stays removed, and without its token, until a list shows it. Of several hints that name
# an unknown card the first one's facts stand.
_FOLD = text(f"""
    WITH given AS MATERIALIZED (
        SELECT *, decode(fingerprint_hex, 'hex') AS fingerprint FROM json_to_recordset(cast(:hints AS json)) AS hint (
            event_id uuid, customer bigint, card_id uuid, fingerprint_hex text, token text, evidence_no bigint,
            awaited_at timestamptz, repeated boolean, lane text, {_RECORD}
        )
    ), judged AS MATERIALIZED (
        SELECT given.*, known.card_id AS known_id, coalesce(
            {is_listed("known")} AND known.awaited_no IS NULL AND NOT owner.removals_held
                AND owner.applied_no > given.evidence_no, false
        ) AS is_answered
        FROM given JOIN cardsync.customers AS owner ON owner.id = given.customer
        LEFT JOIN cardsync.cards AS known ON known.customer = given.customer AND known.fingerprint = given.fingerprint
    ), awaited AS (
        INSERT INTO cardsync.cards AS c
            (card_id, customer, fingerprint, token, status, awaited_no, awaited_at, cause, {_COLUMNS})
        SELECT DISTINCT ON (customer, fingerprint) card_id, customer, fingerprint, token, 'unconfirmed',
            max(evidence_no) OVER of_card, max(awaited_at) OVER of_card, 'hint', {_COLUMNS}
        FROM judged WHERE NOT is_answered WINDOW of_card AS (PARTITION BY customer, fingerprint)
        ORDER BY customer, fingerprint, evidence_no
        ON CONFLICT (customer, fingerprint) DO UPDATE
        SET awaited_no = greatest(c.awaited_no, excluded.awaited_no), awaited_at = greatest(c.awaited_at, excluded.awaited_at)
        RETURNING card_id, customer, fingerprint
    ), settled AS (
        UPDATE cardsync.events AS e
        SET status = 'done', settled_at = clock_timestamp(), token = NULL, facts = NULL, last_error = NULL,
            card_id = coalesce(awaited.card_id, judged.known_id)
        FROM judged LEFT JOIN awaited USING (customer, fingerprint)
        WHERE e.event_id = judged.event_id AND e.status = 'pending'
    ), heard AS (
        SELECT customer, max(evidence_no) FILTER (WHERE NOT is_answered AND NOT repeated) AS number,
            min(lane) FILTER (WHERE NOT is_answered AND NOT repeated) AS urgency  -- 'hint' stands before 'retry'
        FROM judged GROUP BY customer
    ), marked AS (
        UPDATE cardsync.customers AS c SET {customers.marked(evidence_no="heard.number", lane="heard.urgency")}
        FROM heard WHERE c.id = heard.customer AND heard.number IS NOT NULL
    )
    SELECT event_id, is_answered FROM judged
""")


@dataclass(frozen=True, slots=True)
class Heard:
    """A hint to fold, with its customer and the fingerprint of its card. ``repeated``: its signature came in another body before.

    A repeat's customer is not marked here: when it is looked at follows other rules (``store.repeats``).
    """

    hint: PendingHint
    customer: int
    fingerprint: bytes
    repeated: bool = False

    @property
    def lane(self) -> Lane:
        """A payment that Ottu was asked about is minutes old at the least: its card is listed by now, or gone."""
        return "retry" if self.hint.scheme == "inquiry" else "hint"

    def as_json(self, ring: KeyRing) -> dict[str, Any]:
        """The hint as the statement's parameter has it; of a card that is known only the fingerprint counts."""
        hint = self.hint
        patient = not self.repeated and hint.scheme != "inquiry"
        card = new(RemoteCard(self.fingerprint, hint.token, hint.facts.over(CardFacts(agreements=()))), ring)
        expires_on = card["expires_on"]
        return {
            "event_id": str(hint.event_id),
            "customer": self.customer,
            "fingerprint_hex": card.pop("fingerprint").hex(),
            "evidence_no": hint.evidence_no,
            "awaited_at": (hint.received_at if patient else NO_PATIENCE).isoformat(),
            "repeated": self.repeated,
            "lane": self.lane,
            **card,
            "card_id": str(card["card_id"]),
            "expires_on": None if expires_on is None else expires_on.isoformat(),
        }


def fold(connection: Transaction, heard: Sequence[Heard], ring: KeyRing) -> Answer[set[uuid.UUID]]:
    """Fold hints, and settle them; return those that a later list has answered already, which ask for nothing."""
    if not heard:
        return set
    rows = connection.execute(_FOLD, {"hints": json.dumps([one.as_json(ring) for one in heard])})
    return lambda: {row.event_id for row in rows if row.is_answered}
