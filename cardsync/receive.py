"""``receive``: a notification's bytes become one durable row, or leave no trace.

The order is the promise: parse once, verify, read what may be kept, write, and only then is the answer "success". What the
database cannot take is set down on disk, with the id that its row will have, and ``drain`` makes the row later. What is not
authentic is not written anywhere. The broker is not spoken to here: whoever calls this rings afterwards, off the payer's path.
"""

from __future__ import annotations

import datetime as dt
import hmac
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from cardsync import metrics
from cardsync.core.events import body_hash, parse, read_event
from cardsync.core.repeats import signature_hash
from cardsync.core.signature import Scheme, verify
from cardsync.core.waiting import write_waiting
from cardsync.spool import Spool
from cardsync.store import inbox
from cardsync.store.inbox import NewEvent, Stored

KEY_ID_CHARACTERS: Final = 12  # of a keyed hash: tells an operator which key vouched, and nobody anything about the key


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to a notification. ``to_ring`` says that there is work in the row."""

    status: Literal["accepted", "duplicate", "ignored"]
    event_id: uuid.UUID
    to_ring: bool
    key_index: int
    scheme: Scheme


@dataclass(frozen=True, slots=True)
class WebhookKeys:
    """The keys that may vouch for a notification, with a name for each that tells nothing of it."""

    keys: tuple[str, ...]
    ids: tuple[str, ...]

    @classmethod
    def of(cls, keys: Sequence[str], secret: bytes) -> WebhookKeys:
        """Name the keys by a hash under the deployment's own secret."""
        ids = (hmac.digest(secret, f"webhook-key:{key}".encode(), "sha256").hex() for key in keys)
        return cls(tuple(keys), tuple(i[:KEY_ID_CHARACTERS] for i in ids))


@dataclass(frozen=True, slots=True)
class Authentic:
    """A notification that a key vouched for, ready to be written; ``key_index`` is that key's place."""

    new: NewEvent
    key_index: int


def receive(engine: Engine, body: bytes, keys: WebhookKeys) -> Receipt:
    """Verify ``body`` and make it durable. Raises what ``examine`` and ``write`` raise."""
    return write(engine, [examine(body, keys)])[0]


def examine(body: bytes, keys: WebhookKeys) -> Authentic:
    """Parse, verify and read a notification, without touching anything. Raises ``MalformedBody`` or ``InvalidSignature``."""
    payload = parse(body)
    vouched = verify(payload, keys.keys)
    new = NewEvent(
        read_event(payload),
        body_hash(body),
        vouched.scheme,
        keys.ids[vouched.key_index],
        signature_hash(str(payload["signature"])),
    )
    return Authentic(new, vouched.key_index)


def write(engine: Engine, authentic: Sequence[Authentic]) -> list[Receipt]:
    """Make notifications durable, all in one statement; ``engine`` commits each statement by itself (one round trip).

    Raises SQLAlchemy's ``DBAPIError`` if the database cannot take them: then none is written, or all are and writing them again
    finds duplicates.
    """
    new = [one.new for one in authentic]
    stored = _once_more_if_the_connection_was_dead(lambda: _store(engine, new))
    return [_receipt(one, row) for one, row in zip(authentic, stored, strict=True)]


def set_down(spool: Spool, authentic: Sequence[Authentic], *, now: dt.datetime) -> list[Receipt]:
    """Make notifications durable on disk, to be drained; whoever drains them rings. Raises ``SpoolUnusable``; then none is."""
    spool.put([write_waiting(inbox.as_row(one.new), now) for one in authentic])
    metrics.SPOOLED.labels("written").inc(len(authentic))
    return [_receipt(one, Stored(one.new.event_id, one.new.status, fresh=True), to_ring=False) for one in authentic]


def is_about_one(error: Exception) -> bool:
    """Whether a failed write is about a row that PostgreSQL will not take, rather than about a PostgreSQL that takes none."""
    return isinstance(error, DataError | IntegrityError)


def _receipt(authentic: Authentic, stored: Stored, *, to_ring: bool = True) -> Receipt:
    key_index, scheme = authentic.key_index, authentic.new.scheme
    if stored.status == "ignored":
        return Receipt("ignored", stored.event_id, False, key_index, scheme)
    status: Literal["accepted", "duplicate"] = "accepted" if stored.fresh else "duplicate"
    return Receipt(status, stored.event_id, to_ring and stored.status == "pending", key_index, scheme)


def _store(engine: Engine, new: Sequence[NewEvent]) -> list[Stored]:
    with engine.connect() as connection:
        return inbox.store(connection, new)


def _once_more_if_the_connection_was_dead(store: Callable[[], list[Stored]]) -> list[Stored]:
    """A pooled connection may have died unnoticed (a restarted server). Writing twice is safe: the body's hash is unique."""
    try:
        return store()
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        return store()
