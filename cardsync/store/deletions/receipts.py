"""Receipts: every step of every deletion, append-only, all in one chain of hashes, and the chain sealed with a key.

A step's text is its number, the deletion, the time (UTC, microseconds), the step's name and its detail as PostgreSQL prints
``jsonb``, one a line; how the hashes follow each other is told in ``store.sealed_chains``. The database makes the chain itself,
at commit (migration 0002); here it is made again from the tables, and compared.

The owner of the database could change a step and make the chain again. So a worker *seals* the chain's head about once a second
while it moves: HMAC-SHA256 with a key made from ``CARDSYNC_SECRET_KEY``, which is not in the database. A chain that was made
again does not fit its seals. A seal covers all steps before it, also those that were written before there were seals.

What the database cannot show by itself: a change in the second before the seal, and that steps and their seals were removed
from the end, or all seals at once. For the last two there are the worker's log (``receipts_sealed``, once a day) and a head's
hash that was noted elsewhere. No token, name or number stands in a step, so that a receipt outlives the person it is about.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, text

from cardsync.store.sealed_chains import ROWS_AT_ONCE, ChainReader, Link, Verified
from cardsync.store.seals import Seal

Name = Literal[
    "asked",
    "asked_again",
    "called",
    "answered",
    "no_answer",
    "listed",
    "absent",
    "unlisted",  # a list was asked for, and none was given: what became of the call stays open
    "done",
    "blocked",
    "failed",
    "unlocked",
    "replayed",
    "held",  # a backup was restored, and what became of it since is not known
]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a deletion; ``detail`` holds our own words and Ottu's, never a token."""

    step_no: int
    deletion_id: uuid.UUID
    at: dt.datetime
    step: str
    detail: Mapping[str, Any]
    hash: bytes


_ADD = text("""
    INSERT INTO cardsync.deletion_steps (deletion_id, step, detail)
    VALUES (:deletion_id, :step, cast(:detail AS jsonb))
""")


def add(connection: Connection, deletion_id: uuid.UUID, step: Name, **detail: Any) -> None:
    """Append a step; what is ``None`` in ``detail`` is left out."""
    said = {name: value for name, value in detail.items() if value is not None}
    connection.execute(_ADD, {"deletion_id": deletion_id, "step": step, "detail": json.dumps(said)})


_OF_DELETION = text("""
    SELECT c.step_no, s.deletion_id, s.at, s.step, s.detail, c.hash
    FROM cardsync.deletion_steps AS s JOIN cardsync.receipt_chain AS c USING (step_id)
    WHERE s.deletion_id = :deletion_id ORDER BY c.step_no
""")


def steps(connection: Connection, deletion_id: uuid.UUID) -> list[Step]:
    """The steps of one deletion, in order."""
    return [_step(row) for row in connection.execute(_OF_DELETION, {"deletion_id": deletion_id})]


def _step(row: Row[Any]) -> Step:
    return Step(row.step_no, row.deletion_id, row.at, row.step, row.detail, bytes(row.hash))


_HEAD = text("""
    SELECT step_no, hash, (SELECT coalesce(max(step_no), 0) FROM cardsync.receipt_chain) AS last_no
    FROM cardsync.receipt_head
""")
_PAGE = text("""
    SELECT c.step_no, s.deletion_id, s.at, s.step, s.detail::text AS detail, c.hash,
           l.hash AS sealed_hash, l.sealed_at, l.seal
    FROM cardsync.receipt_chain AS c LEFT JOIN cardsync.deletion_steps AS s USING (step_id)
    LEFT JOIN cardsync.receipt_seals AS l USING (step_no)
    WHERE c.step_no > :after AND c.step_no <= :last ORDER BY c.step_no LIMIT :limit
""")
# A step that a service asked for by SQL waits a moment for its place (migration 0014).
_UNCHAINED = text("""
    SELECT EXISTS (
        SELECT FROM cardsync.deletion_steps AS s
        WHERE NOT EXISTS (SELECT FROM cardsync.receipt_chain AS c WHERE c.step_id = s.step_id)
          AND NOT EXISTS (SELECT FROM cardsync.unchained_steps AS u WHERE u.step_id = s.step_id)
    )
""")
_SEALED_BEYOND = text("SELECT EXISTS (SELECT FROM cardsync.receipt_seals WHERE step_no > :step_no)")
# The deletion's own row is work in progress and no receipt; but it must not tell another story than the receipt does.
_CONTRADICTED = text("""
    SELECT min(c.step_no)
    FROM cardsync.deletions AS d
    JOIN cardsync.deletion_steps AS s ON s.deletion_id = d.deletion_id AND s.step = 'asked'
    JOIN cardsync.receipt_chain AS c USING (step_id)
    WHERE s.detail ->> 'requested_by' <> d.requested_by OR s.detail ->> 'card_id' <> d.card_id::text
       OR (d.phase = 'done') <> EXISTS (
           SELECT FROM cardsync.deletion_steps AS e WHERE e.deletion_id = d.deletion_id AND e.step = 'done'
       )
""")


def verify(connection: Connection, *, noted: bytes | None = None, keys: Sequence[bytes] = ()) -> Verified:
    """Make the whole chain again and compare; reads all receipts, up to the head at the beginning.

    ``noted`` is a head's hash of an earlier time: found, nothing up to it was changed or cut off since. With ``keys`` (of
    ``seals.RECEIPTS``, the present one and older ones) every seal is checked too.
    """
    head = connection.execute(_HEAD).one()
    reader = ChainReader(noted, keys)
    while rows := connection.execute(
        _PAGE, {"after": reader.number, "last": head.step_no, "limit": ROWS_AT_ONCE}
    ).all():
        if not all(reader.fits(_link(row)) for row in rows):
            return reader.broken()
    is_whole = (head.step_no, bytes(head.hash), head.last_no) == (reader.number, reader.hash, reader.number)
    cut_off = connection.execute(_SEALED_BEYOND, {"step_no": head.step_no}).scalar_one()
    if not is_whole or cut_off or connection.execute(_UNCHAINED).scalar_one():
        return reader.broken()
    contradicted = connection.execute(_CONTRADICTED).scalar_one()
    return reader.whole() if contradicted is None else reader.broken(at=contradicted)


def _link(row: Row[Any]) -> Link:
    """The link of a row; without a text where the step itself is gone."""
    seal = None if row.seal is None else Seal(row.step_no, bytes(row.sealed_hash), row.sealed_at, bytes(row.seal))
    said = None
    if row.deletion_id is not None:
        at = row.at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        said = "\n".join((str(row.step_no), str(row.deletion_id), at, row.step, row.detail)).encode()
    return Link(row.step_no, bytes(row.hash), said, row.at, seal)
