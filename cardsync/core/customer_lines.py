"""A line of CSV or JSON -> the customer it names. (``enrol`` brings the lines.)

The rules: a line stands for itself, so a broken one costs that line alone, and a quote that is not closed ends with its
line. No text of an error holds what stands in the line.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from typing import Final

from cardsync.core.cards import CUSTOMER_ID_MAX, ENVIRONMENTS, Environment, is_customer_id

COLUMNS: Final = ("environment", "customer_id")
_KNOWN: Final[dict[object, Environment]] = {e: e for e in ENVIRONMENTS}

Customer = tuple[Environment, str]
Reader = Callable[[str], Customer]


class BadLine(ValueError):
    """The line names no customer; the text says why, without what stands there."""


class NoHeader(ValueError):
    """The first line is neither JSON nor a header of CSV that names the columns."""


def reader_for(first_line: str) -> tuple[Reader, bool]:
    """How to read a file's lines, and whether its first one is a header. Raises ``NoHeader``; the reader ``BadLine``."""
    if first_line.lstrip().startswith("{"):
        return _read_json, False
    try:
        header = [name.strip().lower() for name in _fields(first_line)]
    except BadLine:
        header = []
    if any(header.count(column) != 1 for column in COLUMNS):
        raise NoHeader("the first line must be a header that names environment and customer_id")
    width = len(header)
    environment, customer_id = (header.index(column) for column in COLUMNS)

    def read_csv(line: str) -> Customer:
        fields = _fields(line)
        if len(fields) != width:
            raise BadLine(f"{len(fields)} fields where the header has {width}")
        return _customer(fields[environment], fields[customer_id])

    return read_csv, True


def _fields(line: str) -> list[str]:
    """One line's fields. Raises ``BadLine``."""
    try:
        return next(csv.reader((line,), strict=True))
    except (csv.Error, StopIteration):
        raise BadLine("not a line of CSV") from None


def _read_json(line: str) -> Customer:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        raise BadLine("not JSON") from None
    if not isinstance(content, dict):
        raise BadLine("not a JSON object")
    return _customer(content.get("environment"), content.get("customer_id"))


def _customer(environment: object, customer_id: object) -> Customer:
    known = _KNOWN.get(environment) if isinstance(environment, str) else None
    if known is None:
        raise BadLine(f"environment must be {' or '.join(ENVIRONMENTS)}")
    if not isinstance(customer_id, str) or not is_customer_id(customer_id):
        raise BadLine(f"customer_id must be a text of 1 to {CUSTOMER_ID_MAX} characters")
    return known, customer_id
