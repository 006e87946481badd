"""Keys of the API: 256 random bits each, of which only a hash is kept, so that the table opens nothing.

A plain SHA-256 is enough, and fast: slow password hashes are for what people can guess.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import Connection, text

Scope = Literal["cards:read", "tokens:read", "cards:delete", "cards:reconcile", "ops"]
SCOPES: Final[tuple[Scope, ...]] = ("cards:read", "tokens:read", "cards:delete", "cards:reconcile", "ops")

NAME_MAX: Final = 100  # characters
_PREFIX: Final = "csk_"  # makes a key that leaked easy to search for
_WELL_FORMED = re.compile(rf"{_PREFIX}[A-Za-z0-9_-]{{43}}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """Who calls, and what they may do."""

    key_id: uuid.UUID
    name: str
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class ListedKey:
    """A key as an operator sees it."""

    key_id: uuid.UUID
    name: str
    scopes: tuple[str, ...]
    created_at: dt.datetime
    revoked_at: dt.datetime | None


def new_key() -> str:
    """Make a key up: ``csk_`` and 32 random bytes in URL-safe base64. It is shown once and kept nowhere."""
    return _PREFIX + secrets.token_urlsafe(32)


def is_well_formed(key: str) -> bool:
    """Tell whether ``key`` could be one of ours, without a look into the database."""
    return _WELL_FORMED.fullmatch(key) is not None


def key_hash(key: str) -> bytes:
    """The 32 bytes that are kept of a key."""
    return hashlib.sha256(key.encode()).digest()


_CREATE = text("""
    INSERT INTO cardsync.api_keys (name, key_hash, scopes) VALUES (:name, :key_hash, cast(:scopes AS text[]))
    RETURNING key_id
""")


def create(connection: Connection, name: str, key_hash: bytes, scopes: Sequence[Scope]) -> uuid.UUID:
    """Keep a new key's hash."""
    parameters = {"name": name, "key_hash": key_hash, "scopes": sorted(set(scopes))}
    key_id: uuid.UUID = connection.execute(_CREATE, parameters).scalar_one()
    return key_id


_FIND = text("SELECT key_id, name, scopes FROM cardsync.api_keys WHERE key_hash = :key_hash AND revoked_at IS NULL")


def find(connection: Connection, key_hash: bytes) -> ApiKey | None:
    """The key with that hash, unless it is unknown or revoked."""
    row = connection.execute(_FIND, {"key_hash": key_hash}).one_or_none()
    return None if row is None else ApiKey(row.key_id, row.name, frozenset(row.scopes))


_LIST = text("SELECT key_id, name, scopes, created_at, revoked_at FROM cardsync.api_keys ORDER BY created_at, key_id")


def listing(connection: Connection) -> list[ListedKey]:
    """All keys ever made, revoked ones too, the oldest first."""
    rows = connection.execute(_LIST)
    return [ListedKey(r.key_id, r.name, tuple(r.scopes), r.created_at, r.revoked_at) for r in rows]


_REVOKE = text("""
    UPDATE cardsync.api_keys SET revoked_at = clock_timestamp() WHERE key_id = :key_id AND revoked_at IS NULL
""")


def revoke(connection: Connection, key_id: uuid.UUID) -> bool:
    """Let a key open nothing from now on; false if there is no such key, or it was revoked before."""
    return connection.execute(_REVOKE, {"key_id": key_id}).rowcount == 1
