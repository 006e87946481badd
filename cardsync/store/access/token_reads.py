"""Tokens for the holders of API keys, and which key was given which card's token, and when.

One function of the owner's gives tokens and records them in one statement (``cardsync.give_tokens``, migration 0021). A read
whose record cannot be written gives none. A record holds ids alone: no token, and nothing about a person. What a service reads
in SQL is not seen here (docs/deployment.md names pgaudit for that).
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from cardsync.ciphers import KeyRing, stored_card_token
from cardsync.core.cards import Token

_GIVE = text("SELECT card_id, token FROM cardsync.give_tokens(:key_id, cast(:card_ids AS uuid[]))")


def give(
    connection: Connection, key_id: uuid.UUID, card_ids: Sequence[uuid.UUID], ring: KeyRing
) -> dict[uuid.UUID, Token]:
    """The tokens of those of the cards that are active, each with a record that this key was given it.

    None for a key that may not read tokens, or is revoked. Raises ``UnknownSecretKey`` or ``MalformedBody``, as
    ``stored_card_token``; then the caller gives none of them.
    """
    if not card_ids:
        return {}
    rows = connection.execute(_GIVE, {"key_id": key_id, "card_ids": list(card_ids)})
    return {row.card_id: stored_card_token(ring, row.card_id, row.token) for row in rows}


@dataclass(frozen=True, slots=True)
class TokenRead:
    """One read, as an operator sees it."""

    at: dt.datetime
    key_id: uuid.UUID
    name: str | None
    card_id: uuid.UUID


_LIST = text("""
    SELECT r.at, r.key_id, k.name, r.card_id
    FROM cardsync.token_reads AS r LEFT JOIN cardsync.api_keys AS k USING (key_id)
    WHERE (cast(:card_id AS uuid) IS NULL OR r.card_id = :card_id)
      AND (cast(:key_id AS uuid) IS NULL OR r.key_id = :key_id)
    ORDER BY r.at DESC, r.read_no DESC LIMIT :limit
""")


def listing(
    connection: Connection, *, card_id: uuid.UUID | None, key_id: uuid.UUID | None, limit: int
) -> list[TokenRead]:
    """The newest reads, of one card or by one key if given."""
    rows = connection.execute(_LIST, {"card_id": card_id, "key_id": key_id, "limit": limit})
    return [TokenRead(row.at, row.key_id, row.name, row.card_id) for row in rows]
