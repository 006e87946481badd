"""What an answer's status, headers and error body mean, purely: values in, a value or an error out."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from cardsync.core import retry_after
from cardsync.errors import (
    CredentialsRefused,
    InvalidAnswer,
    ListNotFound,
    OttuFault,
    OttuRejected,
    OttuThrottled,
    UnreadableAnswer,
)

MAX_RETRY_AFTER_SECONDS: Final = 3_600.0  # a longer wish is a mistake, and would stop all work
REASON_MAX: Final = 300  # characters
REASON_DEPTH: Final = 4  # {"error": {"field": ["..."]}} has three levels
REASON_TEXTS: Final = 20

# Ottu documents 204; the other two say as much. A list has to prove it in any case.
_DELETED: Final = frozenset({200, 202, 204})
# Never a card's own refusal: these are about our request, our credentials or the moment.
_NOT_ABOUT_THE_CARD: Final = frozenset({401, 405, 408, 415, 429})

# What Ottu's errors are made of (``{"detail"}``, ``{"field": ["..."]}``, ``{"error": {"type", "code", "message", "field"?}}``).
_KINDS: Final = ("type", "code", "field")
_WRAPPINGS: Final = frozenset({"detail", "message", "error", "errors"})
# A code or a field's name, and nothing that could be a name, a number of a card or a sentence.
_CODE: Final = re.compile(r"[a-zA-Z][a-zA-Z_]{0,39}[0-9]{0,4}|[0-9]{1,6}")


def check_listed(status_code: int, headers: Mapping[str, str], error: object, now: dt.datetime) -> None:
    """Return if the answer to a list is 200; else raise what its status means. ``error`` is the body of another status."""
    if status_code == 200:
        return
    if status_code == 404:
        raise ListNotFound("Ottu rejects the list: 404", says_why=isinstance(error, dict) and bool(error))
    if status_code == 403:
        raise CredentialsRefused("Ottu refuses our credentials: 403", status_code=403)
    _raise_common(status_code, headers, now)
    if 400 <= status_code <= 499:
        raise OttuRejected(f"Ottu rejects the list: {status_code}", status_code=status_code)
    raise UnreadableAnswer(f"Ottu answered the list with {status_code}", status_code=status_code)


def check_inquired(status_code: int, headers: Mapping[str, str], now: dt.datetime) -> bool:
    """Return whether Ottu knows the payment (200; 404 is that it does not); raise what any other status means.

    A 403 is about this payment and not about our credentials: a session may be another merchant's, and anybody may name one in
    a notification. Only a 401 stops all calls.
    """
    if status_code in (200, 404):
        return status_code == 200
    _raise_common(status_code, headers, now)
    if 400 <= status_code <= 499:
        raise OttuRejected(f"Ottu rejects the inquiry: {status_code}", status_code=status_code)
    raise InvalidAnswer(f"Ottu answered the inquiry with {status_code}", status_code=status_code)


def check_deleted(status_code: int, headers: Mapping[str, str], now: dt.datetime) -> bool:
    """Return whether the card is gone (true) or its deletion refused (false); raise for what says neither."""
    if status_code in _DELETED or status_code == 404:
        return True
    if 400 <= status_code <= 499 and status_code not in _NOT_ABOUT_THE_CARD:
        return False
    _raise_common(status_code, headers, now)
    if 400 <= status_code <= 499:
        raise OttuRejected(f"Ottu rejects the deletion: {status_code}", status_code=status_code)
    raise UnreadableAnswer(f"Ottu answered the deletion with {status_code}", status_code=status_code)


def _raise_common(status_code: int, headers: Mapping[str, str], now: dt.datetime) -> None:
    answered_at = retry_after.read_date(headers.get("date")) or now  # a date of Ottu's counts from Ottu's own clock
    wait = retry_after.read_seconds(
        headers.get("retry-after"), now=answered_at, longest_seconds=MAX_RETRY_AFTER_SECONDS
    )
    if status_code == 401:
        raise CredentialsRefused("Ottu refuses our credentials: 401", status_code=401)
    if status_code == 429:
        raise OttuThrottled("Ottu asks us to slow down: 429", retry_after_seconds=wait, status_code=429)
    # 408 is the other side's time-out: a 4xx in number only.
    if status_code == 408 or 500 <= status_code <= 599:
        raise OttuFault(f"Ottu failed: {status_code}", retry_after_seconds=wait, status_code=status_code)


def reason_of(error: object, secrets: Iterable[str]) -> str | None:
    """Return what kind of refusal an error body is: type, code and field names, in at most 300 characters; ``None`` without any.

    Ottu's free text is never kept: it may name the payer, and a receipt is for good. ``secrets`` (the token, our key) are never
    taken for a code.
    """
    secret = {s.lower() for s in secrets if s}
    found = dict.fromkeys(text for text in _walk(error, REASON_DEPTH) if text.partition("=")[2].lower() not in secret)
    return ", ".join(list(found)[:REASON_TEXTS])[:REASON_MAX] or None


def _walk(value: object, depth: int) -> Iterator[str]:
    """Yield ``type=...``, ``code=...`` and ``field=...`` of ``{"error": {"type", "code", "field"}}`` and ``{"field": [...]}``."""
    if not depth or not isinstance(value, dict | list):
        return
    if isinstance(value, list):
        for item in value:
            yield from _walk(item, depth - 1)
        return
    for key, item in value.items():
        name = str(key)
        if name in _KINDS:
            if isinstance(item, str | int) and _CODE.fullmatch(str(item)):
                yield f"{name}={item}"
        elif isinstance(item, list) and name not in _WRAPPINGS and _CODE.fullmatch(name):
            yield f"field={name}"
        else:
            yield from _walk(item, depth - 1)
