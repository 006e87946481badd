"""A line of CSV or JSON -> the customer it names. (``stories.import_customers`` brings the lines.)

The rules: nothing is guessed that could make a customer up, since each one costs calls for ever. A line stands for itself: a
broken one costs that line alone, and a quoted value ends on its line. A file of another kind is refused by that kind's name.
No text of an error holds what stands in the line.

CSV: the header names the columns, in any order, among others; the separator (``,`` ``;`` or tab) is the one that makes the
header name them. Blanks around a value are no part of it, nor are quotes around it. JSON: one object a line; an identifier may
be a whole number, as it may in Ottu's notifications.
"""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Final

from cardsync.core.cards import CUSTOMER_ID_MAX, ENVIRONMENTS, Environment, is_customer_id

COLUMNS: Final = ("environment", "customer_id")
SEPARATORS: Final = (",", ";", "\t")
_KNOWN: Final[dict[object, Environment]] = {e: e for e in ENVIRONMENTS}
_INVISIBLE: Final = (
    "Zs",
    "Zl",
    "Zp",
    "Cc",
    "Cf",
)  # Unicode categories: blanks, controls, zero-width and direction marks

# How files of other kinds begin (bytes), and what to do with them.
_OTHER_KINDS: Final = (
    (b"\x1f\x8b", "compressed (gzip): use gunzip -c FILE | cardsync customers import -"),
    (b"PK\x03\x04", "a ZIP archive or a spreadsheet: save it as CSV (UTF-8)"),
    (b"\xff\xfe", "UTF-16: save it as UTF-8"),
    (b"\xfe\xff", "UTF-16: save it as UTF-8"),
    (b"BZh", "compressed (bzip2): unpack it first"),
    (b"\xfd7zXZ", "compressed (xz): unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed (zstd): unpack it first"),
)

_QUOTES: Final = {
    "'": "'",
    "\u201c": "\u201d",
    "\u2018": "\u2019",
    "\u00ab": "\u00bb",
    "`": "`",
}  # that CSV does not have
# What exports and spreadsheets write in place of an identifier: no value, and a long number that was rounded.
_NO_VALUE: Final = frozenset({"\\N", "NULL", "null", "#N/A", "#REF!", "#VALUE!", "#NAME?"})
_ROUNDED_NUMBER: Final = re.compile(r"[0-9](?:[.,][0-9]+)?E\+[0-9]+")

Customer = tuple[Environment, str]
Reader = Callable[[str], Customer]


class BadLine(ValueError):
    """The line names no customer; the text says why, without what stands there."""


class WrongFile(ValueError):
    """The file as a whole cannot be read; the text says what kind it is of, and what to do."""


class NoHeader(WrongFile):
    """The first line is neither JSON nor a header of CSV that names the columns."""


def is_blank(line: str) -> bool:
    """Tell whether nothing stands in the line: spreadsheets leave rows of separators behind."""
    return not line.strip(" \t\xa0,;\"'")


def reader_for(first_line: str) -> tuple[Reader, bool]:
    """How to read a file's lines, and whether its first one is a header. Raises ``WrongFile``; the reader ``BadLine``."""
    _refuse_other_kinds(first_line)
    if first_line.lstrip().startswith("{"):
        return _read_json, False
    for separator in SEPARATORS:
        try:
            header = [_bare(name).lower() for name in _fields(first_line, separator)]
        except BadLine:
            continue
        if all(header.count(column) == 1 for column in COLUMNS):
            return _csv_reader(header, separator), True
    raise NoHeader(
        "the first line must be a header that names environment and customer_id once each, separated by a comma, "
        "a semicolon or a tab"
    )


def _refuse_other_kinds(first_line: str) -> None:
    begin = first_line[:16].encode("utf-8", "surrogateescape")
    for sign, kind in _OTHER_KINDS:
        if begin.startswith(sign):
            raise WrongFile(f"the file is {kind}")
    if "\0" in first_line:
        raise WrongFile("the file is no text in UTF-8 (perhaps UTF-16), or its first line has no end: save it as UTF-8")
    if "\r" in first_line:
        raise WrongFile("the file's lines end with CR alone: save it with the line ends of Unix or Windows")
    if first_line.lstrip().startswith("["):
        raise WrongFile("the file is a JSON array: write one object a line (jq -c '.[]' FILE)")


def _csv_reader(header: Sequence[str], separator: str) -> Reader:
    width = len(header)
    environment, customer_id = (header.index(column) for column in COLUMNS)

    def read_csv(line: str) -> Customer:
        fields = _fields(line, separator)
        if len(fields) != width:
            raise BadLine(f"{len(fields)} fields where the header has {width}")
        found = _bare(fields[customer_id])
        if '"' in found and '""' not in line:
            raise BadLine("a quote stands inside a value that is not quoted")
        if len(found) > 1 and _QUOTES.get(found[0]) == found[-1]:
            raise BadLine("customer_id stands in single or typographic quotes: CSV has double ones")
        if any(unicodedata.category(c) == "Cc" for c in found):
            raise BadLine(
                "customer_id holds a tab or another control character: in JSON it may be written as an escape"
            )
        if found in _NO_VALUE:
            raise BadLine("customer_id is what an export writes for no value")
        if _ROUNDED_NUMBER.fullmatch(found):
            raise BadLine("customer_id is a number that a spreadsheet rounded: export it as text")
        return _customer(_bare(fields[environment]), found)

    return read_csv


def _fields(line: str, separator: str) -> list[str]:
    """One line's fields. Raises ``BadLine``."""
    try:
        return next(csv.reader((line,), delimiter=separator, skipinitialspace=True, strict=True))
    except csv.Error as error:
        if "end of data" in str(error):
            raise BadLine("a quote is not closed on its line") from None
        raise BadLine("not a line of CSV: something stands behind a closing quote, or the line is too long") from None
    except StopIteration:
        raise BadLine("not a line of CSV") from None


def _bare(value: str) -> str:
    """Without the blanks around it, those that do not break a line among them."""
    return value.strip()


def _read_json(line: str) -> Customer:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        raise BadLine("not JSON") from None
    if not isinstance(content, dict):
        raise BadLine("not a JSON object")
    customer_id = content.get("customer_id")
    if isinstance(customer_id, int) and not isinstance(customer_id, bool):
        customer_id = str(customer_id)
    return _customer(content.get("environment"), customer_id)


def _customer(environment: object, customer_id: object) -> Customer:
    known = _KNOWN.get(environment) if isinstance(environment, str) else None
    if known is None:
        raise BadLine(f"environment must be {' or '.join(ENVIRONMENTS)}")
    if isinstance(customer_id, str) and any("\ud800" <= c <= "\udfff" for c in customer_id):
        raise BadLine("customer_id is not UTF-8")
    if not isinstance(customer_id, str) or not is_customer_id(customer_id):
        raise BadLine(f"customer_id must be a text of 1 to {CUSTOMER_ID_MAX} characters")
    if any(unicodedata.category(end) in _INVISIBLE for end in (customer_id[0], customer_id[-1])):
        raise BadLine("customer_id begins or ends with a blank or an invisible character")
    return known, customer_id
