"""The short way into the inbox: for bodies that are new, with a signature that is new, as nearly all are.

It claims the signatures, inserts the rows, and keeps the bodies of those that are to be passed on, in one statement. What it does
not insert it leaves to ``store.intake``, which has every case; there the rules are told that both follow (order of locks, order
of arrival, which body is a signature's first). It runs on the driver's own cursor (``db.driver_cursor``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from psycopg import RawCursor

from cardsync.core.spool_format import WaitingRow
from cardsync.store.deliveries import bodies
from cardsync.store.given_rows import GIVEN
from cardsync.store.inbox import Status
from cardsync.store.intake import INSERTING, PIECE_BYTES, Stored

_NEW: Final = f"""
    WITH given AS MATERIALIZED ({GIVEN.replace(":rows", "$1")}), claimed AS (
        INSERT INTO cardsync.signatures (signature_hash, first_seen, payment, named_card)
        SELECT signature_hash, received_at::date, payment, status = 'pending' FROM given ORDER BY signature_hash
        ON CONFLICT DO NOTHING
        RETURNING signature_hash
    ), numbered AS MATERIALIZED (
        SELECT nextval('cardsync.observation_no') AS evidence_no, fresh.* FROM (
            SELECT * FROM given WHERE signature_hash IN (SELECT signature_hash FROM claimed) ORDER BY place
        ) AS fresh
    ), inserted AS ({INSERTING}
    )
"""
_WHAT_IS_NEW: Final = f"SELECT body_hash, {bodies.RELAYING} AS is_relaying FROM inserted"
_STORE_NEW: Final = f"{_NEW} {_WHAT_IS_NEW}"
_STORE_NEW_AND_KEEP: Final = f"{_NEW}, {bodies.KEEPING_NEW.replace(':bodies', '$2')} {_WHAT_IS_NEW}"


def store_new(cursor: RawCursor[Any], rows: Sequence[WaitingRow], given: str) -> dict[bytes, Stored]:
    """Insert those of the rows whose body and signature are both new, in one round trip; by their hash what became of them.

    The others are for ``intake.store_rows``: bodies and signatures that are known, or that another transaction inserts at this
    moment. Where two rows share a body or a signature, one has no signature, some have a body to be kept and others have none, or
    those bodies are large together, no row is tried. The signature of a body that is known is claimed all the same if it is not
    known: it has been seen.

    Bodies to be kept go along, with their deliveries, where an endpoint gets notifications.

    ``given`` is the rows' own parameter (``given_rows.as_parameter``), which says so where a token is in the clear.

    For a connection that commits each statement by itself.
    """
    by_hash = {row.body_hash: row for row in rows}
    signatures = {row.signature_hash for row in rows}
    if len(by_hash) < len(rows) or len(signatures) < len(rows) or None in signatures:
        return {}
    kept = [row.kept for row in rows if row.kept is not None]
    if kept and (len(kept) < len(rows) or sum(len(one.body) for one in kept) > PIECE_BYTES):
        return {}
    statement, parameters = (_STORE_NEW_AND_KEEP, (given, bodies.in_order(kept))) if kept else (_STORE_NEW, (given,))
    found: dict[bytes, Stored] = {}
    for body_hash, is_relaying in cursor.execute(statement, parameters, binary=True):
        row = by_hash[body_hash]
        is_work = row.status == "pending"
        status: Status = "pending" if is_work else "ignored"
        found[body_hash] = Stored(row.event_id, status, fresh=True, to_ring=is_work, is_relaying=is_relaying)
    return found
