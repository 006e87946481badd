"""Keys of the API: 256 random bits each, of which only a hash is kept, so that the table opens nothing.

A plain SHA-256 is enough, and fast: slow password hashes are for what people can guess. The first characters of a key are kept
too (``prefix``), so that a key found in a log can be told from the others; they leave 232 bits unknown.

A key belongs to an *owner*, by default its name. Idempotency keys and the brake on deletions go by the owner, which a rotation
keeps. Rotation makes a new key of the same name, scopes and quotas; the old one goes on for 24 hours, so that a service can be
given the new one without an outage, or until it is revoked.

A restored backup brings revoked keys back. So every key of it is *held*: it is as good as revoked (``revoked_at``) until an
operator releases it, and ``held_at`` says that this may be done.
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

from cardsync.errors import Conflict, NotFound

Scope = Literal["cards:read", "tokens:read", "cards:delete", "cards:reconcile", "ops"]
SCOPES: Final[tuple[Scope, ...]] = ("cards:read", "tokens:read", "cards:delete", "cards:reconcile", "ops")

NAME_MAX: Final = 100  # characters, of an owner too
LIFE_DAYS_MAX: Final = 3_650
CALLS_PER_DAY_MAX: Final = 100_000_000
REQUESTS_PER_SECOND_MAX: Final = 10_000
# What a key without a number of its own may send: far above one service's need, and below what slows a database down for others.
REQUESTS_PER_SECOND: Final = 100
ROTATED_KEY_HOURS: Final = 24

_PREFIX: Final = (
    "cs_live_"  # makes a key that leaked easy to search for; those made before begin with csk_ or cs_, and stay valid
)
_PREFIX_SHOWN: Final = 12  # characters: the mark and 24 bits, which tell a deployment's keys apart
_WELL_FORMED = re.compile(r"(csk_|cs_|cs_live_)[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """Who calls, and what they may do. ``calls_per_day`` is ``None`` for the share of the allowance that any key has."""

    key_id: uuid.UUID
    name: str
    scopes: frozenset[str]
    owner: str
    calls_per_day: int | None = None
    requests_per_second: int = REQUESTS_PER_SECOND

    @property
    def asker(self) -> str:
        """Whose idempotency keys, deletions and erasures its requests are."""
        return f"api:{self.owner}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a new key may do beside its scopes, and for how long. Without an owner it belongs to its name."""

    owner: str | None = None
    expires_in_days: int | None = None
    calls_per_day: int | None = None
    requests_per_second: int | None = None


@dataclass(frozen=True, slots=True)
class ListedKey:
    """A key as an operator sees it. ``prefix`` is not known of a key made by an earlier release."""

    key_id: uuid.UUID
    name: str
    owner: str
    prefix: str | None
    scopes: tuple[str, ...]
    calls_per_day: int | None
    requests_per_second: int | None
    created_at: dt.datetime
    last_used_at: dt.datetime | None
    expires_at: dt.datetime | None
    revoked_at: dt.datetime | None
    held_at: dt.datetime | None


def new_key() -> str:
    """Make a new key: ``cs_live_`` and 32 random bytes in URL-safe base64. It is shown once and never stored."""
    return _PREFIX + secrets.token_urlsafe(32)


def is_well_formed(key: str) -> bool:
    """Tell whether ``key`` could be one of ours, without a look into the database."""
    return _WELL_FORMED.fullmatch(key) is not None


def key_hash(key: str) -> bytes:
    """The 32 bytes that are kept of a key."""
    return hashlib.sha256(key.encode()).digest()


def shown_prefix(key: str) -> str:
    """The first characters of a key, which may be shown."""
    return key[:_PREFIX_SHOWN]


_CREATE = text("""
    INSERT INTO cardsync.api_keys (name, key_hash, prefix, scopes, owner, expires_at, calls_per_day, requests_per_second)
    VALUES (:name, :key_hash, :prefix, cast(:scopes AS text[]), :owner,
            clock_timestamp() + make_interval(days => cast(:days AS integer)), :calls_per_day, :requests_per_second)
    RETURNING key_id
""")


def create(
    connection: Connection,
    name: str,
    key_hash: bytes,
    scopes: Sequence[Scope],
    *,
    prefix: str | None = None,
    terms: Terms | None = None,
) -> uuid.UUID:
    """Keep a new key's hash, and its prefix to be shown."""
    terms = terms or Terms()
    parameters = {
        "name": name,
        "key_hash": key_hash,
        "prefix": prefix,
        "scopes": sorted(set(scopes)),
        "owner": terms.owner or name,
        "days": terms.expires_in_days,
        "calls_per_day": terms.calls_per_day,
        "requests_per_second": terms.requests_per_second,
    }
    key_id: uuid.UUID = connection.execute(_CREATE, parameters).scalar_one()
    return key_id


_LIVES: Final = "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())"
_FIND = text(f"""
    SELECT key_id, name, scopes, coalesce(owner, name) AS owner, calls_per_day,
           coalesce(requests_per_second, {REQUESTS_PER_SECOND}) AS requests_per_second
    FROM cardsync.api_keys WHERE key_hash = :key_hash AND {_LIVES}
""")


def find(connection: Connection, key_hash: bytes) -> ApiKey | None:
    """The key with that hash, unless it is unknown, revoked or expired."""
    row = connection.execute(_FIND, {"key_hash": key_hash}).one_or_none()
    if row is None:
        return None
    return ApiKey(row.key_id, row.name, frozenset(row.scopes), row.owner, row.calls_per_day, row.requests_per_second)


_LIST = text("""
    SELECT key_id, name, coalesce(owner, name) AS owner, prefix, scopes, calls_per_day, requests_per_second, created_at,
           last_used_at, expires_at, revoked_at, held_at
    FROM cardsync.api_keys LEFT JOIN cardsync.key_use USING (key_id) ORDER BY created_at, key_id
""")


def listing(connection: Connection) -> list[ListedKey]:
    """All keys ever made, revoked ones too, the oldest first."""
    rows = connection.execute(_LIST)
    return [ListedKey(**{**row._asdict(), "scopes": tuple(row.scopes)}) for row in rows]


_REVOKE = text("""
    UPDATE cardsync.api_keys SET revoked_at = coalesce(revoked_at, clock_timestamp()), held_at = NULL
    WHERE key_id = :key_id AND (revoked_at IS NULL OR held_at IS NOT NULL)
""")
_RELEASE = text("""
    UPDATE cardsync.api_keys SET revoked_at = NULL, held_at = NULL
    WHERE held_at IS NOT NULL AND (cast(:key_ids AS uuid[]) IS NULL OR key_id = ANY(:key_ids))
    RETURNING key_id
""")
_COUNT_HELD = text("SELECT count(*) FROM cardsync.api_keys WHERE held_at IS NOT NULL")


def revoke(connection: Connection, key_id: uuid.UUID) -> bool:
    """Revoke a key; false if there is no such key, or it was revoked before."""
    return connection.execute(_REVOKE, {"key_id": key_id}).rowcount == 1


def release(connection: Connection, key_ids: Sequence[uuid.UUID] | None = None) -> list[uuid.UUID]:
    """Let these keys that are held since a restore work again, or all of them; return those that were held."""
    return list(connection.execute(_RELEASE, {"key_ids": None if key_ids is None else list(key_ids)}).scalars())


def count_held(connection: Connection) -> int:
    """How many keys are held since a restore."""
    held: int = connection.execute(_COUNT_HELD).scalar_one()
    return held


_CURRENT = text(f"""
    SELECT key_id FROM cardsync.api_keys WHERE name = :name AND replaced_at IS NULL AND {_LIVES} FOR UPDATE
""")
_COPY = text("""
    INSERT INTO cardsync.api_keys (name, key_hash, prefix, scopes, owner, expires_at, calls_per_day, requests_per_second)
    SELECT name, :key_hash, :prefix, scopes, coalesce(owner, name), clock_timestamp() + (expires_at - created_at),
           calls_per_day, requests_per_second
    FROM cardsync.api_keys WHERE key_id = :key_id
    RETURNING key_id
""")
_REPLACE = text(f"""
    UPDATE cardsync.api_keys
    SET replaced_at = clock_timestamp(),
        expires_at = least(expires_at, clock_timestamp() + interval '{ROTATED_KEY_HOURS} hours')
    WHERE key_id = :key_id
    RETURNING expires_at
""")


@dataclass(frozen=True, slots=True)
class Rotated:
    """The new key's id, and the old one's with the moment at which it ends."""

    key_id: uuid.UUID
    old_key_id: uuid.UUID
    old_expires_at: dt.datetime


def rotate(connection: Connection, name: str, key: str) -> Rotated:
    """Make ``key`` the successor of the key of that name: same owner, scopes and quotas, and as long a life again.

    Raises ``NotFound`` if no key of that name is valid, and ``Conflict`` if several are: revoke one of them first.
    """
    current = list(connection.execute(_CURRENT, {"name": name}).scalars())
    if not current:
        raise NotFound("no key of that name is valid")
    if len(current) > 1:
        raise Conflict(f"{len(current)} keys of that name are valid: revoke all but one of them")
    (old,) = current
    copied = {"key_hash": key_hash(key), "prefix": shown_prefix(key), "key_id": old}
    new: uuid.UUID = connection.execute(_COPY, copied).scalar_one()
    return Rotated(new, old, connection.execute(_REPLACE, {"key_id": old}).scalar_one())
