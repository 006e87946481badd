"""What a card is: frozen values that cannot hold a full card number and do not print a token.

The promise: whoever holds a ``CardFacts`` may log it, and whoever holds a ``Token`` may log that too.
A card's identity is (environment, customer_id, token): two customers can share a token (Ottu's documentation).
"""

from __future__ import annotations

import calendar
import datetime as dt
import hashlib
import hmac
import re
from dataclasses import dataclass, fields
from typing import Final, Literal

from cardsync.errors import UnusableCard

Environment = Literal["sandbox", "production"]
ENVIRONMENTS: Final[tuple[Environment, ...]] = ("sandbox", "production")

TOKEN_MAX: Final = 50  # characters; Ottu's OpenAPI description, schema Card
CUSTOMER_ID_MAX: Final = 64  # characters; the same place
TEXT_MAX: Final = 128  # longer than any text that Ottu documents for a card; what is longer is cut
AGREEMENTS_MAX: Final = 100  # bounded like everything; a card serves a handful of agreements
AGREEMENT_ID_MAX: Final = 128  # characters; schema Agreement

# A primary account number has 13 to 19 digits (ISO/IEC 7812; Maestro's 12 too). Masks that may be kept (PCI DSS 3.4.1: at
# most the first eight and the last four) never show more than eight digits in a row; eleven is the first run that no mask
# shows. Separators do not hide a number: whatever is neither a letter, a digit nor a sign that masks use counts as one,
# since a list of separators would miss the next dash or zero-width space.
_SEPARATORS = re.compile(r"(?:[^\w*#•●]|_)+")
_FULL_NUMBER = re.compile(r"\d{11,}")
_LAST_FOUR = re.compile(r"([0-9]{4})[^0-9]*$")  # ASCII alone: other scripts' digits are no last four


def looks_like_full_number(text: str) -> bool:
    """Tell whether ``text`` shows more digits in a row than any mask that may be kept."""
    return _FULL_NUMBER.search(_SEPARATORS.sub("", text)) is not None


def masked(number: str) -> str:
    """Return ``number`` as it may be kept: unchanged if it is a mask, else its last four digits behind asterisks."""
    if not looks_like_full_number(number):
        return number
    last = _LAST_FOUR.search(_SEPARATORS.sub("", number))
    return f"**** {last.group(1)}" if last else "****"


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


def is_storable(text: str) -> bool:
    """Tell whether PostgreSQL can hold ``text``: no NUL, no lone surrogate."""
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


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
        """The last four digits that the mask shows."""
        last = _LAST_FOUR.search(self.number or "")
        return last.group(1) if last else None

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
        """Return these facts, with what is not said here taken from ``older``."""
        said = {f.name: getattr(self, f.name) for f in fields(self)}
        return CardFacts(**{n: getattr(older, n) if v is None else v for n, v in said.items()})


@dataclass(frozen=True, slots=True)
class ListedCard:
    """One card of Ottu's list, or of a hint: its token and its facts."""

    token: Token
    facts: CardFacts


def read_card(source: dict[str, object]) -> ListedCard:
    """Read a card object of Ottu's, tolerating absent and unknown fields and odd types of what is not its identity.

    A number that is not masked is masked here. Raises ``UnusableCard`` if there is no usable token.
    """
    token = source.get("token")
    if not isinstance(token, str):
        raise UnusableCard("a card without a token")
    pg_name = source.get("pg_name")
    if pg_name is None:
        pg_name = source.get("pg")
    return ListedCard(
        Token(token),
        CardFacts(
            pg_code=_text(source.get("pg_code")),
            pg_name=_text(pg_name),
            brand=_text(source.get("brand")),
            number=_text(source.get("number")),
            expiry_month=_text(source.get("expiry_month")),
            expiry_year=_text(source.get("expiry_year")),
            is_expired=_flag(source.get("is_expired")),
            is_preferred=_flag(source.get("is_preferred")),
            cvv_required=_flag(source.get("cvv_required")),
            agreements=_agreements(source.get("agreements")),
            name_on_card=_text(source.get("name_on_card")),
        ),
    )


def _text(value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = str(value)
    return masked(text)[:TEXT_MAX] if is_storable(text) else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _agreements(value: object) -> tuple[str, ...] | None:
    """Agreement ids, sorted and once each; objects with an ``id`` are understood, since the list is untyped in Ottu's schema."""
    if not isinstance(value, list):
        return None
    ids = (item.get("id") if isinstance(item, dict) else item for item in value)
    usable = {str(i) for i in ids if isinstance(i, str | int) and not isinstance(i, bool)}
    return tuple(sorted(i for i in usable if 0 < len(i) <= AGREEMENT_ID_MAX and is_storable(i))[:AGREEMENTS_MAX])
