"""The journal of operators' actions: who, what, on what, before and after, why, from where; append-only and chained by hash.

The database writes a row in the action's own transaction, and its place in the chain at the commit (migration 0023). A worker
seals the head, as it does for receipts (``store.seals``): without the secret key not even the database's owner can make the
chain again unseen.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, text

from cardsync.store.sealed_chains import ROWS_AT_ONCE, ChainReader, Link, Verified
from cardsync.store.seals import Seal

NEWEST: Final = 2**63 - 1


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
    WHERE action_id < cast(:before AS bigint) ORDER BY action_id DESC LIMIT :limit
""")


def page(connection: Connection, *, before: int | None, limit: int) -> list[Entry]:
    """The newest actions before the one with that id."""
    return [
        Entry(*row)
        for row in connection.execute(_PAGE, {"before": NEWEST if before is None else before, "limit": limit})
    ]


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


def verify(connection: Connection, *, noted: bytes | None = None, keys: Sequence[bytes] = ()) -> Verified:
    """Make the whole chain again and compare; reads all of the journal, up to the head at the beginning.

    With ``keys`` (of ``seals.JOURNAL``, the present one and older ones) every seal is checked too.
    """
    head = connection.execute(_HEAD).one()
    reader = ChainReader(noted, keys)
    while reader.number < head.action_no:
        parameters = {"after": reader.number, "last": head.action_no, "limit": ROWS_AT_ONCE}
        rows = connection.execute(_CHAIN, parameters).all()
        if not rows or not all(reader.fits(_link(row)) for row in rows):
            return reader.broken()
    is_cut = bool(keys) and connection.execute(_SEALED_BEYOND, {"action_no": head.action_no}).scalar_one()
    if reader.hash != bytes(head.hash) or is_cut or connection.execute(_UNCHAINED).scalar_one():
        return reader.broken()
    return reader.whole()


def _link(row: Row[Any]) -> Link:
    seal = None if row.seal is None else Seal(row.action_no, bytes(row.sealed_hash), row.sealed_at, bytes(row.seal))
    return Link(row.action_no, bytes(row.hash), row.said.encode(), row.at, seal)
