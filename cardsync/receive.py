"""``receive``: a notification's bytes become one durable row, or leave no trace.

The order is the promise: parse once, verify, read what may be kept, write, and only then is the answer "success". What is not
authentic is not written anywhere. The broker is not spoken to here: whoever calls this rings afterwards, off the payer's path.
"""

from __future__ import annotations

import hmac
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from cardsync.core.events import Event, body_hash, parse, read_event
from cardsync.core.signature import Scheme, verify
from cardsync.store import inbox

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


def receive(engine: Engine, body: bytes, keys: WebhookKeys) -> Receipt:
    """Verify ``body`` and make it durable; ``engine`` commits each statement by itself (one round trip).

    Raises ``MalformedBody`` or ``InvalidSignature`` (nothing is written), or SQLAlchemy's ``DBAPIError`` if the database
    cannot take it.
    """
    payload = parse(body)
    vouched = verify(payload, keys.keys)
    event = read_event(payload)
    digest = body_hash(body)
    stored = _once_more_if_the_connection_was_dead(
        lambda: _write(engine, event, digest, vouched.scheme, keys.ids[vouched.key_index])
    )
    if stored.status == "ignored":
        return Receipt("ignored", stored.event_id, False, vouched.key_index, vouched.scheme)
    status: Literal["accepted", "duplicate"] = "accepted" if stored.fresh else "duplicate"
    return Receipt(status, stored.event_id, stored.status == "pending", vouched.key_index, vouched.scheme)


def _write(engine: Engine, event: Event, digest: bytes, scheme: Scheme, key_id: str) -> inbox.Stored:
    with engine.connect() as connection:
        return inbox.store(connection, event, body_hash=digest, scheme=scheme, key_id=key_id)


def _once_more_if_the_connection_was_dead(write: Callable[[], inbox.Stored]) -> inbox.Stored:
    """A pooled connection may have died unnoticed (a restarted server). Writing twice is safe: the body's hash is unique."""
    try:
        return write()
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        return write()
