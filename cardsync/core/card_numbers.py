"""Card numbers: what looks like a full one, how a mask is kept, and which four digits are its last.

The promise: this is the only place that says what looks like a full card number. Reading a notification, reading a list, and
checking an operator's or a service's words all go by it. A request in SQL never comes here: there a function of the database says
the same (migration 0030), and a test holds both to the same texts.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

# A primary account number has 13 to 19 digits (ISO/IEC 7812; Maestro's 12 too). Masks that may be kept (PCI DSS 3.4.1: at
# most the first eight and the last four) never show more than eight digits in a row; eleven is the first run that no mask
# shows. Separators do not hide a number: every sign that is neither a letter, a digit nor part of a mask counts as one,
# since a list of separators would miss the next dash or zero-width space.
_SEPARATOR: Final = r"(?:[^\w*#•●]|_)"
_FULL_NUMBER = re.compile(rf"\d(?:{_SEPARATOR}*\d){{10,}}")
SHORTEST_NUMBER: Final = 11  # digits, as the pattern above counts them
LONGEST_NUMBER: Final = 19
LONGEST_GROUP: Final = 6  # digits of a number that is written in groups: 4-4-4-4, 4-6-5, 6-13 is not written

# The last four digits are known in two cases only: the text ends in a mask and four digits, or it is four digits. In every
# other text the digits at its end may be something else: the first six, a year, part of a reference.
_MASK: Final = r"(?:[*#•●…]|(?<![^\W\d_xX])[xX]+(?![^\W\d_xX])|([^\w\s])\1{2,})"
_MASKED_LAST_FOUR = re.compile(rf"{_MASK}[\s\-.]*[0-9]*([0-9]{{4}})[\s.)\]]*$")
_ONLY_LAST_FOUR = re.compile(r"[\s\-.]*([0-9]{4})\s*")


def looks_like_full_number(text: str) -> bool:
    """Tell whether ``text`` shows more digits in a row than any mask that may be kept, in any script, between any separators."""
    return not _is_too_short(text) and _FULL_NUMBER.search(_plain(text)) is not None


def masked(number: str) -> str:
    """Return ``number`` as it may be kept: unchanged if it is a mask, else its last four digits behind asterisks.

    Only asterisks if it is not certain which digits are the number's last four.
    """
    if _is_too_short(number) or (found := _FULL_NUMBER.search(_plain(number))) is None:
        return number
    last = _last_four_of_full(found.group())
    return f"**** {last}" if last else "****"


def last_four(mask: str) -> str | None:
    """Return the last four digits that a mask shows; ``None`` if it does not end in them."""
    found = _MASKED_LAST_FOUR.search(mask)
    if found is not None:
        return found.group(2)
    alone = _ONLY_LAST_FOUR.fullmatch(mask)
    return None if alone is None else alone.group(1)


def _last_four_of_full(run: str) -> str | None:
    """The last four digits of a run of digits and separators, unless something else is written behind the number.

    Behind a number stands an expiry date or a CVV at times. Its digits are told from the number's own by another separator, by a
    group that is too long beside it, or by the number's length.
    """
    groups = re.split(r"\D+", run)
    separators = {between for between in re.split(r"\d+", run) if between}
    digits = "".join(groups)
    is_one_number = len(digits) <= LONGEST_NUMBER and len(separators) <= 1
    is_grouped = len(groups) == 1 or max(map(len, groups)) <= LONGEST_GROUP
    # Other scripts' digits are no last four: those who read the registry compare them with ASCII ones.
    return digits[-4:] if is_one_number and is_grouped and digits.isascii() else None


def _is_too_short(text: str) -> bool:
    """Whether a text cannot hold that many digits, as most fields of a card. Outside ASCII one sign may be several digits."""
    return len(text) < SHORTEST_NUMBER and text.isascii()


def _plain(text: str) -> str:
    """The text with the look-alikes of digits and mask signs as the plain ones: full-width, superscript, circled."""
    return text if text.isascii() else unicodedata.normalize("NFKC", text)
