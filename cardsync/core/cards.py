"""What a card is: frozen values that cannot hold a full card number and do not print a token.

The promise: ``CardFacts`` and ``Token`` may both be logged.
A card's identity is (environment, customer_id, token): two customers can share a token (Ottu's documentation).
"""

from __future__ import annotations

import calendar
import datetime as dt
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final, Literal, get_args

from cardsync.core.card_numbers import last_four, looks_like_full_number
from cardsync.core.fields import as_text, is_storable, read_digits, read_flag, read_text
from cardsync.errors import UnusableCard

Environment = Literal["sandbox", "production"]
ENVIRONMENTS: Final[tuple[Environment, ...]] = ("sandbox", "production")
CardStatus = Literal[
    "unconfirmed",  # a hint named it, and no list has shown it
    "active",  # a list showed it; it is served
    "deleting",  # its deletion was asked for, and no list has proved it
    "removed",  # a list proved that it is gone; it may come back
]
CARD_STATUSES: Final[tuple[CardStatus, ...]] = get_args(CardStatus)
# A list showed the card, and none since has proved that it is gone.
LISTED_STATUSES: Final[tuple[CardStatus, ...]] = ("active", "deleting")

TOKEN_MAX: Final = 50  # characters; Ottu's OpenAPI description, schema Card
CUSTOMER_ID_MAX: Final = 64  # characters; the same place
AGREEMENTS_MAX: Final = 100  # bounded like everything; a card serves a handful of agreements
AGREEMENT_ID_MAX: Final = 128  # characters; schema Agreement


@dataclass(frozen=True, slots=True, repr=False)
class Token:
    """A card token that prints as an ellipsis. ``reveal()`` is the only way to its text, and easy to search for.

    Raises ``UnusableCard`` if the text is empty, too long (50 characters), or cannot be stored (NUL, lone surrogates).
    """

    _text: str

    def __post_init__(self) -> None:
        if not self._text or len(self._text) > TOKEN_MAX or not is_storable(self._text):
            raise UnusableCard("a card's token must be 1 to 50 storable characters")

    def reveal(self) -> str:
        """Return the token itself: for the database and for Ottu, never for a log, a URL of ours or a message."""
        return self._text

    def fingerprint(self, key: bytes, environment: Environment) -> bytes:
        """Return 32 bytes that recognise this token again without holding it (HMAC-SHA256 under the deployment's key).

        The customer is not part of it, so that a token hinted for one customer is recognised at another.
        """
        return hmac.digest(key, f"card-token:{environment}:{self._text}".encode(), hashlib.sha256)

    def __repr__(self) -> str:
        return "Token(…)"

    __str__ = __repr__


def is_customer_id(value: object) -> bool:
    """Tell whether ``value`` can be a customer's identifier: 1 to 64 storable characters, any script, any sign."""
    return isinstance(value, str) and 0 < len(value) <= CUSTOMER_ID_MAX and is_storable(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What Ottu says of a card beside whose it is; ``None`` means that Ottu did not say.

    Raises ``UnusableCard`` when a text looks like a full card number: mask it (``masked``) before.
    """

    pg_code: str | None = None
    pg_name: str | None = None
    brand: str | None = None
    number: str | None = None
    expiry_month: str | None = None
    expiry_year: str | None = None
    is_expired: bool | None = None
    is_preferred: bool | None = None
    cvv_required: bool | None = None
    agreements: tuple[str, ...] | None = None
    name_on_card: str | None = None

    def __post_init__(self) -> None:
        for name in ("pg_code", "pg_name", "brand", "number", "expiry_month", "expiry_year", "name_on_card"):
            text = getattr(self, name)
            if text is not None and looks_like_full_number(text):
                raise UnusableCard(f"{name} looks like a full card number")

    @property
    def last4(self) -> str | None:
        """The last four digits that the mask ends in; ``None`` if it does not end in them."""
        return last_four(self.number or "")

    @property
    def expires_on(self) -> dt.date | None:
        """The last day on which the card is good: the end of its month; ``None`` if the month or year is no such thing."""
        month, year = self.expiry_month or "", self.expiry_year or ""
        if not (month.isascii() and month.isdigit() and year.isascii() and year.isdigit()):
            return None
        if not 1 <= int(month) <= 12 or len(year) not in (2, 4):
            return None
        full_year = int(year) + 2000 if len(year) == 2 else int(year)
        if not 1 <= full_year <= 9999:
            return None
        return dt.date(full_year, int(month), calendar.monthrange(full_year, int(month))[1])

    def over(self, older: CardFacts) -> CardFacts:
        """Return these facts, and those of ``older`` where nothing is said here."""
        said = {f.name: getattr(self, f.name) for f in fields(self)}
        return CardFacts(**{n: getattr(older, n) if v is None else v for n, v in said.items()})


@dataclass(frozen=True, slots=True)
class ListedCard:
    """One card of Ottu's list, or of a hint: its token and its facts.

    ``unsaid`` names the facts that the source did not say, or said in two ways; a ``null`` is said. ``only_if_known``: the entry
    confirms a card that is known, and makes none (``core.oddities``).
    """

    token: Token
    facts: CardFacts
    unsaid: frozenset[str] = frozenset()
    only_if_known: bool = False


def read_card(source: Mapping[str, object]) -> ListedCard:
    """Read a card object of Ottu's. Absent fields, unknown fields and odd types are tolerated, except in its identity.

    A number that is not masked is masked here. Raises ``UnusableCard`` if there is no usable token.
    """
    token = read_token(source.get("token"))
    if token is None:
        raise UnusableCard("a card without a usable token")
    return ListedCard(token, read_facts(source))


def read_token(value: object) -> Token | None:
    """Return the token that a field holds, a whole number as its digits; ``None`` if it holds none that can be used.

    Blanks around it are no part of it: they come from the way it was written, and would make it another card.
    """
    text = as_text(value)
    if text is None or (isinstance(value, int) and value < 0):
        return None
    try:
        return Token(text.strip() if len(text) <= TOKEN_MAX else text)
    except UnusableCard:
        return None


def read_facts(source: Mapping[str, object]) -> CardFacts:
    """Read the facts of a card object; what is absent or cannot be read is ``None``."""
    pg_name = source.get("pg_name")
    if pg_name is None:
        pg_name = source.get("pg")
    return CardFacts(
        pg_code=read_text(source.get("pg_code")),
        pg_name=read_text(pg_name),
        brand=read_text(source.get("brand")),
        number=read_text(source.get("number")),
        expiry_month=read_digits(source.get("expiry_month")),
        expiry_year=read_digits(source.get("expiry_year")),
        is_expired=read_flag(source.get("is_expired")),
        is_preferred=read_flag(source.get("is_preferred")),
        cvv_required=read_flag(source.get("cvv_required")),
        agreements=_agreements(source.get("agreements")),
        name_on_card=read_text(source.get("name_on_card")),
    )


def unsaid_facts(source: dict[str, object], facts: CardFacts) -> frozenset[str]:
    """Return the names of the facts that a card object does not say: absent, or there and not readable. A ``null`` is said."""
    names = {field.name for field in fields(CardFacts)}
    keys = {name: ("pg_name", "pg") if name == "pg_name" else (name,) for name in names}
    said = {name for name in names if any(key in source and source[key] is None for key in keys[name])}
    return frozenset(name for name in names - said if getattr(facts, name) is None)


def _agreements(value: object) -> tuple[str, ...] | None:
    """Agreement ids, sorted and once each; objects with an ``id`` are understood, since the list is untyped in Ottu's schema."""
    if not isinstance(value, list):
        return None
    ids = (item.get("id") if isinstance(item, dict) else item for item in value)
    usable = {text for i in ids if (text := as_text(i)) is not None}
    return tuple(sorted(i for i in usable if 0 < len(i) <= AGREEMENT_ID_MAX and is_storable(i))[:AGREEMENTS_MAX])
