"""Reading one field of a JSON object of Ottu's as it is meant, also if its type is odd: one function for each kind of field.

Notifications and lists are read by the same functions, so that a card is the same card in both. A number may come as a JSON
number or as a text; ``core.events`` hands numbers over as texts, a list's reader as Python's integers. None of these functions
raises; what cannot be read is ``None``.
"""

from __future__ import annotations

import unicodedata
from typing import Final

from cardsync.core.card_numbers import SHORTEST_NUMBER, masked

TEXT_MAX: Final = 128  # characters; longer than any text that Ottu documents for a card; what is longer is cut

_LARGEST: Final = 10**64  # no field of a card has as many digits; Python refuses to print numbers of some thousands
_YES: Final = frozenset({"true", "1"})
_NO: Final = frozenset({"false", "0"})


def is_storable(text: str) -> bool:
    """Tell whether PostgreSQL can hold ``text``: no NUL, no lone surrogate."""
    if "\x00" in text:
        return False
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8
        return False


def as_text(value: object) -> str | None:
    """Return a text as it is, and a whole number as its digits; ``None`` for anything else, and for an absurd number."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _LARGEST:
        return None
    return str(value)


def read_text(value: object) -> str | None:
    """Return a text for people, with a full card number masked."""
    if type(value) is str and len(value) < SHORTEST_NUMBER and value.isascii() and "\x00" not in value:
        return value  # as most are: too short for a number, and nothing in it to look at
    text = as_text(value)
    return masked(text)[:TEXT_MAX] if text is not None and is_storable(text) else None


def read_flag(value: object) -> bool | None:
    """Return a boolean: ``true``, ``"true"``, ``1`` and ``"1"`` are one thing. Other words are not guessed at."""
    if isinstance(value, bool):
        return value
    word = (as_text(value) or "").strip().lower()
    return True if word in _YES else False if word in _NO else None


def read_digits(value: object) -> str | None:
    """Return a text of digits, such as a month, in ASCII: from any script, without blanks and direction marks.

    A text that holds anything else is returned as ``read_text`` reads it.
    """
    text = read_text(value)
    if text is None or (text.isascii() and text.isdigit()):  # as almost always
        return text
    bare = "".join(c for c in text if not c.isspace() and unicodedata.category(c) != "Cf")
    return "".join(str(unicodedata.decimal(c)) for c in bare) if bare.isdecimal() else text


def read_count(value: object) -> int | None:
    """Return a whole number that is not negative and has at most six digits, from a number or a text of ASCII digits."""
    text = (as_text(value) or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 6 else None
