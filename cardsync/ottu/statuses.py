"""What an answer's status, headers and error body mean, purely: values in, a value or an error out."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Final

from cardsync.errors import CredentialsRefused, InvalidAnswer, OttuFault, OttuRejected, OttuThrottled

MAX_RETRY_AFTER_SECONDS: Final = 3_600.0  # longer than that is somebody's mistake, and would stop all work
REASON_MAX: Final = 300  # characters
REASON_DEPTH: Final = 4  # {"error": {"field": ["..."]}} has three levels
REASON_TEXTS: Final = 20

# Ottu documents 204; the other two say as much. A list has to prove it in any case.
_DELETED: Final = frozenset({200, 202, 204})
# Never a card's own refusal: these are about our request, our credentials or the moment.
_NOT_ABOUT_THE_CARD: Final = frozenset({401, 405, 408, 415, 429})

# Eleven digits or more, with what core.cards counts as separators between them.
_FULL_NUMBER = re.compile(r"\d(?:[\s.\-_/·]*\d){10,}")


def check_listed(status_code: int, headers: Mapping[str, str], now: dt.datetime) -> None:
    """Return if the answer to a list is 200; else raise what its status means."""
    if status_code == 200:
        return
    if status_code == 403:
        raise CredentialsRefused("Ottu refuses our credentials: 403", status_code=403)
    _raise_common(status_code, headers, now)
    if 400 <= status_code <= 499:
        raise OttuRejected(f"Ottu rejects the list: {status_code}", status_code=status_code)
    raise InvalidAnswer(f"Ottu answered the list with {status_code}", status_code=status_code)


def check_deleted(status_code: int, headers: Mapping[str, str], now: dt.datetime) -> bool:
    """Return whether the card is gone (true) or its deletion refused (false); raise for what says neither."""
    if status_code in _DELETED or status_code == 404:
        return True
    if 400 <= status_code <= 499 and status_code not in _NOT_ABOUT_THE_CARD:
        return False
    _raise_common(status_code, headers, now)
    if 400 <= status_code <= 499:
        raise OttuRejected(f"Ottu rejects the deletion: {status_code}", status_code=status_code)
    raise InvalidAnswer(f"Ottu answered the deletion with {status_code}", status_code=status_code)


def _raise_common(status_code: int, headers: Mapping[str, str], now: dt.datetime) -> None:
    wait = retry_after_seconds(headers.get("retry-after"), now)
    if status_code == 401:
        raise CredentialsRefused("Ottu refuses our credentials: 401", status_code=401)
    if status_code == 429:
        raise OttuThrottled("Ottu asks us to slow down: 429", retry_after_seconds=wait, status_code=429)
    # 408 is the other side's time-out: a 4xx in number only.
    if status_code == 408 or 500 <= status_code <= 599:
        raise OttuFault(f"Ottu failed: {status_code}", retry_after_seconds=wait, status_code=status_code)


def retry_after_seconds(value: str | None, now: dt.datetime) -> float | None:
    """Read a ``Retry-After`` (RFC 9110, 10.2.3: seconds or a date), bounded to 0..3600; ``None`` for junk."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), MAX_RETRY_AFTER_SECONDS)
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=dt.UTC)
        wait = (moment - now).total_seconds()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return min(max(wait, 0.0), MAX_RETRY_AFTER_SECONDS)


def reason_of(error: object, secrets: Iterable[str]) -> str | None:
    """Return Ottu's words from an error body, one line of at most 300 characters; ``None`` if there are none.

    ``secrets`` (the token, our key) are taken out, and so is whatever looks like a full card number: an error
    may quote the request.
    """
    words = " ".join("; ".join(_texts(error)).split())
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        words = re.sub(re.escape(secret), "…", words, flags=re.IGNORECASE)
    words = "".join(c if c.isprintable() else " " for c in _FULL_NUMBER.sub("…", words))
    return words[:REASON_MAX] or None


def _texts(error: object) -> list[str]:
    texts: list[str] = []
    for text in _walk(error, "", REASON_DEPTH):
        texts.append(text)
        if len(texts) == REASON_TEXTS:
            break
    return texts


def _walk(value: object, name: str, depth: int) -> Iterator[str]:
    """Yield the texts of ``{"detail": ...}``, ``{"field": [...]}``, ``{"error": {...}}`` with their names."""
    if isinstance(value, str):
        yield f"{name}: {value}" if name and name not in ("detail", "message", "error") else value
    elif depth and isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(item, str(key), depth - 1)
    elif depth and isinstance(value, list):
        for item in value:
            yield from _walk(item, name, depth - 1)
