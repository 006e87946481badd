"""The inbox: authentic notifications, each durable before it is answered; a pending row is the job itself.

How a notification gets in stands in ``store.intake``. What a hint says of its card, the token first, stands encrypted in the
column ``token`` (``cardsync.ciphers``); ``facts`` has its agreements alone. A row of a release before that has both in the clear.
So SQL cannot compare tokens here: the open hints of one customer are read, decrypted, and compared by fingerprint.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal

from sqlalchemy import Connection, text

from cardsync import traces
from cardsync.ciphers import KeyRing, decrypt_hint, reencrypted
from cardsync.core.agreements import Terms, terms_from_json
from cardsync.core.believe import Order
from cardsync.core.cards import CardFacts, Environment, Token
from cardsync.core.outcomes import succeeded
from cardsync.core.signature import Source
from cardsync.errors import MalformedBody, Refused, UnknownSecretKey
from cardsync.store.customers import LAST_ERROR_MAX

Status = Literal["pending", "done", "ignored", "failed"]

MAX_ATTEMPTS: Final = 10  # over about half an hour; then an operator looks, and replays
OPEN_AT_ONCE: Final = 1_000  # open hints of one customer that are decrypted at once, the newest: milliseconds
SETTLE_AT_ONCE: Final = 100  # events in one transaction: short enough to hold no lock for long


# What a row gives up when its content is forgotten. The hashes stay: they still tell a late duplicate and a repeat, and nothing
# of a person. So do the kind, the times, the key, the scheme.
SHED: Final = """
    customer_id = NULL, session_id = NULL, reference_number = NULL, order_no = NULL, agreement_id = NULL, card_id = NULL,
    result = NULL, state = NULL, payment_type = NULL, token = NULL, facts = NULL, last_error = NULL, shed_at = clock_timestamp()
"""

_FACTS: Final = tuple(one.name for one in fields(CardFacts))


@dataclass(frozen=True, slots=True)
class NamedPayment:
    """The payment that a hint names. Under a signature that ``vouched``, the session is signed too."""

    session_id: str | None
    heard_at: dt.datetime
    signature_hash: bytes | None
    vouched: bool
    result: str | None


@dataclass(frozen=True, slots=True)
class PendingHint:
    """A claimed event: what its card hint says, and its place in the order of evidence."""

    event_id: uuid.UUID
    evidence_no: int
    received_at: dt.datetime
    environment: Environment
    customer_id: str
    token: Token
    facts: CardFacts
    attempts: int
    scheme: Source
    vouched: bool
    result: str | None
    agreement_id: str | None
    session_id: str | None
    signature_hash: bytes | None
    as_of: dt.datetime | None
    terms: Terms = Terms()  # noqa: RUF009  (frozen, of its agreement)
    state: str | None = None
    trace: str | None = None  # the context of the span in which it arrived

    @property
    def order(self) -> Order:
        """Its place among hints, where they are believed."""
        return Order(self.as_of or self.received_at, self.evidence_no)

    @property
    def succeeded(self) -> bool | None:
        """Whether its payment succeeded; ``None`` if it does not say so in known words."""
        return succeeded(self.result, self.state)

    @property
    def payment(self) -> NamedPayment:
        """The payment that it names."""
        return NamedPayment(self.session_id, self.received_at, self.signature_hash, self.vouched, self.result)


@dataclass(frozen=True, slots=True)
class TakenHint:
    """A hint that was settled by the removal of its card; ``repeated`` if its signature was seen before."""

    card_id: uuid.UUID
    evidence_no: int
    received_at: dt.datetime
    repeated: bool


_WHOSE = text("""
    SELECT DISTINCT environment, customer_id COLLATE "C" AS customer_id FROM cardsync.events
    WHERE event_id = ANY(:ids) AND status = :status AND customer_id IS NOT NULL
    ORDER BY environment, customer_id COLLATE "C"
""")


def whose(
    connection: Connection, event_ids: Sequence[uuid.UUID], *, status: Status = "pending"
) -> list[tuple[Environment, str]]:
    """The customers of those of the events, in the order in which customers are locked everywhere (by code point)."""
    rows = connection.execute(_WHOSE, {"ids": list(event_ids)[:SETTLE_AT_ONCE], "status": status})
    return [(row.environment, row.customer_id) for row in rows]


CLAIMED: Final = (
    "event_id",
    "evidence_no",
    "received_at",
    "environment",
    "customer_id",
    "token",
    "facts",
    "attempts",
    "scheme",
    "vouched",
    "result",
    "agreement_id",
    "session_id",
    "signature_hash",
    "as_of",
    "state",
)
_CLAIM = text(f"""
    SELECT {", ".join(CLAIMED)} FROM cardsync.events
    WHERE event_id = ANY(:ids) AND status = 'pending'
    ORDER BY environment, customer_id COLLATE "C", evidence_no
    FOR UPDATE SKIP LOCKED
""")


def claim(connection: Connection, event_ids: Sequence[uuid.UUID], ring: KeyRing) -> list[PendingHint]:
    """Lock those of the events that are pending and not locked elsewhere; their customers are locked (``whose``) before.

    Raises ``UnknownSecretKey`` if one was encrypted with a key that ``ring`` lacks, ``Refused`` or ``ValueError`` if one cannot
    be read.
    """
    rows = connection.execute(_CLAIM, {"ids": list(event_ids)[:SETTLE_AT_ONCE]})
    return [pending(row, ring) for row in rows]


def pending(row: Any, ring: KeyRing) -> PendingHint:
    """Read a row with the columns ``CLAIMED``. Raises as ``claim``."""
    token, facts = _read(row, ring)
    return PendingHint(
        event_id=row.event_id,
        evidence_no=row.evidence_no,
        received_at=row.received_at,
        environment=row.environment,
        customer_id=row.customer_id,
        token=token,
        facts=facts,
        attempts=row.attempts,
        scheme=row.scheme,
        vouched=row.vouched,
        result=row.result,
        agreement_id=row.agreement_id,
        session_id=row.session_id,
        signature_hash=row.signature_hash,
        as_of=row.as_of,
        terms=terms_from_json((row.facts or {}).get("agreement")),
        state=row.state,
        trace=traces.readable((row.facts or {}).get("trace")),
    )


def _read(row: Any, ring: KeyRing) -> tuple[Token, CardFacts]:
    if row.token is None:
        raise MalformedBody("a hint without a token")
    return decrypt_hint(ring, (row.environment, row.customer_id), row.token, facts_from_json(row.facts))


def facts_from_json(stored: dict[str, Any]) -> CardFacts:
    """Rebuild facts from the inbox's JSON; what another version of this program wrote beside them is passed over."""
    known = {name: value for name, value in stored.items() if name in _FACTS}
    agreements = known.get("agreements")
    return CardFacts(**{**known, "agreements": None if agreements is None else tuple(agreements)})


_SETTLE = text("""
    UPDATE cardsync.events
    SET status = 'done', settled_at = clock_timestamp(), token = NULL, facts = NULL, card_id = :card_id, last_error = NULL
    WHERE event_id = :event_id AND status = 'pending'
""")


def settle(connection: Connection, event_id: uuid.UUID, card_id: uuid.UUID | None) -> bool:
    """Mark a pending event as done and erase its hint; false if it was not pending any more."""
    return connection.execute(_SETTLE, {"event_id": event_id, "card_id": card_id}).rowcount == 1


_OPEN = text("""
    SELECT event_id, environment, customer_id, token, facts FROM cardsync.events
    WHERE environment = :environment AND customer_id = :customer_id AND status IN ('pending', 'failed') AND token IS NOT NULL
    ORDER BY evidence_no DESC LIMIT :limit
""")


@dataclass(frozen=True, slots=True)
class OpenHint:
    """An open hint: the fingerprint of the card that it names, and what its row holds, so that a change of it is noticed."""

    event_id: uuid.UUID
    fingerprint: bytes
    stored: str = field(repr=False)


def open_hints(
    connection: Connection, environment: Environment, customer_id: str, *, fingerprint_key: bytes, ring: KeyRing
) -> list[OpenHint]:
    """The newest open hints of a customer, at most ``OPEN_AT_ONCE``. One that cannot be read is left out."""
    parameters = {"environment": environment, "customer_id": customer_id, "limit": OPEN_AT_ONCE}
    found = []
    for row in connection.execute(_OPEN, parameters):
        try:
            token, _ = _read(row, ring)
        except (Refused, UnknownSecretKey, ValueError):
            continue  # ``process`` meets it too, and puts it off
        found.append(OpenHint(row.event_id, token.fingerprint(fingerprint_key, environment), row.token))
    return found


_TAKE_HINTS = text("""
    UPDATE cardsync.events AS e
    SET status = 'done', settled_at = clock_timestamp(), token = NULL, facts = NULL, card_id = named.card_id, last_error = NULL
    FROM unnest(cast(:event_ids AS uuid[]), cast(:card_ids AS uuid[]), cast(:stored AS text[]))
        AS named (event_id, card_id, stored)
    WHERE e.event_id = named.event_id AND e.token = named.stored AND e.status IN ('pending', 'failed')
    RETURNING named.card_id, e.evidence_no, e.received_at, e.repeated
""")


def take_hints(connection: Connection, opened: Sequence[OpenHint], cards: Mapping[bytes, uuid.UUID]) -> list[TakenHint]:
    """Settle those of the open hints that name one of these cards, by fingerprint, of a customer who is locked.

    Called before a card is removed: such a hint is evidence of the card, and it holds the card's token. A hint whose row was
    changed since it was read is left open.
    """
    named = [hint for hint in opened if hint.fingerprint in cards]
    if not named:
        return []
    parameters = {
        "event_ids": [hint.event_id for hint in named],
        "card_ids": [cards[hint.fingerprint] for hint in named],
        "stored": [hint.stored for hint in named],
    }
    return [TakenHint(*row) for row in connection.execute(_TAKE_HINTS, parameters)]


_POSTPONE = text("""
    UPDATE cardsync.events
    SET attempts = attempts + :counted, last_error = :error,
        due_at = clock_timestamp()
            + make_interval(secs => CASE WHEN attempts + :counted >= :max_attempts THEN 0 ELSE :wait_seconds END),
        status = CASE WHEN attempts + :counted >= :max_attempts THEN 'failed' ELSE 'pending' END
    WHERE event_id = :event_id AND status = 'pending'
    RETURNING status
""")


_ATTEMPTS = text("SELECT attempts FROM cardsync.events WHERE event_id = :event_id")


def attempts(connection: Connection, event_id: uuid.UUID) -> int:
    """How often settling the event has failed."""
    return connection.execute(_ATTEMPTS, {"event_id": event_id}).scalar_one_or_none() or 0


_AGE = text(
    "SELECT extract(epoch FROM clock_timestamp() - received_at)::float FROM cardsync.events WHERE event_id = :event_id"
)


def age_seconds(connection: Connection, event_id: uuid.UUID) -> float:
    """How long ago the event was received, by the database's clock; 0 if it is not there."""
    return connection.execute(_AGE, {"event_id": event_id}).scalar_one_or_none() or 0.0


def postpone(
    connection: Connection, event_id: uuid.UUID, *, error: str, wait_seconds: float, counted: bool
) -> Status | None:
    """Put a pending event off; the last counted attempt makes it ``failed``. ``None`` if it was not pending any more.

    ``due_at`` of a failed event is the moment at which it failed: it waits for nothing, and a bulk replay asks for that moment.
    """
    parameters = {
        "event_id": event_id,
        "error": error[:LAST_ERROR_MAX],  # an index holds it
        "wait_seconds": wait_seconds,
        "counted": int(counted),
        "max_attempts": MAX_ATTEMPTS,
    }
    status: Status | None = connection.execute(_POSTPONE, parameters).scalar_one_or_none()
    return status


_PAYMENT = text("""
    SELECT session_id, received_at, signature_hash, vouched, result FROM cardsync.events WHERE event_id = :event_id
""")


def payment_of(connection: Connection, event_id: uuid.UUID) -> NamedPayment | None:
    """The payment that an event names; ``None`` if there is no such event."""
    row = connection.execute(_PAYMENT, {"event_id": event_id}).one_or_none()
    return None if row is None else NamedPayment(*row)


_COLUMNS = """
    event_id, evidence_no, received_at, status, kind, ignored_because, environment, customer_id, session_id,
    reference_number, result, state, payment_type, agreement_id, scheme, key_id, card_id, attempts, due_at, settled_at,
    last_error, shed_at, vouched, as_of
"""
_LIST = text(f"""
    SELECT {_COLUMNS} FROM cardsync.events
    WHERE (cast(:status AS text) IS NULL OR status = :status)
      AND (cast(:customer_id AS text) IS NULL OR environment = :environment AND customer_id = :customer_id)
      AND (cast(:session_id AS text) IS NULL OR session_id = :session_id)
      AND (cast(:card_id AS uuid) IS NULL OR card_id = :card_id)
      AND (cast(:since AS timestamptz) IS NULL OR received_at >= :since)
    ORDER BY received_at DESC LIMIT :limit
""")
_SHOW = text(f"SELECT {_COLUMNS} FROM cardsync.events WHERE event_id = :event_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which events an operator wants to see; ``None`` is no condition. A card's are found with its customer."""

    status: Status | None = None
    customer: tuple[Environment, str] | None = None
    session_id: str | None = None
    card_id: uuid.UUID | None = None
    since: dt.datetime | None = None


def listing(connection: Connection, wanted: Wanted, *, limit: int) -> list[dict[str, Any]]:
    """The newest events, for an operator: everything but hints' content."""
    environment, customer_id = wanted.customer or (None, None)
    parameters = {
        "status": wanted.status,
        "environment": environment,
        "customer_id": customer_id,
        "session_id": wanted.session_id,
        "card_id": wanted.card_id,
        "since": wanted.since,
        "limit": limit,
    }
    return [dict(r) for r in connection.execute(_LIST, parameters).mappings()]


def show(connection: Connection, event_id: uuid.UUID) -> dict[str, Any] | None:
    """One event, for an operator."""
    row = connection.execute(_SHOW, {"event_id": event_id}).mappings().one_or_none()
    return None if row is None else dict(row)


_REPLAY = text("""
    UPDATE cardsync.events SET status = 'pending', attempts = 0, due_at = clock_timestamp(), last_error = NULL
    WHERE event_id = :event_id AND status IN ('failed', 'pending')
""")


def replay(connection: Connection, event_id: uuid.UUID) -> bool:
    """Open a failed (or postponed) event again; false if it is settled, or no event."""
    return connection.execute(_REPLAY, {"event_id": event_id}).rowcount == 1


_OF_OTHER_KEYS = text("""
    SELECT event_id, environment, customer_id, token, facts FROM cardsync.events
    WHERE status IN ('pending', 'failed') AND token IS NOT NULL AND NOT starts_with(token, :prefix)
      AND event_id > :after
    ORDER BY event_id LIMIT :limit
""")
_COUNT_OF_OTHER_KEYS = text("""
    SELECT count(*) FROM cardsync.events
    WHERE status IN ('pending', 'failed') AND token IS NOT NULL AND NOT starts_with(token, :prefix)
""")
_REENCRYPT = text("""
    UPDATE cardsync.events AS e SET token = new.token, facts = new.facts
    FROM unnest(cast(:event_ids AS uuid[]), cast(:before AS text[]), cast(:tokens AS text[]), cast(:facts AS jsonb[]))
        AS new (event_id, before, token, facts)
    WHERE e.event_id = new.event_id AND e.token = new.before AND e.status IN ('pending', 'failed')
""")


@dataclass(frozen=True, slots=True)
class Reencrypted:
    """One batch: how many rows were written, how many no key could read, and where the next batch begins (``None``: done)."""

    written: int
    unreadable: int
    next_after: uuid.UUID | None


def reencrypt(connection: Connection, ring: KeyRing, *, after: uuid.UUID, limit: int) -> Reencrypted:
    """Encrypt a batch of open hints with the ring's current key: those of other keys, and those in the clear.

    A row that another process changes meanwhile is left as that process wrote it.
    """
    rows = connection.execute(_OF_OTHER_KEYS, {"prefix": ring.prefix, "after": after, "limit": limit}).all()
    written: list[tuple[uuid.UUID, str, str, str]] = []
    unreadable = 0
    for row in rows:
        clear = facts_from_json(row.facts)
        try:
            hint = reencrypted(ring, (row.environment, row.customer_id), row.token, clear)
        except (Refused, UnknownSecretKey, ValueError):
            unreadable += 1
            continue
        if hint is not None:
            written.append((row.event_id, row.token, hint.text, json.dumps({"agreements": clear.agreements})))
    changed = 0
    if written:
        names = ("event_ids", "before", "tokens", "facts")
        parameters = {name: list(values) for name, values in zip(names, zip(*written, strict=True), strict=True)}
        changed = connection.execute(_REENCRYPT, parameters).rowcount
    return Reencrypted(changed, unreadable, rows[-1].event_id if len(rows) == limit else None)


def count_of_other_keys(connection: Connection, ring: KeyRing) -> int:
    """How many open hints are not encrypted with the ring's current key."""
    found: int = connection.execute(_COUNT_OF_OTHER_KEYS, {"prefix": ring.prefix}).scalar_one()
    return found
