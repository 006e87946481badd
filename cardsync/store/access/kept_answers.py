"""Answers that are given again: what an asker's idempotency key got, kept for some days.

The row is inserted before the work and completed after it, in one transaction. So a second request with the same key waits for
the first one, and gets its answer, or does the work itself if the first one failed. Deletions and erasures keep their keys for
good, beside what they led to (``store.deletions``).
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

from cardsync.core.idempotency import hashed_key
from cardsync.errors import Conflict


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """A successful answer, as it was sent."""

    status: int
    location: str | None
    body: str


_TAKE = text("""
    INSERT INTO cardsync.kept_answers (idempotency_key, request_hash) VALUES (:key, :request_hash)
    ON CONFLICT (idempotency_key) DO NOTHING
""")
_FIND = text("SELECT request_hash, status, location, body FROM cardsync.kept_answers WHERE idempotency_key = :key")
_KEEP = text("""
    UPDATE cardsync.kept_answers SET status = :status, location = :location, body = :body
    WHERE idempotency_key = :key AND status IS NULL
""")


def take(connection: Connection, asker: str, operation: str, key: str, request_hash: bytes) -> KeptAnswer | None:
    """Take the key for this request: ``None`` if it is new, else what it got before. Keys of two operations are two keys.

    Raises ``Conflict`` if it came with another request.
    """
    taken = {"key": _kept_key(asker, operation, key), "request_hash": request_hash}
    if connection.execute(_TAKE, taken).rowcount == 1:
        return None
    row = connection.execute(_FIND, {"key": taken["key"]}).one()
    if bytes(row.request_hash) != request_hash:
        raise Conflict("the idempotency key was used for another request", code="idempotency_key_reused")
    return KeptAnswer(row.status, row.location, row.body)


def keep(connection: Connection, asker: str, operation: str, key: str, answer: KeptAnswer) -> None:
    """Keep the answer of a key that was taken in this transaction."""
    kept = {"key": _kept_key(asker, operation, key), "status": answer.status}
    connection.execute(_KEEP, {**kept, "location": answer.location, "body": answer.body})


def _kept_key(asker: str, operation: str, key: str) -> str:
    return hashed_key(asker, f"{operation}\n{key}")
