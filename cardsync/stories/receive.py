"""``receive``: a notification's bytes become one durable row, or leave no trace.

The order is the promise: parse once, verify, read what may be kept, write, and only then answer "success"
(``web.ingest.endpoint`` decides where to write). What the database cannot take is written to the spool, with the id that its
row will have, and ``drain`` makes the row later. What is not authentic is not written anywhere. Nothing here speaks to the
broker: the caller rings afterwards, off the payer's path.
"""

from __future__ import annotations

import datetime as dt
import hmac
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from sqlalchemy import Engine
from sqlalchemy.exc import DataError, IntegrityError

from cardsync import metrics
from cardsync.ciphers import KeyRing, sealed_body
from cardsync.core.cards import Environment
from cardsync.core.events import body_hash, event_id_text, parse, read_event
from cardsync.core.kept_batches import write_batch
from cardsync.core.kept_bodies import KeptBody
from cardsync.core.repeats import signature_hash
from cardsync.core.signature import Scheme, require_environment, signs_card, verify
from cardsync.core.spool_format import WaitingRow
from cardsync.core.webhook_keys import BoundKey
from cardsync.db import driver_cursor, once_more_if_the_connection_was_dead
from cardsync.errors import InvalidSignature, SpoolUnusable
from cardsync.spool import Spool
from cardsync.spool.ring import Ring
from cardsync.store import intake, new_bodies
from cardsync.store.deliveries import bodies
from cardsync.store.given_rows import as_parameter
from cardsync.store.intake import NewEvent, Stored

KEY_ID_CHARACTERS: Final = 12  # of a keyed hash: tells an operator which key vouched, and nothing about the key itself


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to a notification. ``to_ring``: there is work in the row that no bell was rung for yet.

    ``repeated``: its signature came in another body before. ``is_relaying``: bodies are kept to be passed on, as far as the
    database said with this answer; ``None`` if it was not asked.
    """

    status: Literal["accepted", "duplicate", "ignored"]
    event_id: uuid.UUID
    to_ring: bool
    key_index: int
    scheme: Scheme
    repeated: bool = False
    is_relaying: bool | None = None


@dataclass(frozen=True, slots=True)
class WebhookKeys:
    """The keys that may vouch for a notification, with a name for each that tells nothing of it, and the keys that encrypt it."""

    keys: tuple[str, ...]
    ids: tuple[str, ...]
    environments: tuple[Environment | None, ...]  # what each is bound to
    ring: KeyRing  # encrypts what they vouch for

    @classmethod
    def of(cls, keys: Sequence[str], ring: KeyRing) -> WebhookKeys:
        """Read the keys as the setting gives them, and name each by a hash under the deployment's own secret."""
        bound = [BoundKey.read(text) for text in keys]
        ids = (hmac.digest(ring.current.secret, f"webhook-key:{one.key}".encode(), "sha256").hex() for one in bound)
        return cls(
            keys=tuple(one.key for one in bound),
            ids=tuple(i[:KEY_ID_CHARACTERS] for i in ids),
            environments=tuple(one.environment for one in bound),
            ring=ring,
        )


@dataclass(frozen=True, slots=True)
class Came:
    """A notification's bytes and their type, as they came, and the keys to encrypt them with."""

    body: bytes = field(repr=False)
    content_type: str
    ring: KeyRing

    def kept(self, body_hash: bytes) -> KeptBody:
        """The whole body, encrypted."""
        return sealed_body(self.ring, event_id_text(body_hash), self.body, self.content_type)


@dataclass(frozen=True, slots=True)
class Authentic:
    """A notification that a key vouched for, and its row, ready to be written; ``key_index`` is that key's place.

    ``received_at`` is when its body was here, if the caller said so. A hint may wait a second for the database before it is
    written to the spool, and it arrived before that second, not after it. ``came`` is what is kept of it where an endpoint of the
    merchant's gets notifications.
    """

    new: NewEvent
    row: WaitingRow
    key_index: int
    scheme: Scheme
    received_at: dt.datetime | None = None
    came: Came | None = None


def examine(
    body: bytes,
    keys: WebhookKeys,
    *,
    received_at: dt.datetime | None = None,
    content_type: str = "",
    keep_body: bool = False,
    trace: str | None = None,
) -> Authentic:
    """Parse, verify and read a notification, without touching anything. Raises ``MalformedBody`` or ``InvalidSignature``.

    With ``keep_body`` its row holds the whole body too, encrypted; ``trace`` is the context that it keeps for later links.
    """
    payload = parse(body)
    vouched = verify(payload, keys.keys)
    event, bound_to = read_event(payload), keys.environments[vouched.key_index]
    try:
        require_environment(bound_to, event.environment)
    except InvalidSignature:
        metrics.SUSPICIOUS.labels("other_environment").inc()
        raise
    new = NewEvent(
        event,
        body_hash(body),
        vouched.scheme,
        keys.ids[vouched.key_index],
        signature_hash(str(payload["signature"])),
        vouched=bound_to is not None and event.environment == bound_to and signs_card(payload, vouched),
    )
    came = Came(body, content_type, keys.ring)
    kept = came.kept(new.body_hash) if keep_body else None
    row = intake.as_row(new, keys.ring, kept=kept, trace=trace)
    return Authentic(new, row, vouched.key_index, vouched.scheme, received_at, came)


def store(engine: Engine, authentic: Sequence[Authentic], kept: Ring | None = None) -> list[Receipt]:
    """Make notifications durable: new ones in one statement, known ones in one more. ``engine`` commits each by itself.

    Where a statement finds an endpoint that gets notifications, and a body was not sent along, it is kept by another one: so
    an endpoint that was added a moment ago misses nothing. What was stored is ``kept`` on this disk for a while, as the text that
    the database was given.

    Raises SQLAlchemy's ``DBAPIError`` if the database cannot take them: then none is written, or all are and writing them again
    finds duplicates.
    """
    rows = [one.row for one in authentic]
    given = as_parameter(rows)
    # Writing twice is safe: the body's hash is unique.
    stored = once_more_if_the_connection_was_dead(lambda: _insert(engine, rows, given))
    left = [
        replace(one.row, kept=one.came.kept(one.row.body_hash))
        for one, row in zip(authentic, stored, strict=True)
        if row.is_relaying and one.came is not None and one.row.kept is None
    ]
    if left:
        once_more_if_the_connection_was_dead(lambda: _keep(engine, left))
    if kept is not None and kept.is_on:
        arrived = authentic[0].received_at or dt.datetime.now(dt.UTC)
        kept.keep(write_batch(given, [row.kept for row in rows], received_at=arrived))
    return [_receipt(one, row) for one, row in zip(authentic, stored, strict=True)]


def write_to_spool(spool: Spool, authentic: Sequence[Authentic], *, now: dt.datetime) -> list[Receipt | SpoolUnusable]:
    """Make notifications durable on disk. The drain makes rows of them, and rings. Raises ``SpoolUnusable``; then none is.

    Each is written with the time of its arrival, or ``now`` where none is known. One whose signature waits already in many other
    bodies may get no place: it has an error for its receipt, and the others are durable.
    """
    rows = [replace(one.row, received_at=one.received_at or now) for one in authentic]
    without_place = spool.put_what_fits(rows)
    metrics.SPOOLED.labels("written").inc(sum(row.event_id not in without_place for row in rows))
    return [
        SpoolUnusable("the share of the spool for repeated signatures is full")
        if one.new.event_id in without_place
        else _receipt(one, Stored(one.new.event_id, one.new.status, fresh=True), spooled=True)
        for one in authentic
    ]


def is_about_one(error: Exception) -> bool:
    """Whether a failed write is about a row that PostgreSQL will not take, rather than about a PostgreSQL that takes none."""
    return isinstance(error, DataError | IntegrityError)


def _receipt(authentic: Authentic, stored: Stored, *, spooled: bool = False) -> Receipt:
    status: Literal["accepted", "duplicate", "ignored"] = "accepted" if stored.fresh else "duplicate"
    if stored.status == "ignored":
        status = "ignored"
    key_index, scheme = authentic.key_index, authentic.scheme
    relaying = None if spooled else stored.is_relaying
    return Receipt(status, stored.event_id, stored.to_ring, key_index, scheme, stored.repeated, relaying)


def _insert(engine: Engine, rows: Sequence[WaitingRow], given: str) -> list[Stored]:
    """Insert what is new by the short way, and ask about the rest."""
    with driver_cursor(engine) as cursor:
        new = new_bodies.store_new(cursor, rows, given)
    rest = [row for row in rows if row.body_hash not in new]
    if not rest:
        return [new[row.body_hash] for row in rows]
    with engine.connect() as connection:
        known = iter(intake.store_rows(connection, rest))
    return [new.get(row.body_hash) or next(known) for row in rows]


def _keep(engine: Engine, rows: Sequence[WaitingRow]) -> None:
    with engine.connect() as connection:
        bodies.keep(connection, rows)
