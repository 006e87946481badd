"""Reads through the views of the schema ``registry``: the API shows what a service with SQL access sees, no more."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

from sqlalchemy import Connection, Row, text

from cardsync.core.cards import Environment

CARDS_MAX: Final = 1_000  # cards of one customer in one answer: far beyond any shopper, and bounded


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredCard:
    """A card as the registry shows it. ``token`` is read only when asked for, set only if active, never printed."""

    card_id: uuid.UUID
    environment: Environment
    customer_id: str
    status: str
    pg_code: str | None
    pg_name: str | None
    brand: str | None
    number: str | None
    last4: str | None
    expiry_month: str | None
    expiry_year: str | None
    expires_on: dt.date | None
    is_expired: bool
    is_preferred: bool
    cvv_required: bool | None
    auto_debit: bool
    agreements: list[str]
    name_on_card: str | None
    first_seen_at: dt.datetime
    confirmed_at: dt.datetime | None
    removed_at: dt.datetime | None
    removed_because: str | None
    token: str | None = field(default=None, repr=False)


_COLUMNS: Final = ", ".join(f"c.{f.name}" for f in fields(RegisteredCard) if f.name != "token")
_PLAIN: Final = f"SELECT {_COLUMNS} FROM registry.cards AS c"
_WITH_TOKENS: Final = (
    f"SELECT {_COLUMNS}, t.token FROM registry.cards AS c LEFT JOIN registry.card_tokens AS t USING (card_id)"
)
_OF_CUSTOMER: Final = """
    WHERE c.environment = :environment AND c.customer_id = :customer_id
      AND c.status = ANY(cast(:statuses AS text[]))
      AND (cast(:pg_code AS text) IS NULL OR c.pg_code = :pg_code)
    ORDER BY c.is_preferred DESC, c.first_seen_at DESC, c.card_id LIMIT :limit
"""
_BY_ID: Final = "WHERE c.card_id = :card_id"
_OF_AGREEMENT: Final = """
    WHERE c.card_id = (
        SELECT a.card_id FROM registry.agreement_cards AS a
        WHERE a.environment = :environment AND a.agreement_id = :agreement_id
    )
"""
# Which of the two is asked, by whether tokens are: without them the view that holds them is not even touched.
_CUSTOMERS_CARDS: Final = {
    tokens: text(f"{head} {_OF_CUSTOMER}") for tokens, head in ((False, _PLAIN), (True, _WITH_TOKENS))
}
_ONE_CARD: Final = {tokens: text(f"{head} {_BY_ID}") for tokens, head in ((False, _PLAIN), (True, _WITH_TOKENS))}
_AGREEMENTS_CARD: Final = {
    tokens: text(f"{head} {_OF_AGREEMENT}") for tokens, head in ((False, _PLAIN), (True, _WITH_TOKENS))
}


def cards_of_customer(
    connection: Connection,
    environment: Environment,
    customer_id: str,
    *,
    statuses: Sequence[str],
    pg_code: str | None,
    tokens: bool,
) -> list[RegisteredCard]:
    """A customer's cards in these states, preferred ones first, then the newest."""
    parameters = {
        "environment": environment,
        "customer_id": customer_id,
        "statuses": list(statuses),
        "pg_code": pg_code,
        "limit": CARDS_MAX,
    }
    return [_card(row) for row in connection.execute(_CUSTOMERS_CARDS[tokens], parameters)]


def card(connection: Connection, card_id: uuid.UUID, *, tokens: bool) -> RegisteredCard | None:
    """One card, in whatever state."""
    row = connection.execute(_ONE_CARD[tokens], {"card_id": card_id}).one_or_none()
    return None if row is None else _card(row)


def card_of_agreement(
    connection: Connection, environment: Environment, agreement_id: str, *, tokens: bool
) -> RegisteredCard | None:
    """The active card that an agreement is charged to."""
    parameters = {"environment": environment, "agreement_id": agreement_id}
    row = connection.execute(_AGREEMENTS_CARD[tokens], parameters).one_or_none()
    return None if row is None else _card(row)


def _card(row: Row[Any]) -> RegisteredCard:
    return RegisteredCard(**row._asdict())


_RECONCILED_AT = text("""
    SELECT reconciled_at FROM registry.customers WHERE environment = :environment AND customer_id = :customer_id
""")


def reconciled_at(connection: Connection, environment: Environment, customer_id: str) -> dt.datetime | None:
    """When the list was asked for that was last believed of this customer."""
    parameters = {"environment": environment, "customer_id": customer_id}
    moment: dt.datetime | None = connection.execute(_RECONCILED_AT, parameters).scalar_one_or_none()
    return moment
