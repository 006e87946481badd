"""Reads of what expires and what is at risk, a page at a time, through the views of the schema ``registry``.

Pages are keysets: each begins after the last one's last key, so that any page costs the same. Cards are in order of their id,
which stays while expiry dates change. A card's last day is always the end of a month, so a window of a year has at most thirteen
such days, and the head of the index for each of them is all that a page reads.
"""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import Connection, text

from cardsync.core.cards import Environment
from cardsync.core.expiry import month_ends
from cardsync.store import calendar
from cardsync.store.registry import COLUMNS, RegisteredCard

Reason = Literal["no_card", "expired", "expiring", "deleting"]

# Not from ``registry.active_cards``, which says the same: it is a security barrier, and gives its rows in no order.
_BEFORE_ALL: Final = uuid.UUID(int=0)  # no card has it: ids are random
_EXPIRING = text(f"""
    SELECT page.* FROM unnest(cast(:days AS date[])) AS last (day) CROSS JOIN LATERAL (
        SELECT {COLUMNS} FROM registry.cards AS c
        WHERE c.status = 'active' AND NOT c.is_expired AND c.expires_on = last.day AND c.environment = :environment
          AND c.card_id > :after
        ORDER BY c.card_id LIMIT :limit
    ) AS page
    ORDER BY page.card_id LIMIT :limit
""")


@dataclass(frozen=True, slots=True)
class ExpiringCard:
    """An active card and the days until its last one: 0 on that day."""

    card: RegisteredCard
    expires_in_days: int


def expiring_cards(
    connection: Connection, environment: Environment, *, within_days: int, after: uuid.UUID | None, limit: int
) -> list[ExpiringCard]:
    """Active cards whose last day is at most ``within_days`` away, in order of their id, after ``after``."""
    today = calendar.today(connection)
    parameters = {
        "environment": environment,
        "days": month_ends(today, today + dt.timedelta(days=within_days)),
        "after": after or _BEFORE_ALL,
        "limit": limit,
    }
    cards = [RegisteredCard(**row._asdict()) for row in connection.execute(_EXPIRING, parameters)]
    return [ExpiringCard(card, (card.expires_on - today).days) for card in cards if card.expires_on is not None]


@dataclass(frozen=True, slots=True)
class AgreementAtRisk:
    """An agreement whose next charge may fail; ``card_id`` is ``None`` where it has no card."""

    environment: Environment
    agreement_id: str
    card_id: uuid.UUID | None
    reason: Reason
    since: dt.datetime


# Those at risk are few, and each kind of them is found by an index of its own: sorting them costs less than a walk over all.
_AT_RISK = text("""
    SELECT environment, agreement_id, card_id, reason, since FROM registry.agreements_at_risk
    WHERE environment = :environment AND agreement_id > :after ORDER BY agreement_id LIMIT :limit
""")


def agreements_at_risk(
    connection: Connection, environment: Environment, *, after: str | None, limit: int
) -> list[AgreementAtRisk]:
    """Agreements at risk in order of their id, after ``after``."""
    parameters = {"environment": environment, "after": after or "", "limit": limit}
    return [AgreementAtRisk(*row) for row in connection.execute(_AT_RISK, parameters)]
