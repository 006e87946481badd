"""The way into the inbox: verified notifications become rows, each body once, in one statement and one round trip.

Nearly every body is new, and so is its signature. For these there is a short statement (``store.new_bodies``), which claims the
signatures and inserts the bodies. What it does not insert is left to the long one (``store_rows``), which has all cases.

The long statement finds the bodies that are known, opens those of them again whose work failed, inserts the rest, and returns
all of them together. A body whose signature came in another one before is a *repeat* (``core.repeats``): this statement only
tells, and ``store.repeats`` keeps such bodies in a statement of its own, after it. Four things are easy to get wrong:

- **A body that another transaction inserts at the same time.** ``ON CONFLICT DO NOTHING`` waits for it and inserts nothing; the
  statement's snapshot is older than that row, so it is not found either. Such bodies are missing from the answer, and are sent
  again, alone: the next statement sees them. Rejected: ``ON CONFLICT (body_hash) DO UPDATE`` with a change of nothing. It writes
  every duplicate's row, waits for the transaction that holds that row, and fails when the other unique index is the first to
  tell (the id follows from the hash).
- **Locks.** Rows are inserted in the order of their hashes, so that two statements with the same bodies wait for each other in
  one order. A failed row that another transaction holds is passed over: it is being opened, settled or given up there.
- **The first body of a signature.** It is the one whose row in ``signatures`` is inserted, so that of two at once exactly one is
  first. ``ON CONFLICT DO NOTHING`` locks no row that is there: no flood of repeats makes a fresh hint wait. Signatures are
  claimed before bodies are inserted, in the order of their hashes. Of several bodies with one unseen signature in one batch the
  first is stored, and the others are sent again, when its claim can be seen.
- **Order of arrival.** Evidence numbers are drawn in the order of the batch, before the rows are sorted. What waited on disk
  brings its time of arrival, by another clock: never later than now. All rows that the database dates have the statement's time,
  so ``received_at`` and then the evidence number is the order of arrival. A column of its own was rejected for that: it would
  hold the same number twice.
"""

from __future__ import annotations

import datetime as dt
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from psycopg.errors import UniqueViolation
from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import IntegrityError

from cardsync.ciphers import KeyRing, encrypt_hint
from cardsync.core.events import Event, event_id
from cardsync.core.hints import in_the_clear
from cardsync.core.kept_bodies import KeptBody
from cardsync.core.signature import Source
from cardsync.core.spool_format import WaitingRow
from cardsync.store import repeats
from cardsync.store.deliveries import bodies
from cardsync.store.given_rows import GIVEN, as_parameter
from cardsync.store.inbox import Status

# The second try sees what the first one waited for, or claimed; the others are for rows that were forgotten in between.
TRIES: Final = 4
PIECE_BYTES: Final = 4 * 1_048_576  # of bodies in one statement: a thousand of Ottu's, or a few of the largest


@dataclass(frozen=True, slots=True)
class NewEvent:
    """A notification as it is stored: what it says, the hash of its bytes, and which key vouched for it.

    ``vouched``: a key that is bound to the environment signed whose card it is (``core.signature.signs_card``). ``as_of`` is the
    moment by which the hint is ordered, where that is not its arrival: of what the inquiry endpoint answers.
    """

    event: Event
    body_hash: bytes
    scheme: Source
    key_id: str
    signature_hash: bytes | None
    vouched: bool = False
    as_of: dt.datetime | None = None

    @property
    def event_id(self) -> uuid.UUID:
        """The id that its row gets, unless the body is known by another already."""
        return event_id(self.body_hash)

    @property
    def status(self) -> Literal["pending", "ignored"]:
        """Whether there is work in it."""
        return "pending" if self.event.ignored_because is None else "ignored"


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a body: ``fresh`` is false for one that was there already, or that another row stands for.

    ``repeated``: its signature came in another body before. ``to_ring``: there is work in its row that no bell was rung for yet.
    ``is_relaying``: an endpoint gets notifications, as of this statement.
    """

    event_id: uuid.UUID
    status: Status
    fresh: bool
    repeated: bool = False
    to_ring: bool = False
    is_relaying: bool = False


# One row for each of ``numbered``, which has its number; a body that is there already is left out.
INSERTING: Final = """
        INSERT INTO cardsync.events (
            event_id, evidence_no, received_at, body_hash, status, kind, ignored_because, environment, customer_id, session_id,
            reference_number, order_no, result, state, payment_type, agreement_id, scheme, key_id, signature_hash, token, facts,
            vouched, as_of, settled_at
        )
        SELECT
            event_id, evidence_no, received_at, hash, status, kind, ignored_because, environment, customer_id, session_id,
            reference_number, order_no, result, state, payment_type, agreement_id, scheme, key_id, signature_hash, token, facts,
            vouched, as_of, CASE WHEN status = 'ignored' THEN clock_timestamp() END
        FROM numbered ORDER BY hash
        ON CONFLICT DO NOTHING
        RETURNING body_hash, event_id, status
"""
# The parts of the last SELECT run in their order, the same in every session: first all claims, then all inserts, then all
# reopenings. No index is named for conflicts: of two who insert the same body at once either unique index may tell first.
#
# A payment's first body may lack the card that a later one with the same signed fields names (an inquiry's, for instance). Such a
# body is no repeat if it is about the payment that the first one was about, once (``completed``). A stranger who holds the first
# body can name no other customer with it.
_PARTS: Final = f"""
    WITH given AS MATERIALIZED ({GIVEN}), known AS MATERIALIZED (
        SELECT e.event_id, e.body_hash, e.status, e.repeated
        FROM cardsync.events AS e WHERE e.body_hash = ANY(ARRAY(SELECT hash FROM given))
    ), arrived AS MATERIALIZED (
        SELECT *, row_number() OVER (PARTITION BY signature_hash ORDER BY place) AS nth
        FROM given WHERE hash NOT IN (SELECT body_hash FROM known)
    ), claimed AS (
        INSERT INTO cardsync.signatures (signature_hash, first_seen, payment, named_card)
        SELECT signature_hash, received_at::date, payment, status = 'pending'
        FROM arrived WHERE signature_hash IS NOT NULL AND nth = 1 ORDER BY signature_hash
        ON CONFLICT DO NOTHING
        RETURNING signature_hash
    ), without_card AS MATERIALIZED (
        SELECT signature_hash, payment FROM cardsync.signatures
        WHERE NOT named_card AND signature_hash = ANY(ARRAY(SELECT signature_hash FROM arrived WHERE status = 'pending'))
        FOR UPDATE SKIP LOCKED
    ), completing AS MATERIALIZED (
        SELECT DISTINCT ON (a.signature_hash) a.signature_hash, a.hash
        FROM arrived AS a JOIN without_card AS w USING (signature_hash, payment)
        WHERE a.status = 'pending' ORDER BY a.signature_hash, a.place
    ), completed AS (
        UPDATE cardsync.signatures AS s SET named_card = true
        FROM completing AS c WHERE s.signature_hash = c.signature_hash
        RETURNING c.hash
    ), judged AS MATERIALIZED (
        SELECT a.*, CASE
            WHEN signature_hash IS NULL OR hash IN (SELECT hash FROM completed) THEN 'fresh'
            WHEN signature_hash NOT IN (SELECT signature_hash FROM claimed) THEN 'repeat'
            WHEN nth = 1 THEN 'fresh' ELSE 'after its first' END AS verdict
        FROM arrived AS a
    ), numbered AS MATERIALIZED (
        SELECT nextval('cardsync.observation_no') AS evidence_no, fresh.* FROM (
            SELECT * FROM judged WHERE verdict = 'fresh' ORDER BY place
        ) AS fresh
    ), inserted AS ({INSERTING}
    ), reopened AS (
        UPDATE cardsync.events SET status = 'pending', attempts = 0, due_at = clock_timestamp()
        WHERE status = 'failed' AND event_id = ANY(ARRAY(
            SELECT event_id FROM cardsync.events
            WHERE event_id = ANY(ARRAY(SELECT event_id FROM known WHERE status = 'failed')) AND status = 'failed'
            ORDER BY event_id FOR UPDATE SKIP LOCKED
        ))
        RETURNING event_id, status
    )
"""
_OUTCOMES: Final = f"""
    SELECT outcome.*, {bodies.RELAYING} AS is_relaying FROM (
        SELECT body_hash, event_id, status, true AS fresh, false AS repeated, status = 'pending' AS to_ring FROM inserted
        UNION ALL
        SELECT known.body_hash, known.event_id, coalesce(reopened.status, known.status), false,
            known.repeated, reopened.status IS NOT NULL AND NOT known.repeated
        FROM known LEFT JOIN reopened USING (event_id)
        UNION ALL
        SELECT hash, NULL, NULL, false, true, false FROM judged WHERE verdict = 'repeat'
    ) AS outcome
"""
_STORE = text(f"{_PARTS} {_OUTCOMES}")
# The same, and the bodies that are to be passed on, in the same transaction.
_STORE_AND_KEEP = text(f"{_PARTS}, {bodies.KEEPING} {_OUTCOMES}")


def store_rows(connection: Connection, rows: Sequence[WaitingRow]) -> list[Stored]:
    """Insert those rows whose body's hash is not known, numbered in this order; open a known one that failed; keep bodies.

    One round trip for any mix of new, known, failed and equal ones, and another one for repeats. A race on the same body, and
    several bodies with one unseen signature, cost one more. Raises ``ValueError`` for a row whose token is in the clear.

    For a connection that commits each statement by itself, or is at READ COMMITTED: a repeated statement must see more. Raises
    ``DBAPIError`` for a row that is none; then storing all of them again is safe. A body that a unique index refuses and no
    statement finds is such a row, too: as an ``IntegrityError``, so that callers try its neighbours without it.
    """
    left = {row.body_hash: row for row in reversed(rows)}  # of equal bodies the first one counts
    left = {row.body_hash: left[row.body_hash] for row in rows}
    found: dict[bytes, Stored] = {}
    is_relaying = False
    for _ in range(TRIES):
        if not left:
            break
        repeated: list[WaitingRow] = []
        for row in _store(connection, list(left.values())):
            body_hash, is_relaying = bytes(row.body_hash), row.is_relaying
            if row.event_id is None:
                repeated.append(left[body_hash])
            else:
                facts = (row.event_id, row.status, row.fresh, row.repeated, row.to_ring)
                found[body_hash] = Stored(*facts, is_relaying)
        for body_hash, kept in repeats.keep(connection, repeated).items():
            found[body_hash] = Stored(*kept, repeated=True, is_relaying=is_relaying)
        left = {body_hash: row for body_hash, row in left.items() if body_hash not in found}
    if left:
        raise IntegrityError("a notification was neither inserted nor found", None, UniqueViolation())
    return _in_order(rows, found)


def _store(connection: Connection, rows: Sequence[WaitingRow]) -> Iterator[Row[Any]]:
    if all(row.kept is None for row in rows):
        yield from connection.execute(_STORE, {"rows": as_parameter(rows)})
        return
    for piece in pieces(rows):
        parameters = {"rows": as_parameter(piece), "bodies": bodies.as_parameter(piece)}
        yield from connection.execute(_STORE_AND_KEEP, parameters)


def pieces(rows: Sequence[WaitingRow]) -> Iterator[list[WaitingRow]]:
    """The rows in pieces whose bodies are bounded together: nearly always one."""
    piece: list[WaitingRow] = []
    size_bytes = 0
    for row in rows:
        more_bytes = 0 if row.kept is None else len(row.kept.body)
        if piece and size_bytes + more_bytes > PIECE_BYTES:
            yield piece
            piece, size_bytes = [], 0
        piece.append(row)
        size_bytes += more_bytes
    yield piece


def as_row(new: NewEvent, ring: KeyRing, *, kept: KeptBody | None = None, trace: str | None = None) -> WaitingRow:
    """An event as it is inserted or waits: all that may be kept of a notification, its hint encrypted."""
    event = new.event
    card = event.card if new.status == "pending" else None
    return WaitingRow(
        body_hash=new.body_hash,
        status=new.status,
        kind=event.kind,
        scheme=new.scheme,
        key_id=new.key_id,
        signature_hash=new.signature_hash,
        ignored_because=event.ignored_because,
        environment=event.environment,
        customer_id=event.customer_id,
        session_id=event.session_id,
        reference_number=event.reference_number,
        order_no=event.order_no,
        result=event.result,
        state=event.state,
        payment_type=event.payment_type,
        agreement_id=event.agreement_id,
        token=encrypt_hint(ring, (event.environment, event.customer_id), card.token, card.facts) if card else None,
        facts=in_the_clear(card.facts) if card else None,
        terms=event.terms if card else None,
        vouched=new.vouched,
        as_of=new.as_of,
        kept=kept,
        trace=trace,
    )


def try_out(connection: Connection) -> None:
    """Insert what was never sent, and undo it: whether a hint could be stored now is not told by a ``SELECT``.

    A standby, a server without room and one in the midst of a migration all answer questions. The caller commits: only that waits
    for a synchronous standby, though no row is left. Raises as ``store_rows``.
    """
    body_hash = os.urandom(32)  # two who try at once must not wait for each other
    row = WaitingRow(
        body_hash=body_hash,
        status="ignored",
        kind="unknown",
        ignored_because="unknown kind",
        scheme="standard",
        key_id="none",
    )
    with connection.begin_nested() as undone:
        connection.execute(_STORE, {"rows": as_parameter([row])})
        undone.rollback()


def _in_order(rows: Sequence[WaitingRow], found: dict[bytes, Stored]) -> list[Stored]:
    """What became of each row; of equal bodies in one batch the first may be fresh, the others are its duplicates."""
    stored: list[Stored] = []
    told: set[bytes] = set()
    for row in rows:
        one = found[row.body_hash]
        if row.body_hash in told:
            one = replace(one, fresh=False, to_ring=False)
        stored.append(one)
        told.add(row.body_hash)
    return stored
