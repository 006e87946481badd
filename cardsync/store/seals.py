"""Seals: the head of a chain of hashes, signed with a key that the database does not hold. Two chains have them.

The database chains the receipts of deletions and the journal of operators' actions itself, and its owner could change a row and
make the chain again. So a worker seals each chain's head about once a second while it moves (``stories.seal``): HMAC-SHA256
with a key made from ``CARDSYNC_SECRET_KEY``, another one for each chain. A chain that was made again does not fit its seals.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from cardsync.errors import Conflict


@dataclass(frozen=True, slots=True)
class Seal:
    """The chain's hash at one number, and the HMAC over it."""

    number: int
    hash: bytes
    sealed_at: dt.datetime
    seal: bytes


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain in the database: how its tables' names begin, the column of its numbers, what a link is called, its key's label."""

    name: str
    tables: str
    number: str
    link: str
    label: bytes

    def key(self, secret: bytes) -> bytes:
        """The key of its seals, made from ``CARDSYNC_SECRET_KEY``: of no use for fingerprints, nor theirs for seals."""
        return hmac.digest(secret, self.label, hashlib.sha256)


RECEIPTS = Chain("receipts", "cardsync.receipt", "step_no", "step", b"cardsync receipt seals 1")
JOURNAL = Chain("journal", "cardsync.operator_action", "action_no", "action", b"cardsync journal seals 1")
CHAINS = (RECEIPTS, JOURNAL)


def is_ours(seal: Seal, keys: Sequence[bytes]) -> bool:
    """Tell whether one of the keys made this seal."""
    return any(hmac.compare_digest(_sealed(seal.number, seal.hash, seal.sealed_at, key), seal.seal) for key in keys)


def _sealed(number: int, head: bytes, sealed_at: dt.datetime, key: bytes) -> bytes:
    at = sealed_at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return hmac.digest(key, f"{number}\n{head.hex()}\n{at}".encode(), hashlib.sha256)


_LAST = {
    chain: text(f"""
        SELECT l.{chain.number} AS number, l.hash, l.sealed_at, l.seal, c.hash AS chained
        FROM {chain.tables}_seals AS l LEFT JOIN {chain.tables}_chain AS c USING ({chain.number})
        ORDER BY l.{chain.number} DESC LIMIT 1
    """)
    for chain in CHAINS
}
_HEAD = {
    chain: text(f"SELECT {chain.number} AS number, hash, clock_timestamp() AS now FROM {chain.tables}_head")
    for chain in CHAINS
}
_ADD = {
    chain: text(f"""
        INSERT INTO {chain.tables}_seals ({chain.number}, hash, sealed_at, seal) VALUES (:number, :hash, :sealed_at, :seal)
        ON CONFLICT DO NOTHING
    """)
    for chain in CHAINS
}


def last(connection: Connection, chain: Chain, keys: Sequence[bytes]) -> Seal | None:
    """The newest seal. Raises ``Conflict`` if it is not ours, or is not of the chain that stands there now."""
    row = connection.execute(_LAST[chain]).one_or_none()
    if row is None:
        return None
    seal = Seal(row.number, bytes(row.hash), row.sealed_at, bytes(row.seal))
    if row.chained is None or bytes(row.chained) != seal.hash or not is_ours(seal, keys):
        raise Conflict(f"the seal of {chain.link} {seal.number} does not fit the chain of the {chain.name}")
    return seal


def seal_head(connection: Connection, chain: Chain, key: bytes, *, after: Seal | None) -> Seal | None:
    """Seal the chain's head; ``None`` if it has not moved since ``after``. Two workers at once: the first one's seal counts."""
    head = connection.execute(_HEAD[chain]).one()
    if head.number == (0 if after is None else after.number):
        return None
    seal = Seal(head.number, bytes(head.hash), head.now, _sealed(head.number, bytes(head.hash), head.now, key))
    parameters = {"number": seal.number, "hash": seal.hash, "sealed_at": seal.sealed_at, "seal": seal.seal}
    connection.execute(_ADD[chain], parameters)
    return seal
