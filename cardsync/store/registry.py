"""Reads through the views of the schema ``registry``: the API shows the same as SQL access to the views, and no more."""

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
    """A card as the registry shows it. ``token`` is another room's to give (``access.token_reads``), and never printed."""

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


COLUMNS: Final = ", ".join(f"c.{f.name}" for f in fields(RegisteredCard) if f.name != "token")
_CARDS: Final = f"SELECT {COLUMNS} FROM registry.cards AS c"
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
_CUSTOMERS_CARDS: Final = text(f"{_CARDS} {_OF_CUSTOMER}")
_ONE_CARD: Final = text(f"{_CARDS} {_BY_ID}")
_AGREEMENTS_CARD: Final = text(f"{_CARDS} {_OF_AGREEMENT}")


def cards_of_customer(
    connection: Connection,
    environment: Environment,
    customer_id: str,
    *,
    statuses: Sequence[str],
    pg_code: str | None,
) -> list[RegisteredCard]:
    """A customer's cards in these states, preferred ones first, then the newest."""
    parameters = {
        "environment": environment,
        "customer_id": customer_id,
        "statuses": list(statuses),
        "pg_code": pg_code,
        "limit": CARDS_MAX,
    }
    return [_card(row) for row in connection.execute(_CUSTOMERS_CARDS, parameters)]


def card(connection: Connection, card_id: uuid.UUID) -> RegisteredCard | None:
    """One card, in any state."""
    row = connection.execute(_ONE_CARD, {"card_id": card_id}).one_or_none()
    return None if row is None else _card(row)


def card_of_agreement(connection: Connection, environment: Environment, agreement_id: str) -> RegisteredCard | None:
    """The active card that an agreement is charged to."""
    parameters = {"environment": environment, "agreement_id": agreement_id}
    row = connection.execute(_AGREEMENTS_CARD, parameters).one_or_none()
    return None if row is None else _card(row)


def _card(row: Row[Any]) -> RegisteredCard:
    return RegisteredCard(**row._asdict())


_RECONCILED_AT = text("""
    SELECT reconciled_at FROM registry.customers WHERE environment = :environment AND customer_id = :customer_id
""")


def reconciled_at(connection: Connection, environment: Environment, customer_id: str) -> dt.datetime | None:
    """When this customer's last believed list was asked for; ``None`` if there is none."""
    parameters = {"environment": environment, "customer_id": customer_id}
    moment: dt.datetime | None = connection.execute(_RECONCILED_AT, parameters).scalar_one_or_none()
    return moment


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredCustomer:
    """How fresh what is known of a customer is."""

    environment: Environment
    customer_id: str
    reconciled_at: dt.datetime | None
    dirty_since: dt.datetime | None
    last_error: str | None


_CUSTOMER = text("""
    SELECT environment, customer_id, reconciled_at, dirty_since, last_error FROM registry.customers
    WHERE environment = :environment AND customer_id = :customer_id
""")


def customer(connection: Connection, environment: Environment, customer_id: str) -> RegisteredCustomer | None:
    """One customer; ``None`` for one that is not known."""
    row = connection.execute(_CUSTOMER, {"environment": environment, "customer_id": customer_id}).one_or_none()
    return None if row is None else RegisteredCustomer(**row._asdict())
