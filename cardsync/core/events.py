"""From a body's bytes to an ``Event``: the part of a notification of Ottu's that later work needs, and nothing else.

Rules: a body is parsed once, and what was verified is what is read. ``parse`` refuses, ``read_event`` never
does: Ottu sends a notification once, so an odd field costs that field, at worst the event's interest, never
an exception. Nothing is kept of ``gateway_response``, ``pg_params``, e-mail, phone, address or names other
than ``name_on_card``: an ``Event`` has no place for them. An event that is of no interest holds no card
either.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final, Literal

import orjson

from cardsync.core.agreements import Terms, read_terms
from cardsync.core.cards import (
    AGREEMENT_ID_MAX,
    CardFacts,
    Environment,
    ListedCard,
    is_customer_id,
    read_card,
)
from cardsync.core.fields import is_storable, read_flag
from cardsync.core.signature import STANDARD_FIELDS
from cardsync.errors import MalformedBody, UnusableCard

Kind = Literal["payment", "operation", "unknown"]
IgnoredBecause = Literal[
    "unknown kind", "operation event", "no card", "unusable token", "unusable customer id", "no environment"
]

SESSION_ID_MAX: Final = 128  # characters; Ottu's OpenAPI description, schema SchemaWebhook
ORDER_NO_MAX: Final = 128  # the same place
REFERENCE_NUMBER_MAX: Final = 128  # not bounded there
WORD_MAX: Final = 32  # result, state and payment_type are single words of at most ten letters
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
NESTING_MAX: Final = 64  # levels; Ottu's own payloads have about five, raw gateway data a few more

# Where a value is signed or read: at the top level, and in the objects there.
_READ: Final[tuple[tuple[str | None, tuple[str, ...]], ...]] = (
    (None, (*STANDARD_FIELDS, "payment_type", "session_id", "operation", "customer_id", "is_sandbox", "signature")),
    ("token", ("token", "customer_id", "pg", *(f.name for f in fields(CardFacts) if f.name != "agreements"))),
    ("token", ("agreements",)),  # a list, mostly; apart, so that the others are passed over together
    ("agreement", ("id",)),
    ("extra", ("merchant_id", "autopay")),
)
_NUMBERS: Final = (int, float)  # exact types: a boolean is none
_MAY_HOLD_A_NUMBER: Final = frozenset((int, float, list, dict))

# The digit of a UUID that holds its variant: the first two bits are 10, the others those of the hash.
_VARIANT: Final = {f"{digit:x}": f"{0b1000 | digit & 0b11:x}" for digit in range(16)}

# One of these says that a payment is spoken of. Without any, the payload is of a kind that we do not know.
_SIGNS_OF_A_PAYMENT: Final = ("result", "state", "session_id", "token")


class NumberLiteral(str):
    """A JSON number as the text that was sent, which is what the signature covers: ``86.000`` stays
    ``86.000``.

    It prints bare inside a container, as a number does, because ottu-py signs an object by Python's text of
    it. Never converted, so a number of a million digits costs nothing.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True, slots=True)
class _NoNumber:
    """``NaN`` or ``Infinity``: a value that no field of ours takes, and that no signed message contains as Ottu wrote it."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A notification, as far as it is kept; ``None`` means not said, or not sayable within the bounds.

    ``ignored_because`` is ``None`` for the one kind of interest: a payment event that names the card of a
    customer. It is otherwise one of a few fixed phrases, fit for a metric's label. Under the standard scheme
    only ``reference_number``, ``result`` and ``state`` are signed: all the rest is a hint.
    """

    kind: Kind
    ignored_because: IgnoredBecause | None
    environment: Environment | None = None
    customer_id: str | None = None
    card: ListedCard | None = None
    session_id: str | None = None
    reference_number: str | None = None
    order_no: str | None = None  # the merchant's own
    result: str | None = None
    state: str | None = None
    payment_type: str | None = None
    agreement_id: str | None = None
    terms: Terms | None = None  # what is said of the agreement; no scheme signs it


def parse(body: bytes) -> dict[str, object]:
    """Return the JSON object in ``body``; raise ``MalformedBody`` if it is none.

    A number where something is signed or read (``_READ``) is a ``NumberLiteral``.

    UTF-8, at most ``NESTING_MAX`` levels. Of a name given twice the last counts, for the signature as for the reading. Three
    things that are no JSON are read all the same, since the signature vouches for the body and Ottu never sends it again: a
    byte order mark before it, ``NaN`` or ``Infinity`` in data of a gateway (a value that nothing of ours reads), and control
    characters in texts that are not written as escapes (the signature is judged as if they were).
    """
    fast = _parse_fast(body)
    if fast is not None:
        return fast
    payload = _parse_exactly(body)
    if not isinstance(payload, dict):
        raise MalformedBody("the body is JSON, but not an object")
    _require_few_levels(body, payload)
    return payload


def _parse_fast(body: bytes) -> dict[str, object] | None:
    """Parse with orjson, four times as fast; ``None`` where that could read anything else than ``_parse_exactly`` does.

    orjson takes a part of what Python's parser takes, and reads it alike, but for numbers: their text is lost. So a body that has
    a number there (``_READ``) is parsed again.
    """
    try:
        payload: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(payload, dict):
        return None
    _require_few_levels(body, payload)  # before anything walks down it
    for place, names in _READ:
        holder = payload if place is None else payload.get(place)
        if not isinstance(holder, dict):
            continue
        if _MAY_HOLD_A_NUMBER.isdisjoint(map(type, map(holder.get, names))):
            continue
        for value in map(holder.get, names):
            if type(value) in _MAY_HOLD_A_NUMBER and _is_or_holds_a_number(value):
                return None
    return payload


def _is_or_holds_a_number(value: object) -> bool:
    """Whether it is a number, or one stands in it at any level."""
    if isinstance(value, list | dict):
        return any(map(_is_or_holds_a_number, value.values() if isinstance(value, dict) else value))
    return type(value) in _NUMBERS


def _parse_exactly(body: bytes) -> object:
    if b"\0" in body:  # no text has one; it is a body in another encoding, or damaged
        raise MalformedBody("the body is not one JSON object in UTF-8")
    try:
        return json.loads(
            body.removeprefix(BYTE_ORDER_MARK).decode("utf-8"),
            strict=False,
            parse_int=NumberLiteral,
            parse_float=NumberLiteral,
            parse_constant=_NoNumber,
        )
    except (ValueError, RecursionError):
        raise MalformedBody("the body is not one JSON object in UTF-8") from None


def body_hash(body: bytes) -> bytes:
    """Return the 32 bytes (SHA-256) by which a duplicate is known: Ottu's notifications have no id.

    Of the bytes, not of the meaning: taking two bodies that differ anywhere for one could lose a hint, and a
    missed duplicate costs one more look at the same customer.
    """
    return hashlib.sha256(body).digest()


def event_id_text(body_hash: bytes) -> str:
    """The text of ``event_id``, in a fifth of the time."""
    text = body_hash[:16].hex()
    return f"{text[:8]}-{text[8:12]}-8{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:]}"


def event_id(body_hash: bytes) -> uuid.UUID:
    """Return the id of the event that a body becomes: a UUID of version 8 (RFC 9562) of its hash's first 128 bits.

    One body has one id in every process and at every attempt, so that it can be answered before the database knows of it. It
    cannot be guessed: the body holds a signature.
    """
    number = int.from_bytes(body_hash[:16], "big")
    number = number & ~(0xF << 76) | 8 << 76
    return uuid.UUID(int=number & ~(0b11 << 62) | 0b10 << 62)


def read_event(payload: Mapping[str, object]) -> Event:
    """Read what ``parse`` returned; it never raises, for any object.

    The customer is ``token.customer_id``, which the subscription scheme signs; the top level's
    ``customer_id``, which no scheme signs, counts only where the token names none (absent, null or empty, as
    ottu-py reads it).
    """
    kind = _kind(payload)
    environment = _environment(payload.get("is_sandbox"))
    token = payload.get("token")
    holder: Mapping[str, object] = token if isinstance(token, dict) else {}
    customer_id = _customer_id(payload, holder)
    card = _card(holder)
    ignored_because = _why_ignored(kind, bool(holder), card, customer_id, environment)
    found = payload.get("agreement")
    agreement: Mapping[str, object] = found if isinstance(found, dict) else {}
    agreement_id = _agreement_id(agreement.get("id"))
    return Event(
        kind=kind,
        ignored_because=ignored_because,
        environment=environment,
        customer_id=customer_id,
        card=card if ignored_because is None else None,
        session_id=_cut(payload.get("session_id"), SESSION_ID_MAX),
        reference_number=_cut(payload.get("reference_number"), REFERENCE_NUMBER_MAX),
        order_no=_cut(payload.get("order_no"), ORDER_NO_MAX),
        result=_cut(payload.get("result"), WORD_MAX),
        state=_cut(payload.get("state"), WORD_MAX),
        payment_type=_cut(payload.get("payment_type"), WORD_MAX),
        agreement_id=agreement_id,
        terms=None if agreement_id is None or ignored_because is not None else read_terms(agreement),
    )


def _kind(payload: Mapping[str, object]) -> Kind:
    operation = payload.get("operation")
    if operation is None or operation == "":
        return "payment" if any(payload.get(name) is not None for name in _SIGNS_OF_A_PAYMENT) else "unknown"
    is_a_word = isinstance(operation, str) and not isinstance(operation, NumberLiteral)
    return "operation" if is_a_word else "unknown"


def _why_ignored(
    kind: Kind,
    names_a_card: bool,
    card: ListedCard | None,
    customer_id: str | None,
    environment: Environment | None,
) -> IgnoredBecause | None:
    if kind != "payment":
        return "operation event" if kind == "operation" else "unknown kind"
    if card is None:
        return "unusable token" if names_a_card else "no card"
    if customer_id is None:
        return "unusable customer id"
    return "no environment" if environment is None else None


def _environment(is_sandbox: object) -> Environment | None:
    """A boolean says it, as ``1`` and ``"true"`` do. Taking its absence for production was rejected: a sandbox card would be
    asked for, and with ``OTTU_CARDS_API=unavailable`` believed, among the cards that are charged."""
    said = read_flag(is_sandbox)
    return None if said is None else "sandbox" if said else "production"


def _customer_id(payload: Mapping[str, object], token: Mapping[str, object]) -> str | None:
    """The identifier exactly as sent: a cut one would be another customer. A number stands for its text."""
    named = token.get("customer_id")
    if named is None or named == "":
        named = payload.get("customer_id")
    return str(named) if is_customer_id(named) else None


def _card(token: Mapping[str, object]) -> ListedCard | None:
    """The card of a ``token`` object, numbers as texts; ``read_card`` masks a full card number."""
    try:
        return read_card(token)
    except UnusableCard:
        return None


def _agreement_id(value: object) -> str | None:
    """The agreement's identifier, exactly as sent or not at all: a cut one would be another agreement."""
    usable = isinstance(value, str) and 0 < len(value) <= AGREEMENT_ID_MAX and is_storable(value)
    return str(value) if usable else None


def _cut(value: object, length: int) -> str | None:
    """A text for people and logs, cut to ``length`` characters; a number stands for its text."""
    if not isinstance(value, str) or not value:
        return None
    text = str(value[:length])
    return text if is_storable(text) else None


def _require_few_levels(body: bytes, payload: dict[str, object]) -> None:
    """Raise ``MalformedBody`` for a payload of too many levels.

    Each level has a bracket of its own, so that a body with few of them needs no measuring.
    """
    if body.count(b"{") + body.count(b"[") > NESTING_MAX and _is_nested_too_deep(payload):
        raise MalformedBody(f"the body is nested more than {NESTING_MAX} levels deep")


def _is_nested_too_deep(payload: dict[str, object]) -> bool:
    """Level by level, so that no depth is too deep to be measured."""
    level: list[dict[str, object] | list[object]] = [payload]
    for _ in range(NESTING_MAX):
        groups = (node.values() if isinstance(node, dict) else node for node in level)
        level = [child for group in groups for child in group if isinstance(child, dict | list)]
        if not level:
            return False
    return True
