"""A card hint as it is kept: its token and what it says of the card as one encrypted text, and as bytes before that.

The inbox and the spool hold a hint until its card does. There its token stands encrypted, with the facts that are about a person
(``cardsync.ciphers`` has the key). The ids of agreements stay in the clear: SQL looks for the cards that have them, and an
agreement's id opens nothing.

The bytes are bounded (``HINT_BYTES``), because a record of the spool is: what makes them too long is left out, the least needed
first. Ottu's own cards make about 300 bytes; only texts full of control characters, which JSON escapes, make more.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

from cardsync.core.cards import TOKEN_MAX, CardFacts, Token
from cardsync.errors import MalformedBody, UnusableCard

HINT_BYTES: Final = 2_048  # before it is encrypted
ENCRYPTED_MAX: Final = 4_096  # characters; a longer text is not one of ours

_WELL_FORMED: Final = re.compile(r"c[0-9]\.[0-9a-f]{16}\.[A-Za-z0-9_-]+=*")

_ENCRYPTED: Final = tuple(field.name for field in dataclasses.fields(CardFacts) if field.name != "agreements")
_GIVEN_UP: Final = ("name_on_card", "pg_name", "brand", "number", "expiry_year", "expiry_month", "pg_code")


@dataclass(frozen=True, slots=True, repr=False)
class EncryptedHint:
    """A hint's token and facts as one encrypted text. It is longer than any token, so that a column shows which it has."""

    text: str

    def __post_init__(self) -> None:
        if not TOKEN_MAX < len(self.text) <= ENCRYPTED_MAX or _WELL_FORMED.fullmatch(self.text) is None:
            raise ValueError("not an encrypted hint")

    def __repr__(self) -> str:
        return "EncryptedHint(…)"


def stored_hint(text: str) -> Token | EncryptedHint:
    """What a stored text is: an encrypted hint, or the clear token that a release before encryption left.

    Raises ``UnusableCard`` or ``ValueError`` if it is neither.
    """
    return EncryptedHint(text) if len(text) > TOKEN_MAX else Token(text)


def in_the_clear(facts: CardFacts) -> CardFacts:
    """What is stored beside the encrypted text: the agreements alone."""
    return CardFacts(agreements=facts.agreements)


def as_bytes(token: Token, facts: CardFacts) -> bytes:
    """The token and the facts but the agreements, at most ``HINT_BYTES``. To be encrypted, and never written as it is."""
    said = {name: value for name in _ENCRYPTED if (value := getattr(facts, name)) is not None}
    content = _dumped(token, said)
    for name in _GIVEN_UP:
        if len(content) <= HINT_BYTES:
            break
        said.pop(name, None)
        content = _dumped(token, said)
    return content


def from_bytes(content: bytes, clear: CardFacts) -> tuple[Token, CardFacts]:
    """The token and all facts again; facts that another release wrote are passed over. Raises ``MalformedBody``."""
    try:
        found = json.loads(content)
        said: dict[str, Any] = {name: found["facts"].get(name) for name in _ENCRYPTED}
        return Token(found["token"]), CardFacts(**said, agreements=clear.agreements)
    except (ValueError, LookupError, TypeError, AttributeError, UnusableCard):
        raise MalformedBody("what was encrypted is not a hint") from None


def _dumped(token: Token, said: dict[str, Any]) -> bytes:
    return orjson.dumps({"token": token.reveal(), "facts": said})
