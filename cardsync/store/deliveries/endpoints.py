"""Endpoints: an operator adds, shows, disables, enables and removes them. Their secrets are encrypted (``cardsync.ciphers``).

A removed endpoint keeps its row, since deliveries name it; its name is free again. A *disabled* one is sent nothing. For three
days notifications still queue for it, so that one that is enabled again misses nothing; after that it gets none that are new.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from cardsync.ciphers import KeyRing
from cardsync.core.delivery import DisabledBecause, Kind
from cardsync.core.webhooks import OLD_SECRET_SECONDS
from cardsync.errors import Conflict, NotFound
from cardsync.store import feed

Status = Literal["enabled", "disabled"]

NAME_MAX: Final = 100
URL_MAX: Final = 2_000
ENDPOINTS_MAX: Final = (
    50  # each may have eight calls under way in every worker's process; far beyond a merchant's systems
)

# The endpoints that a notification is kept for, as a condition on ``cardsync.endpoints AS e``.
GETS_NOTIFICATIONS: Final = """
    e.kind = 'notifications'
    AND (e.status = 'enabled' OR e.status = 'disabled' AND e.disabled_at > statement_timestamp() - interval '3 days')
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An endpoint as an operator sees it, without its secret.

    ``behind``: changes that it does not have yet. ``oldest_pending_at``: when the oldest of what waits for it was made.
    """

    endpoint_id: uuid.UUID
    name: str
    url: str
    kind: Kind
    status: Status
    disabled_because: DisabledBecause | None
    disabled_at: dt.datetime | None
    created_at: dt.datetime
    delivered_at: dt.datetime | None
    failing_since: dt.datetime | None
    circuit_open_since: dt.datetime | None
    next_try_at: dt.datetime | None
    last_error: str | None
    pending: int
    failed: int
    oldest_pending_at: dt.datetime | None
    cursor: int | None
    behind: int | None


@dataclass(frozen=True, slots=True)
class Secrets:
    """What signs messages to an endpoint, encrypted: the secret, and the one before while it still signs."""

    secret: str = field(repr=False)
    previous: str | None = field(repr=False)


def about(endpoint_id: uuid.UUID) -> bytes:
    """What an endpoint's secret is bound to."""
    return f"endpoint {endpoint_id}".encode()


_COUNT = text("SELECT count(*) FROM cardsync.endpoints WHERE status <> 'removed'")
_ADD = text("""
    INSERT INTO cardsync.endpoints (endpoint_id, name, url, kind, secret, cursor_seq)
    VALUES (:endpoint_id, :name, :url, :kind, :secret,
            CASE WHEN :kind = 'changes' THEN coalesce(:from_seq, (SELECT seq FROM cardsync.feed_head)) END)
""")


def add(
    connection: Connection,
    endpoint_id: uuid.UUID,
    *,
    name: str,
    url: str,
    kind: Kind,
    secret: str,
    from_seq: int | None,
) -> None:
    """Add an endpoint; one of kind ``changes`` begins after ``from_seq``, or at the feed's head. Raises ``Conflict``."""
    if connection.execute(_COUNT).scalar_one() >= ENDPOINTS_MAX:
        raise Conflict(f"there are {ENDPOINTS_MAX} endpoints, and no more are allowed")
    parameters = {"endpoint_id": endpoint_id, "name": name, "url": url, "kind": kind, "secret": secret}
    try:
        with connection.begin_nested():
            connection.execute(_ADD, {**parameters, "from_seq": from_seq})
    except IntegrityError:
        raise Conflict("there is an endpoint of this name already") from None


_COLUMNS: Final = f"""
    e.endpoint_id, e.name, e.url, e.kind, e.status, e.disabled_because, e.disabled_at, e.created_at, e.delivered_at,
    e.failing_since, e.opened_at AS circuit_open_since,
    CASE WHEN e.kind = 'changes' AND e.attempts > 0 THEN e.due_at WHEN e.opened_at IS NOT NULL THEN e.shut_until END
        AS next_try_at,
    e.last_error, coalesce(waiting.pending, 0) AS pending, coalesce(failed.failed, 0) AS failed,
    CASE WHEN e.kind = 'changes' THEN {feed.NEXT_AT} ELSE waiting.oldest_pending_at END AS oldest_pending_at,
    e.cursor_seq AS cursor,
    CASE WHEN e.kind = 'changes' THEN {feed.BEHIND} END AS behind
"""
COUNTED_MAX: Final = 100_000  # deliveries of an endpoint in a state; a count ends there, or earlier
_SHOWN: Final = f"""
    SELECT {_COLUMNS} FROM cardsync.endpoints AS e
    CROSS JOIN LATERAL (
        SELECT count(*) AS pending, min(made_at) AS oldest_pending_at FROM (
            SELECT made_at FROM cardsync.deliveries AS d WHERE d.endpoint_id = e.endpoint_id AND d.status = 'pending'
            ORDER BY made_at LIMIT :counted_max
        ) AS counted
    ) AS waiting
    CROSS JOIN LATERAL (
        SELECT count(*) AS failed FROM (
            SELECT FROM cardsync.deliveries AS d WHERE d.endpoint_id = e.endpoint_id AND d.status = 'failed'
            ORDER BY d.made_at, d.event_id LIMIT :counted_max  -- an index of failed ones alone has this order
        ) AS counted
    ) AS failed
    WHERE e.status <> 'removed'
"""
_LIST = text(f"{_SHOWN} ORDER BY e.name")
_SHOW = text(f"{_SHOWN} AND e.name = :name")


def listing(connection: Connection, *, counted_max: int = COUNTED_MAX) -> list[Endpoint]:
    """All endpoints, by name. Counts of deliveries end at ``counted_max``."""
    return [Endpoint(**row._asdict()) for row in connection.execute(_LIST, {"counted_max": counted_max})]


_NAMES = text("SELECT name FROM cardsync.endpoints WHERE status <> 'removed' ORDER BY name")


def names(connection: Connection) -> list[str]:
    """The names of all endpoints."""
    return list(connection.execute(_NAMES).scalars())


def show(connection: Connection, name: str) -> Endpoint:
    """One endpoint, by name. Raises ``NotFound``."""
    row = connection.execute(_SHOW, {"name": name, "counted_max": COUNTED_MAX}).one_or_none()
    if row is None:
        raise NotFound("there is no endpoint of this name")
    return Endpoint(**row._asdict())


@dataclass(frozen=True, slots=True)
class Lag:
    """How far an endpoint is behind: the age of the oldest notification or change that waits for it, and how many changes do."""

    name: str
    is_enabled: bool
    is_circuit_open: bool
    oldest_pending_seconds: float
    behind: int | None  # of one that gets changes


_LAGS = text(f"""
    SELECT e.name, e.status = 'enabled', e.opened_at IS NOT NULL,
        coalesce(extract(epoch FROM clock_timestamp() - CASE WHEN e.kind = 'notifications' THEN (
            SELECT min(made_at) FROM cardsync.deliveries AS d WHERE d.endpoint_id = e.endpoint_id AND d.status = 'pending'
        ) ELSE {feed.NEXT_AT} END), 0)::float8,
        CASE WHEN e.kind = 'changes' THEN {feed.BEHIND} END
    FROM cardsync.endpoints AS e WHERE e.status <> 'removed' ORDER BY e.name
""")


def lags(connection: Connection) -> list[Lag]:
    """How far each endpoint is behind; an index answers."""
    return [Lag(*row) for row in connection.execute(_LAGS)]


_DISABLED = text("SELECT name, disabled_because FROM cardsync.endpoints WHERE status = 'disabled' ORDER BY name")


def disabled(connection: Connection) -> dict[str, DisabledBecause]:
    """The endpoints that are sent nothing until a person enables or removes them, each with why."""
    return {row.name: row.disabled_because for row in connection.execute(_DISABLED)}


_SECRETS = text("""
    SELECT secret, CASE WHEN previous_until > clock_timestamp() THEN previous_secret END
    FROM cardsync.endpoints WHERE endpoint_id = :endpoint_id
""")


def secrets_of(connection: Connection, endpoint_id: uuid.UUID) -> Secrets:
    """What signs the endpoint's messages now."""
    return Secrets(*connection.execute(_SECRETS, {"endpoint_id": endpoint_id}).one())


Change = Callable[[Connection, str], bool]

_DISABLE = text("""
    UPDATE cardsync.endpoints SET status = 'disabled', disabled_because = :because, disabled_at = clock_timestamp()
    WHERE name = :name AND status = 'enabled'
""")
# What went wrong before is forgotten: it is tried at once.
_ENABLE = text("""
    UPDATE cardsync.endpoints
    SET status = 'enabled', disabled_because = NULL, disabled_at = NULL, failing = '{}', failing_since = NULL,
        opened_at = NULL, shut_until = NULL, attempts = 0, due_at = clock_timestamp(), last_error = NULL
    WHERE name = :name AND status = 'disabled'
""")
_REMOVE = text("""
    UPDATE cardsync.endpoints
    SET status = 'removed', disabled_because = NULL, disabled_at = NULL, previous_secret = NULL, previous_until = NULL,
        ticket = ticket + 1
    WHERE name = :name AND status <> 'removed'
""")
_ROTATE = text("""
    UPDATE cardsync.endpoints
    SET previous_secret = secret, previous_until = clock_timestamp() + make_interval(secs => :seconds), secret = :secret
    WHERE endpoint_id = :endpoint_id AND status <> 'removed'
    RETURNING previous_until
""")


def disable(connection: Connection, name: str) -> bool:
    """Send nothing more to an endpoint; false if it is disabled already, or there is none."""
    return connection.execute(_DISABLE, {"name": name, "because": "operator"}).rowcount == 1


def enable(connection: Connection, name: str) -> bool:
    """Go on where a disabled endpoint was left; false if it is not disabled."""
    return connection.execute(_ENABLE, {"name": name}).rowcount == 1


def remove(connection: Connection, name: str) -> bool:
    """Remove an endpoint; what waits for it is given up (``claims.give_up``). False if there is none."""
    return connection.execute(_REMOVE, {"name": name}).rowcount == 1


def rotate(connection: Connection, endpoint_id: uuid.UUID, secret: str) -> dt.datetime:
    """Replace the secret; the one before signs beside it until the time that is returned. Raises ``NotFound``."""
    parameters = {"endpoint_id": endpoint_id, "secret": secret, "seconds": OLD_SECRET_SECONDS}
    until: dt.datetime | None = connection.execute(_ROTATE, parameters).scalar_one_or_none()
    if until is None:
        raise NotFound("there is no endpoint of this name")
    return until


_OF_OTHER_KEYS = text("""
    SELECT endpoint_id, secret, previous_secret FROM cardsync.endpoints
    WHERE status <> 'removed' AND (NOT starts_with(secret, :prefix) OR NOT starts_with(previous_secret, :prefix))
    FOR NO KEY UPDATE
""")
_REENCRYPT = text("""
    UPDATE cardsync.endpoints SET secret = :secret, previous_secret = :previous WHERE endpoint_id = :endpoint_id
""")


def reencrypt(connection: Connection, ring: KeyRing) -> int:
    """Encrypt the secrets with the ring's current key; how many endpoints had others. Raises ``UnknownSecretKey``."""
    rows = connection.execute(_OF_OTHER_KEYS, {"prefix": ring.prefix}).all()
    for endpoint_id, secret, previous in rows:
        bound = about(endpoint_id)
        parameters = {
            "endpoint_id": endpoint_id,
            "secret": ring.encrypt(ring.decrypt(secret, bound), bound),
            "previous": None if previous is None else ring.encrypt(ring.decrypt(previous, bound), bound),
        }
        connection.execute(_REENCRYPT, parameters)
    return len(rows)


_COUNT_OF_OTHER_KEYS = text("""
    SELECT count(*) FROM cardsync.endpoints
    WHERE status <> 'removed' AND (NOT starts_with(secret, :prefix) OR NOT starts_with(previous_secret, :prefix))
""")


def count_of_other_keys(connection: Connection, ring: KeyRing) -> int:
    """How many endpoints have a secret that is not encrypted with the ring's current key."""
    found: int = connection.execute(_COUNT_OF_OTHER_KEYS, {"prefix": ring.prefix}).scalar_one()
    return found
