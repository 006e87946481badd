"""Requests for deletions: asking, showing, replaying. Moving a deletion on stands in ``store.deletions.transitions``.

A request is one function in the database, ``cardsync.request_deletion`` (migration 0018); HTTP, SQL and the command line all use
it. It rings by NOTIFY when the asker's transaction commits (not while the server's queue of notifications is half full: migration
0020).

An *asker* is what the database knows of who asks: the owner of the API key (``api:...``), or the login (``sql:...``). What
somebody says of itself is ``requested_by``. Idempotency keys belong to an asker; only their hashes are kept. A request beyond
what one asker may ask for in a day is *held*: nothing is called until an operator releases it (``store.deletions.askers``). A
card whose deletion Ottu refused is not asked for again within an hour while an agreement still locks it: the answer is that
deletion.
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
from cardsync.store.deletions import receipts

PublicStatus = deletion.Status
STATUSES: Final[tuple[PublicStatus, ...]] = get_args(PublicStatus)

NO_API: Final = "Ottu offers no API for cards here (OTTU_CARDS_API=unavailable)"  # the view knows this text

# Why a deletion does not go on, for programs; the view ``registry.deletions`` says it.
CODES: Final = ("held", "card_locked", "cancelled", "cards_api_unavailable", "gave_up")

CHANNEL: Final = "cardsync_deletions"  # what a request notifies when it commits; the payload is the deletion's id

REASON_MAX: Final = 200  # characters


def in_phase(deletions: str, *phases: deletion.Phase) -> str:
    """SQL: whether a deletion of the table of that name is in one of these phases (``core.deletion``)."""
    return f"{deletions}.phase IN ({', '.join(repr(phase) for phase in phases)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion:
    """A deletion as its asker sees it. ``code`` is a word for why it is held, blocked or failed (one of ``CODES``)."""

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
    asker: str | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Requested:
    """The deletion that a request led to; ``fresh`` is false if it was under way, or asked for with that key, before.

    ``held``: the brake on requests holds it.
    """

    deletion_id: uuid.UUID
    fresh: bool
    held: bool = False


_REQUEST = text("""
    SELECT asked_id, fresh, held FROM cardsync.request_deletion(
        cast(:card_id AS uuid), :requested_by, :reason, :idempotency_key, cast(:request_hashes AS bytea[]), :when_unlocked,
        cast(:asker AS text)
    )
""")
_NOT_FOUND: Final = "P0002"  # no_data_found
_KEY_REUSED: Final = "23505"  # unique_violation
_NOT_ACTIVE: Final = "55000"  # object_not_in_prerequisite_state
_REFUSALS: Final = ("22023", "23514")  # invalid_parameter_value, check_violation


def request(
    connection: Connection,
    *,
    card_id: uuid.UUID,
    requested_by: str,
    reason: str | None = None,
    idempotency_key: str | None = None,
    request_hash: bytes | None = None,
    earlier_hash: bytes | None = None,
    when_unlocked: bool = False,
    asker: str | None = None,
) -> Requested:
    """Ask for a card's deletion: the card leaves ``active`` in this transaction, which stays usable whatever is raised.

    Without an ``asker`` it is the login. ``earlier_hash`` is the same request's hash as the release before made it.
    Raises ``NotFound``, ``Conflict`` (the key came with another request, or the card is not active) or ``Refused``.
    """
    asked = {
        "card_id": card_id,
        "requested_by": requested_by,
        "reason": reason,
        "idempotency_key": idempotency_key,
        "request_hashes": [one for one in (request_hash, earlier_hash) if one is not None] or None,
        "when_unlocked": when_unlocked,
        "asker": asker,
    }
    try:
        with connection.begin_nested():
            row = connection.execute(_REQUEST, asked).one()
    except DBAPIError as error:
        refusal = _refusal(connection, card_id, error)
        if refusal is None:
            raise
        raise refusal from error
    return Requested(row.asked_id, row.fresh, row.held)


_STATE = text("SELECT status FROM cardsync.cards WHERE card_id = :card_id")


def _refusal(connection: Connection, card_id: uuid.UUID, error: DBAPIError) -> Refused | None:
    """What the database's refusal means to the asker; ``None`` for whatever is no refusal."""
    state = getattr(error.orig, "sqlstate", None)
    message = getattr(getattr(error.orig, "diag", None), "message_primary", None) or "the request was refused"
    if state == _NOT_FOUND:
        return NotFound(message, code="card_not_found")
    if state == _KEY_REUSED:
        return Conflict(message, code="idempotency_key_reused")
    if state == _NOT_ACTIVE:
        status = connection.execute(_STATE, {"card_id": card_id}).scalar_one_or_none()
        return Conflict(message, code=f"card_{status}" if status in ("removed", "unconfirmed") else None)
    return Refused(message) if state in _REFUSALS else None


_COLUMNS: Final = """
    deletion_id, card_id, environment, customer_id, status, requested_by, reason, requested_at, attempts, next_attempt_at,
    finished_at, error, when_unlocked, asker, code
"""
_SHOW = text(f"SELECT {_COLUMNS} FROM registry.deletions WHERE deletion_id = :deletion_id")
_LIST = text(f"""
    SELECT {_COLUMNS} FROM registry.deletions
    WHERE (cast(:status AS text) IS NULL OR status = :status)
      AND (cast(:customer AS bigint) IS NULL
           OR deletion_id IN (SELECT deletion_id FROM cardsync.deletions WHERE customer = :customer))
    ORDER BY requested_at DESC, deletion_id LIMIT :limit
""")
_OF_CUSTOMER = text(f"""
    SELECT {_COLUMNS} FROM registry.deletions
    WHERE environment = :environment AND customer_id = :customer_id
      AND (cast(:status AS text) IS NULL OR status = :status)
    ORDER BY requested_at DESC, deletion_id LIMIT :limit
""")
_KNOWN_KEY = text("SELECT cardsync.is_known_key(:asker, :key)")


def show(connection: Connection, deletion_id: uuid.UUID) -> Deletion | None:
    """One deletion."""
    row = connection.execute(_SHOW, {"deletion_id": deletion_id}).one_or_none()
    return None if row is None else Deletion(**row._asdict())


def listing(
    connection: Connection, *, status: PublicStatus | None, limit: int, customer: int | None = None
) -> list[Deletion]:
    """The newest deletions, of all customers or of one."""
    rows = connection.execute(_LIST, {"status": status, "limit": limit, "customer": customer})
    return [Deletion(**row._asdict()) for row in rows]


def of_customer(
    connection: Connection, environment: Environment, customer_id: str, *, status: PublicStatus | None, limit: int
) -> list[Deletion]:
    """A customer's newest deletions, in any state or in this one."""
    owner = {"environment": environment, "customer_id": customer_id}
    rows = connection.execute(_OF_CUSTOMER, {**owner, "status": status, "limit": limit})
    return [Deletion(**row._asdict()) for row in rows]


def is_known_key(connection: Connection, asker: str, key: str) -> bool:
    """Tell whether this asker's idempotency key came before, and keep others from using it until the transaction ends."""
    known: bool = connection.execute(_KNOWN_KEY, {"asker": asker, "key": key}).scalar_one()
    return known


_FIND_CARD = text("""
    SELECT c.card_id FROM cardsync.cards AS c JOIN cardsync.customers AS o ON o.id = c.customer
    WHERE o.environment = :environment AND o.customer_id = :customer_id AND c.fingerprint = :fingerprint
""")


def find_card(
    connection: Connection, environment: Environment, customer_id: str, fingerprint: bytes
) -> uuid.UUID | None:
    """The customer's card with that token, in any state."""
    parameters = {"environment": environment, "customer_id": customer_id, "fingerprint": fingerprint}
    card_id: uuid.UUID | None = connection.execute(_FIND_CARD, parameters).scalar_one_or_none()
    return card_id


_LOCK_CUSTOMER = text("""
    SELECT 1 FROM cardsync.customers
    WHERE id = (SELECT customer FROM cardsync.deletions WHERE deletion_id = :deletion_id) FOR UPDATE
""")
_PHASE = text("SELECT phase FROM cardsync.deletions WHERE deletion_id = :deletion_id")
# Only the same life of the card: a card that was saved again since is in its next life, and that was not asked to be deleted.
_CARD_AGAIN = text("""
    UPDATE cardsync.cards AS c SET status = 'deleting', cause = 'deletion'
    FROM cardsync.deletions AS d
    WHERE d.deletion_id = :deletion_id AND c.card_id = d.card_id AND c.life = d.life AND c.status = 'active'
""")
# Its bell is no younger than its due time, so that the listener takes it for a new request.
_AGAIN = text(f"""
    UPDATE cardsync.deletions
    SET phase = :after, failures = 0, finished_at = NULL, error = NULL, locked_by = '{{}}', rung_at = statement_timestamp(),
        due_at = clock_timestamp(), tried_since = clock_timestamp(), since_no = nextval('cardsync.observation_no')
    WHERE deletion_id = :deletion_id AND phase = :phase
    RETURNING cardsync.ring('{CHANNEL}', deletion_id::text)
""")


def replay(connection: Connection, deletion_id: uuid.UUID) -> bool:
    """Open a failed or blocked deletion again, for another 24 hours, or let one go that is held since a restore.

    It rings at the commit.
    False if it is none of these, or if its card is not active any more.
    """
    connection.execute(_LOCK_CUSTOMER, {"deletion_id": deletion_id})
    phase = connection.execute(_PHASE, {"deletion_id": deletion_id}).scalar_one_or_none()
    if phase == "asked":
        return _let_go(connection, deletion_id)
    if phase not in ("failed", "blocked"):
        return False
    return reopen(connection, deletion_id, phase, "replayed")


_LET_GO = text(f"""
    UPDATE cardsync.deletions
    SET failures = 0, error = NULL, rung_at = statement_timestamp(), due_at = clock_timestamp(), tried_since = clock_timestamp()
    WHERE deletion_id = :deletion_id AND phase = 'asked' AND due_at = 'infinity' AND error = '{deletion.HELD_SINCE_RESTORE}'
    RETURNING cardsync.ring('{CHANNEL}', deletion_id::text)
""")


def _let_go(connection: Connection, deletion_id: uuid.UUID) -> bool:
    """Let a deletion go that is held since a restore, for a locked customer: an operator wants it."""
    assert deletion.next_phase("asked", "replayed") == "asked"
    if connection.execute(_LET_GO, {"deletion_id": deletion_id}).rowcount == 0:
        return False
    receipts.add(connection, deletion_id, "replayed")
    return True


# One that is held since a restore may have been called for: an operator decides, and a list says what is true of the card.
_CANCEL = text(f"""
    UPDATE cardsync.deletions SET phase = :after, error = 'cancelled', due_at = NULL, finished_at = clock_timestamp()
    WHERE deletion_id = :deletion_id AND phase = 'asked'
      AND (called_at IS NULL OR due_at = 'infinity' AND error = '{deletion.HELD_SINCE_RESTORE}')
""")
_RESTORE = text("""
    UPDATE cardsync.cards AS c SET status = 'active', cause = 'deletion'
    FROM cardsync.deletions AS d
    WHERE d.deletion_id = :deletion_id AND c.card_id = d.card_id AND c.life = d.life AND c.status = 'deleting'
""")


def cancel(connection: Connection, deletion_id: uuid.UUID, *, by: str) -> bool:
    """End a deletion for which nothing was called yet, and make its card active again; false if something was.

    To its asker it is ``failed``, with ``cancelled`` as the error: an operator can replay it.
    """
    connection.execute(_LOCK_CUSTOMER, {"deletion_id": deletion_id})
    moved = {"deletion_id": deletion_id, "after": deletion.next_phase("asked", "cancelled")}
    if connection.execute(_CANCEL, moved).rowcount == 0:
        return False
    connection.execute(_RESTORE, {"deletion_id": deletion_id})
    receipts.add(connection, deletion_id, "failed", reason="cancelled", by=by)
    return True


def reopen(
    connection: Connection, deletion_id: uuid.UUID, phase: deletion.Phase, event: deletion.Event, **detail: Any
) -> bool:
    """Reopen a deletion that had ended, for a locked customer; false if its card is not active any more."""
    assert event in ("replayed", "unlocked")
    if connection.execute(_CARD_AGAIN, {"deletion_id": deletion_id}).rowcount == 0:
        return False
    moved = {"deletion_id": deletion_id, "phase": phase, "after": deletion.next_phase(phase, event)}
    connection.execute(_AGAIN, moved).one()
    receipts.add(connection, deletion_id, "replayed" if event == "replayed" else "unlocked", **detail)
    return True
