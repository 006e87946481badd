"""Claims: PostgreSQL is the priority queue. A worker takes the most urgent rows that are due itself, by index.

Rules: rows are locked with SKIP LOCKED, so that workers never wait for each other's; a customer is locked before its hints, as
everywhere; every claim is ordered and limited. The claim of a look takes the ticket and counts the call in one statement, after
the gate has permitted it (``store.calls.permits``): a claimed look needs no further question before its call.

A claim takes the gate's row first, and elsewhere the customer comes before the gate. That is safe: with SKIP LOCKED a claim waits
for no customer but one that another transaction makes known at this moment, and such a transaction asks for no gate.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from cardsync.ciphers import KeyRing
from cardsync.core.call_budget import Lane
from cardsync.db import Answer, Transaction
from cardsync.errors import Transient, named
from cardsync.store import inbox
from cardsync.store.customers import LAST_ERROR_MAX, Ticket, taking
from cardsync.store.inbox import SETTLE_AT_ONCE, PendingHint

_OLDEST: Final = """
    SELECT event_id FROM cardsync.events
    WHERE status = 'pending' AND NOT repeated AND due_at <= statement_timestamp() ORDER BY due_at LIMIT :limit
"""
# A customer that is not known yet is made known, so that its row can be locked. By code point, the common lock order.
_MAKE_KNOWN = text(f"""
    INSERT INTO cardsync.customers (environment, customer_id, hinted_at)
    SELECT DISTINCT ON (environment COLLATE "C", customer_id COLLATE "C") environment, customer_id, clock_timestamp()
    FROM cardsync.events AS e
    WHERE event_id = ANY(ARRAY({_OLDEST})) AND NOT EXISTS (
        SELECT FROM cardsync.customers AS c WHERE c.environment = e.environment AND c.customer_id = e.customer_id
    )
    ORDER BY environment COLLATE "C", customer_id COLLATE "C"
    ON CONFLICT DO NOTHING
""")
_HINTS = text(f"""
    SELECT {", ".join(f"e.{name}" for name in inbox.CLAIMED)}, c.id AS customer
    FROM cardsync.events AS e JOIN cardsync.customers AS c USING (environment, customer_id)
    WHERE e.event_id = ANY(ARRAY({_OLDEST})) AND e.status = 'pending'
    FOR UPDATE OF c, e SKIP LOCKED
""")

# SQL that tells whether there is such work, by the beginning of an index.
HINTS_ARE_DUE: Final = """
    EXISTS (SELECT FROM cardsync.events WHERE status = 'pending' AND NOT repeated AND due_at <= statement_timestamp())
"""
REPEATS_ARE_DUE: Final = f"""
    EXISTS (SELECT FROM cardsync.events WHERE status = 'pending' AND repeated AND due_at <= statement_timestamp())
    AND NOT {HINTS_ARE_DUE}
"""


@dataclass(frozen=True, slots=True)
class ClaimedHint:
    """A fresh hint whose row is locked, as its customer's is."""

    customer: int
    hint: PendingHint


def hints(connection: Transaction, ring: KeyRing) -> Answer[list[ClaimedHint]]:
    """Lock the oldest fresh hints that are due, and their customers, who are known from now on.

    What is locked elsewhere is left out. To read the answer raises as ``inbox.claim`` if one cannot be read.
    """
    parameters = {"limit": SETTLE_AT_ONCE}
    connection.execute(_MAKE_KNOWN, parameters)
    rows = connection.execute(_HINTS, parameters)

    def read() -> list[ClaimedHint]:
        found = [ClaimedHint(row.customer, inbox.pending(row, ring)) for row in rows]
        return sorted(found, key=lambda one: (one.customer, one.hint.evidence_no))

    return read


# As ``customers.touch`` does. Of a customer that was noted within the minute it says nothing new, and is left alone.
_NOTE_HINTED = text("""
    UPDATE cardsync.customers SET hinted_at = clock_timestamp(), probation_since = NULL
    WHERE id = ANY(:customers)
      AND (probation_since IS NOT NULL OR hinted_at < statement_timestamp() - interval '1 minute')
""")


def note_hinted(connection: Transaction, customers: Sequence[int]) -> None:
    """Note that hints name these customers, where hints alone, or a reader, made them known. Their rows are locked."""
    connection.execute(_NOTE_HINTED, {"customers": list(customers)})


# Repeats wait for as long as a fresh hint does: however many there are, no fresh hint is behind them.
_PICK_FRESH = text(_OLDEST)
_PICK_REPEATS = text(f"""
    SELECT event_id FROM cardsync.events
    WHERE status = 'pending' AND repeated AND due_at <= statement_timestamp() AND NOT {HINTS_ARE_DUE}
    ORDER BY due_at LIMIT :limit
""")


def pick_events(connection: Connection, *, repeated: bool, limit: int) -> list[uuid.UUID]:
    """Return pending events that are due, the longest due first, without a lock: ``stories.process`` takes its own."""
    return list(connection.execute(_PICK_REPEATS if repeated else _PICK_FRESH, {"limit": limit}).scalars())


_IS_FREE: Final = "due_at <= statement_timestamp() AND (lease_until IS NULL OR lease_until <= statement_timestamp())"
_LOOKS = text(f"""
    SELECT due.id, due.lane
    FROM unnest(cast(:lanes AS text[])) WITH ORDINALITY AS line (lane, urgency) CROSS JOIN LATERAL (
        SELECT id, lane, due_at FROM cardsync.customers AS c
        WHERE c.lane = line.lane AND {_IS_FREE} ORDER BY c.due_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ) AS due
    ORDER BY urgency, due_at
""")


def looks_are_due(lanes: Sequence[Lane]) -> str:
    """SQL that tells whether a look of one of these lanes is due, and asked for by no process."""
    return " OR ".join(
        f"EXISTS (SELECT FROM cardsync.customers WHERE lane = '{lane}' AND {_IS_FREE})" for lane in lanes
    )


@dataclass(frozen=True, slots=True)
class DueLook:
    """A customer that is due and whose row is locked."""

    customer: int
    lane: Lane


def looks(connection: Transaction, lanes: Sequence[Lane], *, limit: int) -> Answer[list[DueLook]]:
    """Lock the customers that are due in these lanes and asked about by no process: lane after lane, the longest due first."""
    found = connection.execute(_LOOKS, {"lanes": list(lanes), "limit": limit})
    return lambda: [DueLook(*row) for row in found][:limit]


# Of those whose hints were just folded only the ones that are urgent now: a hint that is answered already asks for nothing.
_WANTED: Final = """
    id = ANY(cast(:customers AS bigint[]) || cast(:hinted AS bigint[]))
    AND (id = ANY(cast(:customers AS bigint[])) OR lane IN ('deletion', 'hint'))
"""
_TAKE_AND_COUNT = text(f"""
    WITH taken AS ({taking(_WANTED)}), counted AS (
        INSERT INTO cardsync.call_minutes AS m (minute, lane, calls)
        SELECT date_trunc('minute', clock_timestamp()), lane, count(*) FROM taken GROUP BY lane ORDER BY lane
        ON CONFLICT (minute, lane) DO UPDATE SET calls = m.calls + excluded.calls
    )
    SELECT * FROM taken
""")


def take(
    connection: Transaction, customers: Sequence[int], *, lease_seconds: float, hinted: Sequence[int] = ()
) -> Answer[list[Ticket]]:
    """Take the tickets of those of the customers that are due and free, and count a call for each; the caller holds the gate.

    Of the ``hinted`` customers those that are due in an urgent lane.
    """
    if not customers and not hinted:
        return list
    parameters = {"customers": list(customers), "hinted": list(hinted), "lease_seconds": lease_seconds}
    rows = connection.execute(_TAKE_AND_COUNT, parameters)
    return lambda: [Ticket(*row) for row in rows]


_PUT_OFF = text("""
    UPDATE cardsync.customers
    SET due_at = clock_timestamp() + make_interval(secs => :wait_seconds), last_error = :error, rung_at = NULL
    WHERE id = ANY(:customers)
""")


def put_off(connection: Transaction, customers: Sequence[int], refused: Transient, *, wait_seconds: float) -> None:
    """Let customers whose call must not be made now be due later; nothing was called. Their rows are locked."""
    if customers:
        error = named(refused)[:LAST_ERROR_MAX]
        connection.execute(_PUT_OFF, {"customers": list(customers), "error": error, "wait_seconds": wait_seconds})
