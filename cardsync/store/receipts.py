"""Receipts: every step of every deletion, append-only, all in one chain of hashes.

A step's hash is SHA-256 over the hash before it and the step's own text: its number, the deletion, the time (UTC, microseconds),
the step's name and its detail as PostgreSQL prints ``jsonb``, one a line. The first one stands on 32 zero bytes. The database
makes the chain itself, at commit (migration 0002); here it is made again from the tables, and compared.

What a chain cannot show by itself is that its end was cut off: note the head's hash elsewhere, and ask for it later. No token,
name or number stands in a step, so that a receipt outlives the person it is about.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Connection, Row, text

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
]

BEFORE_THE_FIRST: Final = bytes(32)
ROWS_AT_ONCE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a deletion; ``detail`` holds our own words and Ottu's, never a token."""

    step_no: int
    deletion_id: uuid.UUID
    at: dt.datetime
    step: str
    detail: Mapping[str, Any]
    hash: bytes


@dataclass(frozen=True, slots=True)
class Verified:
    """What making the chain again showed: how many steps, the last hash, and the number of the first that does not fit.

    ``noted_at`` is the number of the step whose hash the caller had noted; ``None`` if no step has it, or none was given.
    """

    steps: int
    head: bytes
    broken_at: int | None
    noted_at: int | None = None


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
    SELECT c.step_no, s.deletion_id, s.at, s.step, s.detail::text AS detail, c.hash
    FROM cardsync.receipt_chain AS c LEFT JOIN cardsync.deletion_steps AS s USING (step_id)
    WHERE c.step_no > :after AND c.step_no <= :last ORDER BY c.step_no LIMIT :limit
""")
_UNCHAINED = text("""
    SELECT EXISTS (
        SELECT FROM cardsync.deletion_steps AS s
        WHERE NOT EXISTS (SELECT FROM cardsync.receipt_chain AS c WHERE c.step_id = s.step_id)
    )
""")
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


def verify(connection: Connection, *, noted: bytes | None = None) -> Verified:
    """Make the whole chain again and compare; reads all receipts, up to the head at the beginning.

    ``noted`` is a head's hash of an earlier time: found, nothing up to it was changed or cut off since.
    """
    head = connection.execute(_HEAD).one()
    number, before, noted_at = 0, BEFORE_THE_FIRST, None
    while rows := connection.execute(_PAGE, {"after": number, "last": head.step_no, "limit": ROWS_AT_ONCE}).all():
        for row in rows:
            digest = _digest(number + 1, before, row)
            if row.step_no != number + 1 or digest != bytes(row.hash):
                return Verified(number, before, number + 1, noted_at)
            number, before = row.step_no, digest
            noted_at = number if digest == noted else noted_at
    is_whole = (head.step_no, bytes(head.hash), head.last_no) == (number, before, number)
    if not is_whole or connection.execute(_UNCHAINED).scalar_one():
        return Verified(number, before, number + 1, noted_at)
    return Verified(number, before, connection.execute(_CONTRADICTED).scalar_one(), noted_at)


def _digest(number: int, before: bytes, row: Row[Any]) -> bytes:
    """The hash that the step must have; empty, and so no hash, for a link without a step."""
    if row.deletion_id is None:
        return b""
    at = row.at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    content = "\n".join((str(number), str(row.deletion_id), at, row.step, row.detail))
    return hashlib.sha256(before + content.encode()).digest()
