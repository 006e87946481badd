"""What moves a deletion on: the ticket before its call, what was answered, and which deletions are due.

Every write here holds the customer's row, and goes by the table of ``core.deletion`` under a guard on the phase. A deletion's
call takes the customer's own ticket, so that a deletion and a reconciliation of one customer never run at once; taking it marks
the customer as one who must be asked about, so that a crash from there on is made up for by a list. What that list says of the
deletion is written in ``store.deletions.lists``.
"""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from cardsync.ciphers import KeyRing, stored_card_token
from cardsync.core.cards import Token
from cardsync.core.deletion import GIVE_UP_SECONDS, Event, Phase, next_phase
from cardsync.errors import Superseded
from cardsync.store import customers
from cardsync.store.customers import Ticket
from cardsync.store.deletions import receipts

ERROR_MAX: Final = 400  # characters: our own words, with Ottu's codes and field names
CLAIMED_SECONDS: Final = 10  # a call is begun within milliseconds of its claim


@dataclass(frozen=True, slots=True)
class Job:
    """The right to ask Ottu once to delete one card, under the customer's ticket."""

    deletion_id: uuid.UUID
    token: Token
    ticket: Ticket
    failures: int
    tried_since: dt.datetime


_LOCK_FREE_CUSTOMER = text("""
    SELECT id FROM cardsync.customers
    WHERE id = (SELECT customer FROM cardsync.deletions WHERE deletion_id = :deletion_id)
      AND (lease_until IS NULL OR lease_until <= clock_timestamp())
    FOR UPDATE
""")
_DUE_TOKEN = text("""
    SELECT c.card_id, c.token FROM cardsync.deletions AS d JOIN cardsync.cards AS c USING (card_id)
    WHERE d.deletion_id = :deletion_id AND d.phase = 'asked' AND d.due_at <= clock_timestamp() AND c.status = 'deleting'
""")
# Evidence of the call's own number: only a list asked for later makes the customer clean. As for a hint, a customer
# whose lists fail keeps its wait.
_TAKE_TICKET = text("""
    UPDATE cardsync.customers AS c
    SET ticket_no = next.number, asked_at = clock_timestamp(), rung_at = NULL,
        lease_until = clock_timestamp() + make_interval(secs => :lease_seconds),
        dirty_no = next.number, dirty_since = coalesce(c.dirty_since, clock_timestamp()), lane = 'deletion',
        due_at = CASE WHEN c.failures > 0 AND c.due_at IS NOT NULL THEN c.due_at
                      ELSE least(c.due_at, clock_timestamp()) END
    FROM (SELECT nextval('cardsync.observation_no') AS number) AS next
    WHERE c.id = :customer
    RETURNING c.id, c.environment, c.customer_id, c.ticket_no, c.asked_at, c.lane, c.failures
""")
_CALLING = text("""
    UPDATE cardsync.deletions
    SET phase = :after, attempts = attempts + 1, failures = failures + 1, since_no = :number, called_at = :asked_at,
        due_at = NULL, rung_at = NULL
    WHERE deletion_id = :deletion_id AND phase = 'asked'
    RETURNING attempts, failures, tried_since
""")


def begin(connection: Connection, deletion_id: uuid.UUID, *, ring: KeyRing, lease_seconds: float) -> Job | None:
    """Take the customer's ticket for the deletion's next call, if that is due and no other process asks about the customer.

    Raises ``UnknownSecretKey`` or ``MalformedBody`` if the card's token cannot be read; nothing is written then.
    """
    customer = connection.execute(_LOCK_FREE_CUSTOMER, {"deletion_id": deletion_id}).scalar_one_or_none()
    if customer is None:
        return None
    stored = connection.execute(_DUE_TOKEN, {"deletion_id": deletion_id}).one_or_none()
    if stored is None:
        return None
    token = stored_card_token(ring, stored.card_id, stored.token)
    row = connection.execute(_TAKE_TICKET, {"customer": customer, "lease_seconds": lease_seconds}).one()
    ticket = Ticket(*row)
    calling = {
        "deletion_id": deletion_id,
        "after": next_phase("asked", "call_begins"),
        "number": ticket.number,
        "asked_at": ticket.asked_at,
    }
    moved = connection.execute(_CALLING, calling).one()
    receipts.add(connection, deletion_id, "called", attempt=moved.attempts, call_no=ticket.number)
    return Job(deletion_id, token, ticket, moved.failures, moved.tried_since)


_CUSTOMER_OF_ASKED = text(
    "SELECT customer FROM cardsync.deletions WHERE deletion_id = :deletion_id AND phase = 'asked'"
)


def ask_for_a_list(connection: Connection, deletion_id: uuid.UUID) -> int | None:
    """Make the customer due whose deletion waits for its call; return the customer, ``None`` if it does not wait."""
    customer: int | None = connection.execute(_CUSTOMER_OF_ASKED, {"deletion_id": deletion_id}).scalar_one_or_none()
    if customer is not None:
        customers.mark_dirty(connection, customer, evidence_no=None, lane="deletion")
    return customer


_PUT_OFF = text("""
    UPDATE cardsync.deletions
    SET due_at = clock_timestamp() + make_interval(secs => :wait_seconds), rung_at = NULL, error = :error
    WHERE deletion_id = :deletion_id AND phase = 'asked' AND due_at <= clock_timestamp()
""")


def put_off(connection: Connection, deletion_id: uuid.UUID, *, error: str, wait_seconds: float) -> None:
    """Let a deletion that must not call now be due later; nothing was called, and no attempt is used up."""
    parameters = {"deletion_id": deletion_id, "error": error[:ERROR_MAX], "wait_seconds": wait_seconds}
    connection.execute(_PUT_OFF, parameters)


# The last attempt falls on the 24th hour. Right sides see the old row.
_MOVE = text("""
    UPDATE cardsync.deletions
    SET phase = :after,
        attempts = attempts - :refund, failures = greatest(0, failures - :refund),
        error = CASE WHEN :after = 'done' OR (:after = 'proving' AND NOT :unlisted) THEN NULL ELSE coalesce(:error, error) END,
        said_status = CASE WHEN :after IN ('proving', 'done', 'refused') THEN coalesce(:said_status, said_status) END,
        proof_no = :proof_no, rung_at = NULL,
        due_at = CASE
            WHEN :after <> 'asked' THEN NULL
            WHEN tried_since + make_interval(secs => :give_up_seconds) > clock_timestamp()
                THEN least(clock_timestamp() + make_interval(secs => :wait_seconds),
                           tried_since + make_interval(secs => :give_up_seconds))
            ELSE clock_timestamp() + make_interval(secs => :wait_seconds)
        END,
        finished_at = CASE WHEN :after IN ('done', 'blocked', 'failed') THEN clock_timestamp() END
    WHERE deletion_id = :deletion_id AND phase = :phase
    RETURNING card_id, error
""")
_RESTORE = text(
    "UPDATE cardsync.cards SET status = 'active', cause = 'deletion' WHERE card_id = :card_id AND status = 'deleting'"
)


def move(
    connection: Connection,
    deletion_id: uuid.UUID,
    phase: Phase,
    event: Event,
    *,
    error: str | None = None,
    wait_seconds: float = 0.0,
    refund: bool = False,
    proof_no: int | None = None,
    said_status: int | None = None,
) -> Phase:
    """Move a deletion from one phase to the next, for a customer who is locked; return the new phase.

    Where it ends without success its card is active again, and the receipt says so. ``refund`` gives the attempt back;
    ``said_status`` is the answer by which Ottu said that the card is gone, or refused.
    Raises ``Superseded`` if it is not in that phase any more.
    """
    after = next_phase(phase, event)
    row = connection.execute(
        _MOVE,
        {
            "deletion_id": deletion_id,
            "phase": phase,
            "after": after,
            "error": None if error is None else error[:ERROR_MAX],
            "wait_seconds": wait_seconds,
            "give_up_seconds": GIVE_UP_SECONDS,
            "refund": int(refund),
            "proof_no": proof_no,
            "unlisted": event == "unlisted",
            "said_status": said_status,
        },
    ).one_or_none()
    if row is None:
        raise Superseded(f"the deletion is not {phase} any more")
    if after in ("blocked", "failed"):
        connection.execute(_RESTORE, {"card_id": row.card_id})
        receipts.add(connection, deletion_id, "blocked" if after == "blocked" else "failed", reason=row.error)
    return after


_HAND_BACK = text("""
    UPDATE cardsync.customers
    SET ticket_no = NULL, asked_at = NULL, lease_until = NULL, rung_at = clock_timestamp(),
        due_at = CASE WHEN :answered THEN clock_timestamp() ELSE due_at END
    WHERE id = :customer AND ticket_no = :number
""")


def hand_back(connection: Connection, ticket: Ticket, *, answered: bool) -> None:
    """Give the ticket back; if Ottu answered, the list is due now, whatever failed for this customer before."""
    connection.execute(_HAND_BACK, {"customer": ticket.customer, "number": ticket.number, "answered": answered})


_LOCK_CUSTOMER_OF_ASKED = text("""
    SELECT 1 FROM cardsync.customers
    WHERE id = (SELECT customer FROM cardsync.deletions WHERE deletion_id = :deletion_id AND phase = 'asked') FOR UPDATE
""")


def give_up(connection: Connection, deletion_id: uuid.UUID, *, error: str) -> bool:
    """Give up a deletion that can never be called; false if it is not waiting for its call."""
    if connection.execute(_LOCK_CUSTOMER_OF_ASKED, {"deletion_id": deletion_id}).one_or_none() is None:
        return False
    move(connection, deletion_id, "asked", "gave_up", error=error)
    return True


# One that was claimed a moment ago is left to the process that claimed it, and claimed again if nothing came of it. One that was
# just asked for was not claimed: asking stamps `due_at` and `rung_at` with one moment.
_IS_DUE: Final = f"""
    phase = 'asked' AND due_at <= statement_timestamp() AND (
        rung_at IS NULL OR rung_at <= due_at OR rung_at < statement_timestamp() - interval '{CLAIMED_SECONDS} seconds'
    )
"""
ARE_DUE: Final = f"EXISTS (SELECT FROM cardsync.deletions WHERE {_IS_DUE})"
_CLAIM = text(f"""
    UPDATE cardsync.deletions SET rung_at = clock_timestamp()
    WHERE deletion_id = ANY(ARRAY(
        SELECT deletion_id FROM cardsync.deletions WHERE {_IS_DUE} ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ))
    RETURNING deletion_id
""")
# The condition is that of the index `deletions_newly_asked` (migration 0020), so a look reads only what it finds.
_NEWLY_ASKED = text("""
    SELECT EXISTS (
        SELECT FROM cardsync.deletions WHERE phase = 'asked' AND rung_at <= due_at AND due_at <= statement_timestamp()
    )
""")
_FREE_OF = text("""
    UPDATE cardsync.deletions SET rung_at = NULL
    WHERE customer = :customer AND phase = 'asked' AND due_at <= clock_timestamp()
""")


def claim(connection: Connection, *, limit: int) -> list[uuid.UUID]:
    """Pick deletions whose call is due and that no process claimed a moment ago, the longest due first."""
    return list(connection.execute(_CLAIM, {"limit": limit}).scalars())


def newly_asked(connection: Connection) -> bool:
    """Tell whether a deletion was asked for that no worker has claimed since."""
    asked: bool = connection.execute(_NEWLY_ASKED).scalar_one()
    return asked


def free_of_customer(connection: Connection, customer: int) -> bool:
    """Let the customer's deletions whose call is due be claimed at once: they waited for the ticket; true if there are some."""
    return connection.execute(_FREE_OF, {"customer": customer}).rowcount > 0
