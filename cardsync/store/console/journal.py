"""The journal of operators' actions: who, what, on what, before and after, why, from where; append-only and chained by hash.

The database writes a row in the action's own transaction, and its place in the chain at the commit (migration 0023). Each hash is
SHA-256 over the hash before it and the action's text; the first one stands on 32 zero bytes. A worker seals the head, as it does
for receipts (``store.seals``): without the secret key not even the database's owner can make the chain again unseen.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, text

from cardsync.store import seals

BEFORE_THE_FIRST: Final = bytes(32)
ROWS_AT_ONCE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One action."""

    action_id: int
    at: dt.datetime
    actor: str
    action: str
    kind: str
    subject: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    reason: str | None
    came_from: str | None


_PAGE = text("""
    SELECT action_id, at, actor, action, kind, subject, before, after, reason, came_from FROM cardsync.operator_actions
    WHERE cast(:before AS bigint) IS NULL OR action_id < :before ORDER BY action_id DESC LIMIT :limit
""")


def page(connection: Connection, *, before: int | None, limit: int) -> list[Entry]:
    """The newest actions before the one with that id."""
    return [Entry(*row) for row in connection.execute(_PAGE, {"before": before, "limit": limit})]


_HEAD = text("SELECT action_no, hash FROM cardsync.operator_action_head")
_CHAIN = text("""
    SELECT c.action_no, c.hash, cardsync.operator_action_said(c.action_no, a) AS said, a.at,
           l.hash AS sealed_hash, l.sealed_at, l.seal
    FROM cardsync.operator_action_chain AS c JOIN cardsync.operator_actions AS a USING (action_id)
    LEFT JOIN cardsync.operator_action_seals AS l USING (action_no)
    WHERE c.action_no > :after AND c.action_no <= :last ORDER BY c.action_no LIMIT :limit
""")
_UNCHAINED = text("""
    SELECT EXISTS (
        SELECT FROM cardsync.operator_actions AS a
        WHERE NOT EXISTS (SELECT FROM cardsync.operator_action_chain AS c WHERE c.action_id = a.action_id)
    )
""")
_SEALED_BEYOND = text("SELECT EXISTS (SELECT FROM cardsync.operator_action_seals WHERE action_no > :action_no)")


@dataclass(frozen=True, slots=True)
class Verified:
    """What making the chain again showed: its length, its last hash, and the first action that does not fit.

    ``sealed_to`` is the last action that a seal covers (0: none), ``unsealed_since`` the time of the first one after it; both
    ``None`` if no key was given. ``noted_at`` is the number of the action whose hash the caller had noted.
    """

    actions: int
    head: bytes
    broken_at: int | None
    noted_at: int | None = None
    sealed_to: int | None = None
    unsealed_since: dt.datetime | None = None


def verify(connection: Connection, *, noted: bytes | None = None, keys: Sequence[bytes] = ()) -> Verified:
    """Make the whole chain again and compare; reads all of the journal, up to the head at the beginning.

    With ``keys`` (of ``seals.JOURNAL``, the present one and older ones) every seal is checked too.
    """
    head = connection.execute(_HEAD).one()
    reader = _ChainReader(noted, keys)
    while reader.number < head.action_no:
        parameters = {"after": reader.number, "last": head.action_no, "limit": ROWS_AT_ONCE}
        rows = connection.execute(_CHAIN, parameters).all()
        if not rows or not all(reader.fits(row) for row in rows):
            return reader.result(broken_at=reader.number + 1)
    is_cut = bool(keys) and connection.execute(_SEALED_BEYOND, {"action_no": head.action_no}).scalar_one()
    if reader.hash != bytes(head.hash) or is_cut or connection.execute(_UNCHAINED).scalar_one():
        return reader.result(broken_at=reader.number + 1)
    return reader.result(broken_at=None)


class _ChainReader:
    """Goes along the chain, an action at a time, for as long as hashes and seals fit."""

    def __init__(self, noted: bytes | None, keys: Sequence[bytes]) -> None:
        self._noted, self._keys = noted, keys
        self.number, self.hash = 0, BEFORE_THE_FIRST
        self._noted_at: int | None = None
        self._sealed_to = 0
        self._unsealed_since: dt.datetime | None = None

    def fits(self, row: Row[Any]) -> bool:
        """Take one action more, if the row is the next one and its hash and seal are right."""
        digest = hashlib.sha256(self.hash + row.said.encode()).digest()
        if row.action_no != self.number + 1 or bytes(row.hash) != digest:
            return False
        if self._keys and row.seal is not None:
            seal = seals.Seal(row.action_no, bytes(row.sealed_hash), row.sealed_at, bytes(row.seal))
            if seal.hash != digest or not seals.is_ours(seal, self._keys):
                return False
            self._sealed_to, self._unsealed_since = row.action_no, None
        elif self._unsealed_since is None:
            self._unsealed_since = row.at
        self.number, self.hash = row.action_no, digest
        self._noted_at = self.number if digest == self._noted else self._noted_at
        return True

    def result(self, *, broken_at: int | None) -> Verified:
        """What was read, as the answer to ``verify``."""
        if not self._keys:
            return Verified(self.number, self.hash, broken_at, self._noted_at)
        return Verified(self.number, self.hash, broken_at, self._noted_at, self._sealed_to, self._unsealed_since)
