"""Deletions as those see them who ask: asking, showing, replaying. What moves one on stands in ``store.deleting``.

Asking is one function in the database, ``cardsync.request_deletion`` (migration 0002), underneath HTTP, SQL and the command
line alike. It rings by NOTIFY when the asker's transaction commits.
"""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass
from typing import Any, Final, get_args

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from cardsync.core import deletion
from cardsync.core.cards import Environment
from cardsync.errors import Conflict, NotFound, Refused
from cardsync.store import receipts

PublicStatus = deletion.Status
STATUSES: Final[tuple[PublicStatus, ...]] = get_args(PublicStatus)

CHANNEL: Final = "cardsync_deletions"  # what a request notifies when it commits; the payload is the deletion's id

REQUESTED_BY_MAX: Final = 100  # characters
REASON_MAX: Final = 200  # characters
OPEN_AT_ONCE: Final = 1_000  # deletions of one customer in one answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion:
    """A deletion as its asker sees it."""

    deletion_id: uuid.UUID
    card_id: uuid.UUID
    environment: Environment
    customer_id: str
    status: PublicStatus
    requested_by: str
    reason: str | None
    requested_at: dt.datetime
    attempts: int
    next_attempt_at: dt.datetime | None
    finished_at: dt.datetime | None
    error: str | None
    when_unlocked: bool


@dataclass(frozen=True, slots=True)
class Requested:
    """The deletion that a request led to; ``fresh`` is false if it was under way, or asked for with that key, before."""

    deletion_id: uuid.UUID
    fresh: bool


_REQUEST = text("""
    SELECT asked_id, fresh FROM cardsync.request_deletion(
        cast(:card_id AS uuid), :requested_by, :reason, :idempotency_key, :request_hash, :when_unlocked
    )
""")
_NOT_FOUND: Final = "P0002"  # no_data_found
_CONFLICTS: Final = ("23505", "55000")  # unique_violation, object_not_in_prerequisite_state
_REFUSALS: Final = ("22023", "23514")  # invalid_parameter_value, check_violation


def request(
    connection: Connection,
    *,
    card_id: uuid.UUID,
    requested_by: str,
    reason: str | None = None,
    idempotency_key: str | None = None,
    request_hash: bytes | None = None,
    when_unlocked: bool = False,
) -> Requested:
    """Ask for a card's deletion: the card leaves ``active`` in this transaction, which stays usable whatever is raised.

    Raises ``NotFound``, ``Conflict`` (the key came with another request, or the card is not active) or ``Refused``.
    """
    asked = {
        "card_id": card_id,
        "requested_by": requested_by,
        "reason": reason,
        "idempotency_key": idempotency_key,
        "request_hash": request_hash,
        "when_unlocked": when_unlocked,
    }
    try:
        with connection.begin_nested():
            row = connection.execute(_REQUEST, asked).one()
    except DBAPIError as error:
        refusal = _refusal(error)
        if refusal is None:
            raise
        raise refusal from error
    return Requested(row.asked_id, row.fresh)


def _refusal(error: DBAPIError) -> Refused | None:
    """What the database's refusal means to the asker; ``None`` for whatever is no refusal."""
    code = getattr(error.orig, "sqlstate", None)
    message = getattr(getattr(error.orig, "diag", None), "message_primary", None) or "the request was refused"
    if code == _NOT_FOUND:
        return NotFound(message)
    if code in _CONFLICTS:
        return Conflict(message)
    return Refused(message) if code in _REFUSALS else None


_COLUMNS: Final = """
    deletion_id, card_id, environment, customer_id, status, requested_by, reason, requested_at, attempts, next_attempt_at,
    finished_at, error, when_unlocked
"""
_SHOW = text(f"SELECT {_COLUMNS} FROM registry.deletions WHERE deletion_id = :deletion_id")
_LIST = text(f"""
    SELECT {_COLUMNS} FROM registry.deletions
    WHERE cast(:status AS text) IS NULL OR status = :status
    ORDER BY requested_at DESC, deletion_id LIMIT :limit
""")
_OPEN = text(f"""
    SELECT {_COLUMNS} FROM registry.deletions
    WHERE deletion_id IN (SELECT deletion_id FROM cardsync.deletions WHERE customer = :customer AND phase = ANY(:open))
    ORDER BY requested_at, deletion_id LIMIT :limit
""")


def show(connection: Connection, deletion_id: uuid.UUID) -> Deletion | None:
    """One deletion."""
    row = connection.execute(_SHOW, {"deletion_id": deletion_id}).one_or_none()
    return None if row is None else Deletion(**row._asdict())


def listing(connection: Connection, *, status: PublicStatus | None, limit: int) -> list[Deletion]:
    """The newest deletions."""
    rows = connection.execute(_LIST, {"status": status, "limit": limit})
    return [Deletion(**row._asdict()) for row in rows]


def open_of_customer(connection: Connection, customer: int) -> list[Deletion]:
    """The customer's deletions that are under way, the oldest first."""
    parameters = {"customer": customer, "open": list(deletion.OPEN), "limit": OPEN_AT_ONCE}
    return [Deletion(**row._asdict()) for row in connection.execute(_OPEN, parameters)]


_FIND_CARD = text("""
    SELECT c.card_id FROM cardsync.cards AS c JOIN cardsync.customers AS o ON o.id = c.customer
    WHERE o.environment = :environment AND o.customer_id = :customer_id AND c.fingerprint = :fingerprint
""")


def find_card(
    connection: Connection, environment: Environment, customer_id: str, fingerprint: bytes
) -> uuid.UUID | None:
    """The customer's card of that token, in whatever state."""
    parameters = {"environment": environment, "customer_id": customer_id, "fingerprint": fingerprint}
    card_id: uuid.UUID | None = connection.execute(_FIND_CARD, parameters).scalar_one_or_none()
    return card_id


_LOCK_CUSTOMER = text("""
    SELECT 1 FROM cardsync.customers
    WHERE id = (SELECT customer FROM cardsync.deletions WHERE deletion_id = :deletion_id) FOR UPDATE
""")
_PHASE = text("SELECT phase FROM cardsync.deletions WHERE deletion_id = :deletion_id")
# Only the card's same life: one that was saved again since is another card, of which nobody asked anything.
_CARD_AGAIN = text("""
    UPDATE cardsync.cards AS c SET status = 'deleting', cause = 'deletion'
    FROM cardsync.deletions AS d
    WHERE d.deletion_id = :deletion_id AND c.card_id = d.card_id AND c.life = d.life AND c.status = 'active'
""")
_AGAIN = text(f"""
    UPDATE cardsync.deletions
    SET phase = :after, failures = 0, finished_at = NULL, error = NULL, locked_by = '{{}}', rung_at = clock_timestamp(),
        due_at = clock_timestamp(), tried_since = clock_timestamp(), since_no = nextval('cardsync.observation_no')
    WHERE deletion_id = :deletion_id AND phase = :phase
    RETURNING pg_notify('{CHANNEL}', deletion_id::text)
""")


def replay(connection: Connection, deletion_id: uuid.UUID) -> bool:
    """Open a failed or blocked deletion again, for another 24 hours, and ring at the commit.

    False if it is neither, or if its card is not active any more.
    """
    connection.execute(_LOCK_CUSTOMER, {"deletion_id": deletion_id})
    phase = connection.execute(_PHASE, {"deletion_id": deletion_id}).scalar_one_or_none()
    if phase not in ("failed", "blocked"):
        return False
    return reopen(connection, deletion_id, phase, "replayed")


def reopen(
    connection: Connection, deletion_id: uuid.UUID, phase: deletion.Phase, event: deletion.Event, **detail: Any
) -> bool:
    """Let a deletion that had ended begin anew, for a customer who is locked; false if its card is not active any more."""
    assert event in ("replayed", "unlocked")
    if connection.execute(_CARD_AGAIN, {"deletion_id": deletion_id}).rowcount == 0:
        return False
    moved = {"deletion_id": deletion_id, "phase": phase, "after": deletion.next_phase(phase, event)}
    connection.execute(_AGAIN, moved).one()
    receipts.add(connection, deletion_id, "replayed" if event == "replayed" else "unlocked", **detail)
    return True
