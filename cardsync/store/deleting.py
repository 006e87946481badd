"""What moves a deletion on: the ticket before its call, what was answered, what a list says, who is due.

Every write here holds the customer's row, and goes by the table of ``core.deletion`` under a guard on the phase. A deletion's
call takes the customer's own ticket, so that a deletion and a reconciliation of one customer never run at once; taking it marks
the customer as one who must be asked about, so that a crash from there on is made up for by a list.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from cardsync.core.backoff import after_failure
from cardsync.core.cards import Token
from cardsync.core.deletion import GIVE_UP_SECONDS, Event, Phase, is_over, next_phase
from cardsync.core.diff import Verdict
from cardsync.errors import Superseded
from cardsync.store import customers, deletions, receipts
from cardsync.store.customers import Ticket

ERROR_MAX: Final = 400  # characters: Ottu's words are at most 300


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
    SELECT c.token FROM cardsync.deletions AS d JOIN cardsync.cards AS c USING (card_id)
    WHERE d.deletion_id = :deletion_id AND d.phase = 'asked' AND d.due_at <= clock_timestamp() AND c.status = 'deleting'
""")
# Evidence of the call's own number: only a list asked for later makes the customer clean. As for a hint, a customer for whom
# lists fail keeps its wait.
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


def begin(connection: Connection, deletion_id: uuid.UUID, *, lease_seconds: float) -> Job | None:
    """Take the customer's ticket for the deletion's next call, if that is due and nobody else asks about the customer."""
    customer = connection.execute(_LOCK_FREE_CUSTOMER, {"deletion_id": deletion_id}).scalar_one_or_none()
    if customer is None:
        return None
    token = connection.execute(_DUE_TOKEN, {"deletion_id": deletion_id}).scalar_one_or_none()
    if token is None:
        return None
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
    return Job(deletion_id, Token(token), ticket, moved.failures, moved.tried_since)


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
        error = CASE WHEN :after IN ('done', 'proving') THEN NULL ELSE coalesce(:error, error) END,
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
) -> Phase:
    """Move a deletion from one phase to the next, for a customer who is locked; return the new phase.

    Where it ends without success its card is active again, and the receipt says so. ``refund`` gives the attempt back.
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


_LOCKED_BY = text("""
    UPDATE cardsync.deletions AS d
    SET locked_by = ARRAY(SELECT agreement_id FROM cardsync.agreements AS a WHERE a.card_id = d.card_id ORDER BY 1)
    WHERE deletion_id = :deletion_id
""")


def believe(connection: Connection, ticket: Ticket, verdicts: Iterable[Verdict], *, jitter: float) -> None:
    """Write what a believed list says of deletions, after its cards and agreements are written."""
    for verdict in verdicts:
        deletion, event = verdict.deletion, verdict.seen.event
        step: receipts.Name = "absent" if event == "absent" else "listed"
        receipts.add(
            connection,
            deletion.deletion_id,
            step,
            observation_no=ticket.number,
            asked_at=ticket.asked_at.isoformat(),
        )
        after = move(
            connection,
            deletion.deletion_id,
            deletion.phase,
            event,
            error="Ottu says that the card is gone, and still lists it" if event == "listed_enough" else None,
            wait_seconds=after_failure(max(1, deletion.failures), jitter=jitter),
            proof_no=ticket.number if event == "absent" else None,
        )
        if after == "done":
            receipts.add(connection, deletion.deletion_id, "done", observation_no=ticket.number)
        if after == "blocked":
            connection.execute(_LOCKED_BY, {"deletion_id": deletion.deletion_id})


_IS_UNLOCKED = text("""
    SELECT locked_by <> '{}' AND NOT EXISTS (SELECT FROM cardsync.agreements AS a WHERE a.card_id = d.card_id)
    FROM cardsync.deletions AS d WHERE deletion_id = :deletion_id AND phase = 'blocked' AND when_unlocked
""")


def unlock(connection: Connection, ticket: Ticket, deletion_ids: Sequence[uuid.UUID]) -> None:
    """Let those of the blocked deletions go on whose cards served agreements then, and serve none now.

    A card of which no list ever showed an agreement was refused for reasons that no list can show to be over.
    """
    for deletion_id in deletion_ids:
        if connection.execute(_IS_UNLOCKED, {"deletion_id": deletion_id}).scalar_one_or_none():
            deletions.reopen(connection, deletion_id, "blocked", "unlocked", observation_no=ticket.number)


_CALLED = text("""
    SELECT deletion_id, phase, tried_since, clock_timestamp() AS now FROM cardsync.deletions
    WHERE customer = :customer AND phase IN ('calling', 'proving', 'refused')
""")


def unlisted(
    connection: Connection, customer: int, *, error: str, credentials: bool, counted: bool, wait_seconds: float
) -> int:
    """Write what a list that was not given says of the customer's deletions; return how many are given up.

    If it was our credentials that were refused, so was a refused deletion, and its attempt is given back. After 24 hours of
    failed calls, what became of a deletion cannot be found out: it is given up.
    """
    given_up = 0
    for row in connection.execute(_CALLED, {"customer": customer}).all():
        if credentials:
            if row.phase == "refused":
                receipts.add(connection, row.deletion_id, "unlisted", error=error)
                move(
                    connection,
                    row.deletion_id,
                    row.phase,
                    "not_done",
                    error=error,
                    wait_seconds=wait_seconds,
                    refund=True,
                )
        elif counted and is_over(row.tried_since, row.now):
            receipts.add(connection, row.deletion_id, "unlisted", error=error)
            move(connection, row.deletion_id, row.phase, "gave_up", error=error)
            given_up += 1
    return given_up


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


_DUE = text("""
    UPDATE cardsync.deletions SET rung_at = clock_timestamp()
    WHERE deletion_id = ANY(ARRAY(
        SELECT deletion_id FROM cardsync.deletions
        WHERE phase = 'asked' AND due_at <= statement_timestamp()
          AND (rung_at IS NULL OR rung_at < statement_timestamp() - make_interval(secs => :again_seconds))
        ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ))
    RETURNING deletion_id
""")
_DUE_OF = text("""
    UPDATE cardsync.deletions SET rung_at = clock_timestamp()
    WHERE customer = :customer AND phase = 'asked' AND due_at <= clock_timestamp()
    RETURNING deletion_id
""")


def due(connection: Connection, *, again_seconds: float, limit: int) -> list[uuid.UUID]:
    """Pick deletions whose call is due and for which no bell was rung lately, the longest due first."""
    return list(connection.execute(_DUE, {"again_seconds": again_seconds, "limit": limit}).scalars())


def due_of_customer(connection: Connection, customer: int) -> list[uuid.UUID]:
    """Pick the customer's deletions whose call is due: whoever gives a ticket back rings for those who waited for it."""
    return list(connection.execute(_DUE_OF, {"customer": customer}).scalars())
