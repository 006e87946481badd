"""Notifications whose signature came in another body before (``core.repeats`` says what they may cost).

They are kept apart from fresh ones and bounded as they arrive:

- One row for each signature and customer. A further body is folded into it: the row says what the newest one says, has a new
  evidence number, and is work again if it was done. So nothing of what an honest repeat tells is lost.
- ``ROWS_A_SIGNATURE`` new rows an hour for each signature. Beyond that a body gets no row, and the answer of a duplicate. A
  signed state of a payment has one customer, so that such a body is altered. The payment that the signature's first body was
  about always gets its row.
- No bell: a worker claims them when no fresh hint waits (``store.claims``).

In the worker signatures are locked before customers, in the order of their hashes: a transaction that holds a customer asks for
none.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, text

from cardsync.core.repeats import ROWS_A_SIGNATURE, ROWS_SECONDS, STRANGERS_A_SIGNATURE, STRANGERS_SECONDS
from cardsync.core.spool_format import WaitingRow
from cardsync.store.given_rows import GIVEN, as_parameter
from cardsync.store.inbox import SETTLE_AT_ONCE, SHED, Status


class Kept(NamedTuple):
    """The row that stands for a repeated body; ``fresh`` if it was made for it."""

    event_id: uuid.UUID
    status: Status
    fresh: bool


# Of several bodies about one customer the last one counts; one of no interest is not folded into another one. A row that is
# locked is passed over, since the worker that holds it may have read it already: then a second row is made. So this waits for no
# worker, and no fresh hint waits for this.
_KEEP = text(f"""
    WITH given AS MATERIALIZED (
        SELECT *, CASE WHEN status = 'ignored' THEN hash END AS apart FROM ({GIVEN}) AS all_of_them
    ), newest AS MATERIALIZED (
        SELECT DISTINCT ON (signature_hash, environment, customer_id, apart) *
        FROM given ORDER BY signature_hash, environment, customer_id, apart, place DESC
    ), standing AS MATERIALIZED (
        SELECT newest.hash, row.event_id FROM newest CROSS JOIN LATERAL (
            SELECT e.event_id FROM cardsync.events AS e
            WHERE e.repeated AND e.signature_hash = newest.signature_hash AND e.environment = newest.environment
              AND e.customer_id = newest.customer_id AND e.status IN ('pending', 'done', 'failed')
            LIMIT 1 FOR UPDATE SKIP LOCKED
        ) AS row WHERE newest.status = 'pending'
    ), folded AS MATERIALIZED (
        SELECT hash, cardsync.fold_repeat(standing.event_id, to_jsonb(newest)) AS event_id
        FROM standing JOIN newest USING (hash)
    ), lately AS MATERIALIZED (
        SELECT signature_hash, payment, (
            SELECT count(*) FROM (
                SELECT received_at FROM cardsync.events AS e
                WHERE e.signature_hash = s.signature_hash AND e.repeated ORDER BY evidence_no DESC LIMIT :most
            ) AS last WHERE received_at > statement_timestamp() - make_interval(secs => :seconds)
        ) AS rows
        FROM cardsync.signatures AS s WHERE signature_hash = ANY(ARRAY(SELECT signature_hash FROM newest))
    ), wanting AS MATERIALIZED (
        SELECT newest.*, lately.rows,
            newest.status = 'pending' AND coalesce(newest.payment = lately.payment, false) AS is_own,
            row_number() OVER (PARTITION BY newest.signature_hash ORDER BY place) AS nth
        FROM newest LEFT JOIN lately USING (signature_hash) WHERE newest.hash NOT IN (SELECT hash FROM folded)
    ), numbered AS MATERIALIZED (
        SELECT nextval('cardsync.observation_no') AS evidence_no, admitted.* FROM (
            SELECT * FROM wanting WHERE is_own OR coalesce(rows, 0) + nth <= :most ORDER BY place
        ) AS admitted
    ), inserted AS (
        INSERT INTO cardsync.events (
            event_id, evidence_no, received_at, body_hash, status, kind, ignored_because, environment, customer_id, session_id,
            reference_number, order_no, result, state, payment_type, agreement_id, scheme, key_id, signature_hash, token,
            facts, vouched, as_of, settled_at, repeated
        )
        SELECT
            event_id, evidence_no, received_at, hash, status, kind, ignored_because,
            environment, customer_id, session_id, reference_number, order_no, result, state, payment_type, agreement_id, scheme,
            key_id, signature_hash, token, facts, vouched, as_of, CASE WHEN status = 'ignored' THEN clock_timestamp() END, true
        FROM numbered ORDER BY hash
        ON CONFLICT DO NOTHING
        RETURNING body_hash AS hash, event_id
    )
    SELECT given.hash, coalesce(folded.event_id, inserted.event_id, (
            SELECT e.event_id FROM cardsync.events AS e
            WHERE e.signature_hash = given.signature_hash ORDER BY evidence_no DESC LIMIT 1
        ), given.event_id) AS event_id,
        CASE WHEN given.status = 'ignored' THEN 'ignored'
             WHEN coalesce(folded.event_id, inserted.event_id) IS NULL THEN 'done' ELSE 'pending' END AS status,
        inserted.hash IS NOT NULL AND inserted.hash = given.hash AS fresh
    FROM given
    LEFT JOIN newest ON newest.signature_hash = given.signature_hash AND newest.apart IS NOT DISTINCT FROM given.apart
        AND newest.environment IS NOT DISTINCT FROM given.environment
        AND newest.customer_id IS NOT DISTINCT FROM given.customer_id
    LEFT JOIN folded ON folded.hash = newest.hash
    LEFT JOIN inserted ON inserted.hash = newest.hash
""")


def keep(connection: Connection, rows: Sequence[WaitingRow]) -> Mapping[bytes, Kept]:
    """Keep repeated bodies, numbered in this order; by each body's hash the row that stands for it.

    The status of a body that got no row is ``done``: there is no work in it.
    """
    if not rows:
        return {}
    parameters = {"rows": as_parameter(rows), "most": ROWS_A_SIGNATURE, "seconds": ROWS_SECONDS}
    found = connection.execute(_KEEP, parameters)
    return {bytes(row.hash): Kept(row.event_id, row.status, row.fresh) for row in found}


@dataclass(frozen=True, slots=True)
class Repeat:
    """A pending repeat; ``stranger`` if nothing is known of its customer yet."""

    event_id: uuid.UUID
    signature_hash: bytes
    stranger: bool


_AMONG = text("""
    SELECT e.event_id, e.signature_hash, c.id IS NULL AS stranger
    FROM cardsync.events AS e
    LEFT JOIN cardsync.customers AS c ON c.environment = e.environment AND c.customer_id = e.customer_id
    WHERE e.event_id = ANY(:ids) AND e.status = 'pending' AND e.repeated
    ORDER BY e.signature_hash, e.evidence_no
""")


def among(connection: Connection, event_ids: Sequence[uuid.UUID]) -> list[Repeat]:
    """Return the pending events that are repeats, in the order in which their signatures are locked."""
    rows = connection.execute(_AMONG, {"ids": list(event_ids)[:SETTLE_AT_ONCE]})
    return [Repeat(r.event_id, bytes(r.signature_hash), r.stranger) for r in rows]


_ELSEWHERE = text("""
    SELECT e.event_id FROM cardsync.events AS e
    WHERE e.event_id = ANY(:ids) AND e.status = 'pending' AND e.signature_hash IS NOT NULL
      AND (e.repeated OR EXISTS (
          SELECT 1 FROM cardsync.events AS other
          WHERE other.signature_hash = e.signature_hash AND other.event_id <> e.event_id
      ))
""")


def in_other_bodies(connection: Connection, event_ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    """Those of the pending events whose signature came in another body, earlier or later: one of the two is altered."""
    return set(connection.execute(_ELSEWHERE, {"ids": list(event_ids)[:SETTLE_AT_ONCE]}).scalars())


# One row for each signature: the work of refusing does not grow with the number of bodies. Right sides see the old row.
_ADMIT = text("""
    INSERT INTO cardsync.repeated_signatures AS r (signature_hash, strangers) VALUES (:signature_hash, 1)
    ON CONFLICT (signature_hash) DO UPDATE
    SET strangers = CASE WHEN r.counted_since < clock_timestamp() - make_interval(secs => :seconds)
                         THEN 1 ELSE r.strangers + 1 END,
        counted_since = CASE WHEN r.counted_since < clock_timestamp() - make_interval(secs => :seconds)
                             THEN clock_timestamp() ELSE r.counted_since END
    WHERE r.strangers < :most OR r.counted_since < clock_timestamp() - make_interval(secs => :seconds)
""")


def admit_stranger(connection: Connection, signature_hash: bytes) -> bool:
    """Count one more unknown customer for a signature; false if the signature has made too many customers known lately."""
    parameters = {"signature_hash": signature_hash, "most": STRANGERS_A_SIGNATURE, "seconds": STRANGERS_SECONDS}
    return connection.execute(_ADMIT, parameters).rowcount == 1


# What it says goes with it: an invented card is nothing to keep a token for, and there is nothing that an operator could repair.
_GIVE_UP = text(f"""
    UPDATE cardsync.events
    SET status = 'ignored', ignored_because = 'given_up', settled_at = clock_timestamp(), {SHED}
    WHERE event_id = ANY(:ids) AND status = 'pending' AND repeated
""")


def give_up(connection: Connection, event_ids: Sequence[uuid.UUID]) -> int:
    """Give these repeats up, and erase what they say; the count of them."""
    return connection.execute(_GIVE_UP, {"ids": list(event_ids)}).rowcount


# A look that is due anyway, soon or after a failure, is enough. Bringing it forward in a lower lane could cost it its place. The
# far date of a customer that was on probation until now is no look that comes soon.
_IS_FREE = """
    (due_at IS NULL OR lane = 'sweep' AND failures = 0 AND due_at > clock_timestamp() + make_interval(secs => :apart_seconds))
"""
_MARK = text(f"""
    UPDATE cardsync.customers
    SET repeat_no = greatest(repeat_no, :evidence_no),
        dirty_since = coalesce(dirty_since, clock_timestamp()),
        due_at = CASE WHEN {_IS_FREE}
                      THEN greatest(clock_timestamp(), reconciled_at + make_interval(secs => :apart_seconds)) ELSE due_at END,
        lane = CASE WHEN {_IS_FREE} THEN 'repeat' ELSE lane END,
        rung_at = CASE WHEN {_IS_FREE} AND reconciled_at + make_interval(secs => :apart_seconds) > clock_timestamp()
                       THEN NULL ELSE clock_timestamp() END
    WHERE id = :customer
    RETURNING due_at <= clock_timestamp() AS due
""")


def mark_dirty(connection: Connection, customer: int, *, evidence_no: int, apart_seconds: float) -> bool:
    """Note that a customer may differ from Ottu because of a repeat; return whether the look is due already."""
    parameters = {"customer": customer, "evidence_no": evidence_no, "apart_seconds": apart_seconds}
    due: bool = connection.execute(_MARK, parameters).scalar_one()
    return due
