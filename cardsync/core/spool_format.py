"""The row of a notification as a typed value, and the same row as it is written to the spool.

A ``WaitingRow`` is all that may be kept of a notification. The database's insert takes it as JSON (``as_json``). The spool keeps
it as one *record*: a line with a checksum, so that a torn or damaged record is noticed, and costs no other record.

::

    <CRC-32 of the JSON, eight hex digits> <JSON in UTF-8, without line breaks>\\n

Rules for the JSON: it says its version. A field that this release does not know is passed over, so that a newer release may add
fields without a new version. A field of a wrong type is refused. The version changes when the meaning of a field changes; a
release reads every version up to its own. Words that the database constrains (status, kind, scheme, ...) are read as texts: in an
upgrade the database knows the newer words first, and it decides.

A record has at most ``ROW_BYTES``: Ottu's payload may name a hundred agreements of 512 bytes, and the spool's disk is bounded.
The body that is kept to be passed on comes beside that, whole.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

from cardsync.core.agreements import Terms, terms_from_json
from cardsync.core.cards import CardFacts, Token
from cardsync.core.events import event_id
from cardsync.core.fields import is_storable
from cardsync.core.hints import EncryptedHint, stored_hint
from cardsync.core.kept_bodies import KeptBody
from cardsync.errors import MalformedBody, UnusableCard

# 1 was one file for each notification, its row in a field of its own and without a checksum. 2 had the token and all facts in the
# clear; in 3 they are one encrypted text, with only the agreements beside it (``core.hints``).
VERSION: Final = 3
ROW_BYTES: Final = 8_192  # of one record; Ottu's own notifications make records of about 1 kB
_CHECKSUM_CHARACTERS: Final = 8

_TEXTS: Final = (
    "ignored_because",
    "environment",
    "customer_id",
    "session_id",
    "reference_number",
    "order_no",
    "result",
    "state",
    "payment_type",
    "agreement_id",
)
_FACT_FLAGS: Final = ("is_expired", "is_preferred", "cvv_required")
_FACT_TEXTS: Final = (
    "pg_code",
    "pg_name",
    "brand",
    "number",
    "expiry_month",
    "expiry_year",
    "name_on_card",
)
_FACTS: Final = (*_FACT_TEXTS, *_FACT_FLAGS, "agreements")
# Each gets all values in one call; asking for them by name one after the other takes three times as long.
_texts_of: Final[Callable[[WaitingRow], tuple[str | None, ...]]] = attrgetter(*_TEXTS)
_facts_of: Final[Callable[[CardFacts], tuple[object, ...]]] = attrgetter(*_FACTS)
# What a record that is still too long gives up: it does not say whose card it is, or which. A hint is short already.
_GIVEN_UP: Final = ("trace", "terms", "order_no", "reference_number", "session_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingRow:
    """A notification on its way into the inbox. ``received_at`` is ``None`` for one that the database's clock may date.

    ``token`` is in the clear until ``cardsync.ciphers`` has encrypted it, with the facts; a row is only written after that.

    ``signature_hash`` is there for every notification of this release; records of version 1 have it for card hints alone.
    ``vouched`` and ``as_of`` are explained in ``store.intake.NewEvent``; a record without them was written by an older release.
    ``kept`` is the whole body, encrypted, where an endpoint of the merchant's gets notifications; it has a table of its own.
    ``trace`` is the context of the span in which it arrived (a W3C ``traceparent``), where traces are on.
    """

    body_hash: bytes
    status: str
    kind: str
    scheme: str
    key_id: str
    received_at: dt.datetime | None = None
    signature_hash: bytes | None = None
    ignored_because: str | None = None
    environment: str | None = None
    customer_id: str | None = None
    session_id: str | None = None
    reference_number: str | None = None
    order_no: str | None = None
    result: str | None = None
    state: str | None = None
    payment_type: str | None = None
    agreement_id: str | None = None
    token: Token | EncryptedHint | None = None
    facts: CardFacts | None = None
    terms: Terms | None = None  # of its agreement; beside the facts, where a release before this one passes them over
    trace: str | None = None  # beside the facts too
    vouched: bool = False
    as_of: dt.datetime | None = None
    kept: KeptBody | None = None

    @property
    def event_id(self) -> uuid.UUID:
        """The id that the row gets, unless the database knows the body by another one already."""
        return event_id(self.body_hash)


def as_json(row: WaitingRow) -> dict[str, object]:
    """The row in JSON's types, bytes as hex. For the database and the spool, never for a log.

    Raises ``ValueError`` for a token in the clear: this is the one way into both.
    """
    if isinstance(row.token, Token):
        raise ValueError("a token is stored encrypted, or not at all")
    return {
        "body_hash": row.body_hash.hex(),
        "received_at": None if row.received_at is None else row.received_at.isoformat(),
        "status": row.status,
        "kind": row.kind,
        "scheme": row.scheme,
        "key_id": row.key_id,
        "signature_hash": None if row.signature_hash is None else row.signature_hash.hex(),
        **dict(zip(_TEXTS, _texts_of(row), strict=True)),
        "token": None if row.token is None else row.token.text,
        "facts": None if row.facts is None else _facts_as_json(row.facts) | _beside_facts(row),
        "vouched": row.vouched,
        "as_of": None if row.as_of is None else row.as_of.isoformat(),
    }


def write_record(row: WaitingRow) -> bytes:
    """One line of a segment: at most ``ROW_BYTES`` and the kept body, shortened where the row has more.

    Raises ``ValueError`` for a row without a time: when it arrived cannot be told later.
    """
    if row.received_at is None:
        raise ValueError("a row that waits must say when it arrived")
    row, kept = dataclasses.replace(row, kept=None), row.kept
    record = _record(row)
    if len(record) > ROW_BYTES:
        row = _shortened(row)
        record = _record(row)
    return record if kept is None else _record(dataclasses.replace(row, kept=kept))


def read_record(line: bytes) -> WaitingRow:
    """The row of one line, with or without its line break. Raises ``MalformedBody`` if it is damaged or not a row."""
    content = checked(line)
    if content is None:
        raise MalformedBody("the checksum is not that of the record")
    return read_row(content)


def checked(line: bytes) -> bytes | None:
    """The JSON of a line whose checksum is right, else ``None``."""
    checksum, content = line[:_CHECKSUM_CHARACTERS], line.rstrip(b"\n")[_CHECKSUM_CHARACTERS + 1 :]
    return content if checksum == _checksum(content) else None


def read_row(content: bytes) -> WaitingRow:
    """Read a row's JSON, of this version or an older one. Raises ``MalformedBody`` for anything else."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        raise MalformedBody("not a notification that waits") from None
    return row_of(found)


def row_of(found: object) -> WaitingRow:
    """The row of what JSON said. Raises as ``read_row``."""
    try:
        if not isinstance(found, dict) or found.get("version") not in range(1, VERSION + 1):
            raise MalformedBody("written by a version that this release cannot read")
        fields = _fields_of_version_1(found) if found["version"] == 1 else found
        return _row(fields)
    except UnusableCard:
        raise MalformedBody("the card of the row is not one to keep") from None
    except (ValueError, LookupError, TypeError, RecursionError):
        raise MalformedBody("not a notification that waits") from None


def with_checksum(content: bytes) -> bytes:
    """One line of JSON, which holds no line break itself."""
    return _checksum(content) + b" " + content + b"\n"


def named_customer(content: bytes) -> str | None:
    """The customer that a record names, however little else of it can be read; ``None`` if that cannot be told."""
    try:
        found = json.loads(content if content.startswith(b"{") else content[_CHECKSUM_CHARACTERS + 1 :])
        customer_id = found.get("row", found).get("customer_id")
    except (ValueError, AttributeError, RecursionError):
        return None
    return customer_id if isinstance(customer_id, str) else None


def _record(row: WaitingRow) -> bytes:
    fields = {"version": VERSION, **as_json(row)}
    if row.kept is not None:
        fields["kept"] = {"content_type": row.kept.content_type, "body": row.kept.body}
    # JSON escapes line breaks, so that a record is one line. Every text was checked to be storable, so it can be encoded.
    content = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    return with_checksum(content)


def _checksum(content: bytes) -> bytes:
    return f"{zlib.crc32(content):08x}".encode()


def _shortened(row: WaitingRow) -> WaitingRow:
    """The row without what makes it too long: agreements first, since the next list of Ottu's names them all."""
    if row.facts is not None:
        facts = row.facts
        without = dataclasses.replace(row, facts=dataclasses.replace(facts, agreements=()))
        room = ROW_BYTES - len(_record(without))
        kept = _that_fit(_own_first(facts.agreements or (), row.agreement_id), room)
        row = dataclasses.replace(row, facts=dataclasses.replace(facts, agreements=kept))
    for name in _GIVEN_UP:
        if len(_record(row)) > ROW_BYTES:
            row = _without(row, name)
    return row


def _without(row: WaitingRow, name: str) -> WaitingRow:
    nothing: dict[str, Any] = {name: None}
    return dataclasses.replace(row, **nothing)


def _own_first(agreements: Sequence[str], own: str | None) -> Sequence[str]:
    """The agreement that the payment was for comes first: it is the one that the hint is about."""
    return sorted(agreements, key=lambda one: one != own)


def _that_fit(agreements: Sequence[str], room: int) -> tuple[str, ...]:
    kept: list[str] = []
    for agreement in agreements:
        room -= len(json.dumps(agreement, ensure_ascii=False).encode()) + 1  # and its comma
        if room < 0:
            break
        kept.append(agreement)
    return tuple(kept)


def _facts_as_json(facts: CardFacts) -> dict[str, object]:
    return dict(zip(_FACTS, _facts_of(facts), strict=True))


def _beside_facts(row: WaitingRow) -> dict[str, object]:
    said = {} if row.terms is None else row.terms.as_json()
    agreement: dict[str, object] = {"agreement": said} if said else {}
    return agreement if row.trace is None else {**agreement, "trace": row.trace}


def _fields_of_version_1(found: Mapping[str, object]) -> Mapping[str, object]:
    """The row with its time in it; its id must be that of its hash."""
    row = found["row"]
    if not isinstance(row, dict):
        raise TypeError
    if row["event_id"] != str(event_id(_hash(row["body_hash"]))):
        raise MalformedBody("the id is not that of the hash")
    return {**row, "received_at": found["received_at"]}


def _row(fields: Mapping[str, object]) -> WaitingRow:
    received_at = dt.datetime.fromisoformat(_word(fields["received_at"]))
    if received_at.tzinfo is None:
        raise ValueError
    token = _text(fields.get("token"))
    facts = fields.get("facts")
    signature_hash = fields.get("signature_hash")
    texts: dict[str, Any] = {name: _text(fields.get(name)) for name in _TEXTS}
    return WaitingRow(
        body_hash=_hash(fields["body_hash"]),
        received_at=received_at,
        status=_word(fields["status"]),
        kind=_word(fields["kind"]),
        scheme=_word(fields["scheme"]),
        key_id=_word(fields["key_id"]),
        signature_hash=None if signature_hash is None else _hash(signature_hash),
        **texts,
        token=None if token is None else stored_hint(token),
        facts=None if facts is None else _facts(facts),
        terms=_terms(facts),
        trace=_trace(facts),
        vouched=_flag(fields.get("vouched")) or False,
        kept=_kept(fields.get("kept")),
    )


def _kept(found: object) -> KeptBody | None:
    if found is None:
        return None
    if not isinstance(found, dict):
        raise TypeError
    return KeptBody(_text(found.get("content_type")), _word(found["body"]))


def _facts(found: object) -> CardFacts:
    if not isinstance(found, dict):
        raise TypeError
    agreements = found.get("agreements")
    said: dict[str, Any] = {name: _text(found.get(name)) for name in _FACT_TEXTS}
    said |= {name: _flag(found.get(name)) for name in _FACT_FLAGS}
    said["agreements"] = None if agreements is None else tuple(_word(one) for one in _list(agreements))
    return CardFacts(**said)


def _terms(found: object) -> Terms | None:
    said = found.get("agreement") if isinstance(found, dict) else None
    return None if said is None else terms_from_json(said)


def _trace(found: object) -> str | None:
    return _text(found.get("trace")) if isinstance(found, dict) else None


def _word(value: object) -> str:
    """A text that PostgreSQL can hold; what a file says in escapes may be none."""
    if not isinstance(value, str):
        raise TypeError
    if not is_storable(value):
        raise ValueError
    return value


def _text(value: object) -> str | None:
    return None if value is None else _word(value)


def _flag(value: object) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise TypeError
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _hash(value: object) -> bytes:
    found = bytes.fromhex(_word(value))
    if len(found) != 32:
        raise ValueError
    return found
