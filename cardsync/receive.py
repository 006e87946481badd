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
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from cardsync.core.events import body_hash, parse, read_event
from cardsync.core.signature import Scheme, verify
from cardsync.store import inbox
from cardsync.store.inbox import NewEvent, Stored
from cardsync.together import Together

KEY_ID_CHARACTERS: Final = 12  # of a keyed hash: tells an operator which key vouched, and nobody anything about the key
# Behind another's write, which its own time-outs end after five; Ottu gives up after fifteen.
WAIT_SECONDS: Final = 6.0


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


Write = Callable[[NewEvent], Stored]


def alone(engine: Engine) -> Write:
    """Write each notification by itself; ``engine`` commits each statement by itself."""
    return lambda new: _write_all(engine, [new])[0]


def together(engine: Engine) -> Write:
    """Write those that arrive during a commit with the next one; for a process that answers many at once."""
    writing: Together[NewEvent, Stored] = Together(
        lambda new: _write_all(engine, new), is_for_one=_is_for_one, wait_seconds=WAIT_SECONDS
    )
    return writing.write


def receive(engine: Engine, body: bytes, keys: WebhookKeys, *, write: Write | None = None) -> Receipt:
    """Verify ``body`` and make it durable, before this returns.

    Raises ``MalformedBody`` or ``InvalidSignature`` (nothing is written), or SQLAlchemy's ``SQLAlchemyError`` if the
    database cannot take it.
    """
    payload = parse(body)
    vouched = verify(payload, keys.keys)
    new = NewEvent(read_event(payload), body_hash(body), vouched.scheme, keys.ids[vouched.key_index])
    try:
        stored = (write or alone(engine))(new)
    except TimeoutError:
        raise PoolTimeout("the writes before this one took too long") from None
    if stored.status == "ignored":
        return Receipt("ignored", stored.event_id, False, vouched.key_index, vouched.scheme)
    status: Literal["accepted", "duplicate"] = "accepted" if stored.fresh else "duplicate"
    return Receipt(status, stored.event_id, stored.status == "pending", vouched.key_index, vouched.scheme)


def _write_all(engine: Engine, new: Sequence[NewEvent]) -> list[Stored]:
    return _once_more_if_the_connection_was_dead(lambda: _write_once(engine, new))


def _write_once(engine: Engine, new: Sequence[NewEvent]) -> list[Stored]:
    with engine.connect() as connection:
        return inbox.store(connection, new)


def _is_for_one(error: BaseException) -> bool:
    """Whether it is about a row that PostgreSQL will not take, rather than about a PostgreSQL that takes none."""
    return isinstance(error, DBAPIError) and not isinstance(error, OperationalError) and not error.connection_invalidated


def _once_more_if_the_connection_was_dead(write: Callable[[], list[Stored]]) -> list[Stored]:
    """A pooled connection may have died unnoticed (a restarted server). Writing twice is safe: the body's hash is unique."""
    try:
        return write()
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        return write()
