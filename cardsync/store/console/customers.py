"""A customer as the console shows one: by our own number, with all cards in every state, and how fresh they are."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, text

from cardsync.core.cards import Environment
from cardsync.errors import NotFound

CARDS_MAX: Final = 200  # one person's cards, removed ones too; beyond it the page says so

Facts = Mapping[str, Any]

_CUSTOMER_COLUMNS: Final = """
    id, environment, customer_id, first_seen_at, reconciled_at, dirty_since, due_at, lane, asked_at, lease_until, failures,
    last_error, removals_held, list_oddities, applied_no, cadence, look_by,
    (SELECT e.erasure_id FROM cardsync.erasures AS e WHERE e.customer_id = customers.customer_id
     ORDER BY e.requested_at DESC LIMIT 1) AS erasure_id
"""
_CUSTOMER = text(f"SELECT {_CUSTOMER_COLUMNS} FROM cardsync.customers WHERE id = :customer")
_CARDS = text("""
    SELECT card_id, status, brand, number, name_on_card, pg_code, expires_on, is_expired, is_preferred, auto_debit, agreements,
           first_seen_at, confirmed_at, removed_at, removed_because,
           (SELECT c.awaited_at FROM cardsync.cards AS c WHERE c.card_id = r.card_id) AS awaited_at
    FROM registry.cards AS r WHERE environment = :environment AND customer_id = :customer_id
    ORDER BY (status = 'removed'), is_preferred DESC, first_seen_at DESC, card_id LIMIT :limit
""")


@dataclass(frozen=True, slots=True)
class Customer:
    """A customer's row and cards; ``more_cards`` if there are more than are shown."""

    facts: Facts
    cards: tuple[Facts, ...]
    more_cards: bool


def show(connection: Connection, customer: int, *, personal: bool) -> Customer | None:
    """One customer; without ``personal`` no name and no masked number is returned. ``None`` if there is no such one."""
    row = connection.execute(_CUSTOMER, {"customer": customer}).mappings().one_or_none()
    if row is None:
        return None
    parameters = {"environment": row["environment"], "customer_id": row["customer_id"], "limit": CARDS_MAX + 1}
    cards = [dict(card) for card in connection.execute(_CARDS, parameters).mappings()]
    return Customer(dict(row), tuple(impersonal(card, personal) for card in cards[:CARDS_MAX]), len(cards) > CARDS_MAX)


def impersonal(card: dict[str, Any], personal: bool) -> Facts:
    """The card's facts, without those about a person unless they may be seen."""
    return card if personal else {**card, "number": None, "name_on_card": None}


_IDENTITY = text("""
    SELECT o.environment, o.customer_id FROM cardsync.cards AS c JOIN cardsync.customers AS o ON o.id = c.customer
    WHERE c.card_id = :card_id
""")


def identity_of_card(connection: Connection, card_id: uuid.UUID) -> tuple[Environment, str] | None:
    """The environment and the merchant's own id of the customer who has this card."""
    row = connection.execute(_IDENTITY, {"card_id": card_id}).one_or_none()
    return None if row is None else (row.environment, row.customer_id)


_CUSTOMER_ID = text("SELECT customer_id FROM cardsync.customers WHERE id = :customer")


def customer_id_of(connection: Connection, customer: int) -> str:
    """The merchant's own id of a customer by our number. Raises ``NotFound``."""
    customer_id: str | None = connection.execute(_CUSTOMER_ID, {"customer": customer}).scalar_one_or_none()
    if customer_id is None:
        raise NotFound("there is no such customer")
    return customer_id


_ODD = text("""
    SELECT id AS customer, environment, list_oddities AS oddities, reconciled_at FROM cardsync.customers
    WHERE list_oddities <> '{}'::text[] AND id > :after ORDER BY id LIMIT :limit
""")
ODD_MAX: Final = 50


def odd(connection: Connection, *, after: int) -> list[Mapping[str, Any]]:
    """Customers whose last list had odd entries, after a number."""
    return [dict(row) for row in connection.execute(_ODD, {"after": after, "limit": ODD_MAX}).mappings()]
