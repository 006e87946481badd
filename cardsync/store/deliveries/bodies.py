"""Notifications that are kept to be passed on: bodies, encrypted, and a delivery of each for every endpoint that gets it.

They are written by the statement that stores the hints (``store.intake``), so that both are durable before Ottu is answered.
``KEEPING`` is that part of the statement. A body is kept once, by its id, which follows from its hash: a duplicate of Ottu's is
passed on once. A row whose body was erased stays for as long as the inbox's rows do, and recognises a late duplicate.

One signature may come in several bodies (``core.repeats``): honest events of Ottu's, or altered copies by the holder of one. Each
is passed on, up to ``BODIES_A_SIGNATURE`` an hour; what exceeds that in a flood of altered copies goes to no endpoint. The figure
``cardsync_repeated_hints_total`` tells of such a flood: it counts every body but a signature's first.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import orjson
from sqlalchemy import Connection, text

from cardsync.ciphers import KeyRing
from cardsync.core.cards import ENVIRONMENTS
from cardsync.core.events import event_id_text
from cardsync.core.kept_bodies import KeptBody, about
from cardsync.core.spool_format import WaitingRow
from cardsync.errors import Refused, UnknownSecretKey
from cardsync.store.deliveries.endpoints import GETS_NOTIFICATIONS

BODIES_A_SIGNATURE: Final = 40  # an hour, as many as the inbox keeps rows of repeats

RELAYING: Final = f"EXISTS (SELECT FROM cardsync.endpoints AS e WHERE {GETS_NOTIFICATIONS})"

_DELIVERING: Final = f"""
        INSERT INTO cardsync.deliveries (endpoint_id, event_id)
        SELECT e.endpoint_id, kept.event_id
        FROM kept CROSS JOIN cardsync.endpoints AS e WHERE {GETS_NOTIFICATIONS}
        ORDER BY kept.event_id
"""

# Parts of a WITH clause; ``:bodies`` is the parameter. Rows go in the order of their ids, so that two statements with the same
# bodies wait for each other in one order.
KEEPING: Final = f"""
    bodies AS MATERIALIZED (
        SELECT given.*, coalesce(given.received_at, statement_timestamp()) AS at, row_number() OVER (
            PARTITION BY signature_hash ORDER BY event_id
        ) AS nth
        FROM json_to_recordset(cast(:bodies AS json)) AS given (
            event_id uuid, signature_hash text, received_at timestamptz, customer_id text, session_id text, content_type text,
            body text
        )
    ), kept AS (
        INSERT INTO cardsync.kept_bodies (
            event_id, signature_hash, received_at, kept_since, customer_id, session_id, content_type, body
        )
        SELECT event_id, decode(signature_hash, 'hex'), least(at, statement_timestamp()), least(at, statement_timestamp()),
            customer_id, session_id, content_type, body
        FROM bodies
        WHERE {RELAYING} AND nth + (
            SELECT count(*) FROM (
                SELECT FROM cardsync.kept_bodies AS k
                WHERE k.signature_hash = decode(bodies.signature_hash, 'hex')
                  AND k.received_at > statement_timestamp() - interval '1 hour'
                LIMIT {BODIES_A_SIGNATURE}
            ) AS lately
        ) <= {BODIES_A_SIGNATURE}
        ORDER BY event_id
        ON CONFLICT DO NOTHING
        RETURNING event_id, received_at
    ), delivering AS (
        {_DELIVERING}
    )
"""
# The same for bodies whose rows the statement itself inserts, with signatures that are new: none of them is kept yet, so that
# nothing is counted. They come in the order of the rows, from which all else is taken.
KEEPING_NEW: Final = f"""
    kept AS (
        INSERT INTO cardsync.kept_bodies (
            event_id, signature_hash, received_at, kept_since, customer_id, session_id, content_type, body
        )
        SELECT event_id, signature_hash, received_at, received_at, customer_id, session_id, content_type, body
        FROM given JOIN ROWS FROM (json_to_recordset(cast(:bodies AS json)) AS (content_type text, body text))
            WITH ORDINALITY AS came (content_type, body, place) USING (place)
        WHERE hash IN (SELECT body_hash FROM inserted) AND {RELAYING}
        ORDER BY event_id
        ON CONFLICT DO NOTHING
        RETURNING event_id
    ), delivering AS (
        {_DELIVERING}
    )
"""
_KEEP = text(f"WITH {KEEPING} SELECT count(*) FROM kept")


def as_parameter(rows: Sequence[WaitingRow]) -> str:
    """The value of ``:bodies``: those of the rows that have a body to keep."""
    return orjson.dumps([_as_json(row) for row in rows if row.kept is not None]).decode()


def in_order(kept: Sequence[KeptBody]) -> str:
    """The value of ``:bodies`` in ``KEEPING_NEW``: the bodies of all rows, in their order."""
    return orjson.dumps([{"content_type": one.content_type, "body": one.body} for one in kept]).decode()


def _as_json(row: WaitingRow) -> dict[str, object]:
    assert row.kept is not None
    return {
        "event_id": event_id_text(row.body_hash),
        "signature_hash": None if row.signature_hash is None else row.signature_hash.hex(),
        "received_at": None if row.received_at is None else row.received_at.isoformat(),
        "customer_id": row.customer_id,
        "session_id": row.session_id,
        "content_type": row.kept.content_type,
        "body": row.kept.body,
    }


def keep(connection: Connection, rows: Sequence[WaitingRow]) -> int:
    """Keep the bodies of rows whose hints are stored already; how many were new. Storing one twice changes nothing."""
    kept: int = connection.execute(_KEEP, {"bodies": as_parameter(rows)}).scalar_one()
    return kept


_RELAYING = text(f"SELECT {RELAYING}")


def is_relaying(connection: Connection) -> bool:
    """Whether there is an endpoint that gets notifications, so that bodies are kept."""
    found: bool = connection.execute(_RELAYING).scalar_one()
    return found


# A payment's later notifications may name no customer; its session tells whose they are.
_ERASE = text("""
    WITH theirs AS MATERIALIZED (
        SELECT event_id FROM cardsync.kept_bodies WHERE customer_id = :customer_id
        UNION
        SELECT event_id FROM cardsync.kept_bodies WHERE session_id IN (
            SELECT session_id FROM cardsync.kept_bodies WHERE customer_id = :customer_id AND session_id IS NOT NULL
            UNION
            SELECT session_id FROM cardsync.events
            WHERE environment = ANY(:environments) AND customer_id = :customer_id AND session_id IS NOT NULL
        )
    ), given_up AS (
        UPDATE cardsync.deliveries
        SET status = 'failed', finished_at = clock_timestamp(), claimed_until = NULL, last_error = :why
        WHERE event_id IN (SELECT event_id FROM theirs) AND status = 'pending'
    )
    UPDATE cardsync.kept_bodies SET body = NULL, customer_id = NULL, session_id = NULL
    WHERE event_id IN (SELECT event_id FROM theirs)
""")


def erase(connection: Connection, customer_id: str) -> int:
    """Erase the kept bodies of a person, before what names their payments goes; what waits for an endpoint is given up."""
    parameters = {"customer_id": customer_id, "environments": list(ENVIRONMENTS), "why": "erased with its person"}
    return connection.execute(_ERASE, parameters).rowcount


@dataclass(frozen=True, slots=True)
class Reencrypted:
    """One batch: how many bodies were written, how many no key could read, and where the next one begins (``None``: done)."""

    written: int
    unreadable: int
    next_after: uuid.UUID | None


_OF_OTHER_KEYS = text("""
    SELECT event_id, body FROM cardsync.kept_bodies
    WHERE body IS NOT NULL AND NOT starts_with(body, :prefix) AND event_id > :after ORDER BY event_id LIMIT :limit
""")
_REENCRYPT = text("""
    UPDATE cardsync.kept_bodies AS k SET body = new.body
    FROM unnest(cast(:event_ids AS uuid[]), cast(:before AS text[]), cast(:bodies AS text[])) AS new (event_id, before, body)
    WHERE k.event_id = new.event_id AND k.body = new.before
""")
_COUNT_OF_OTHER_KEYS = text("""
    SELECT count(*) FROM cardsync.kept_bodies WHERE body IS NOT NULL AND NOT starts_with(body, :prefix)
""")


def reencrypt(connection: Connection, ring: KeyRing, *, after: uuid.UUID, limit: int) -> Reencrypted:
    """Encrypt a batch of bodies with the ring's current key."""
    rows = connection.execute(_OF_OTHER_KEYS, {"prefix": ring.prefix, "after": after, "limit": limit}).all()
    written: list[tuple[uuid.UUID, str, str]] = []
    unreadable = 0
    for row in rows:
        bound = about(row.event_id)
        try:
            written.append((row.event_id, row.body, ring.encrypt(ring.decrypt(row.body, bound), bound)))
        except (Refused, UnknownSecretKey):
            unreadable += 1
    if written:
        event_ids, before, bodies = (list(values) for values in zip(*written, strict=True))
        connection.execute(_REENCRYPT, {"event_ids": event_ids, "before": before, "bodies": bodies})
    return Reencrypted(len(written), unreadable, rows[-1].event_id if len(rows) == limit else None)


def count_of_other_keys(connection: Connection, ring: KeyRing) -> int:
    """How many bodies are not encrypted with the ring's current key."""
    found: int = connection.execute(_COUNT_OF_OTHER_KEYS, {"prefix": ring.prefix}).scalar_one()
    return found
