"""From the inquiry endpoint's answer to a payment's payload, purely; what is not wholly believable raises ``InvalidAnswer``.

Ottu answers the payload that a notification of the payment has. It comes from Ottu itself, over TLS and for our credentials, so
nothing in it has to be signed. One thing is checked: that it is about the payment that was asked for.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from dataclasses import dataclass
from typing import Final

from cardsync.core.events import Event, parse, read_event
from cardsync.errors import InvalidAnswer, MalformedBody

# Ottu-py knows no such endpoint; the path is Ottu's documentation's.
INQUIRY: Final = "/b/pbl/v2/inquiry/"


@dataclass(frozen=True, slots=True)
class Inquired:
    """A payment as Ottu answered it.

    ``content_hash`` recognises an equal answer; ``at`` is the payment's own time, if the answer says one.
    """

    event: Event
    content_hash: bytes
    at: dt.datetime | None


def read_inquired(content: object, session_id: str) -> Inquired:
    """Read the answer to an inquiry about one session. Raises ``InvalidAnswer``."""
    try:
        canonical = json.dumps(content, sort_keys=True, allow_nan=False).encode()
        payload = parse(canonical)  # the reading of notifications, with its bounds
    except (ValueError, RecursionError, MalformedBody):
        raise InvalidAnswer("Ottu's answer to the inquiry is not a payment") from None
    if payload.get("session_id") != session_id:
        raise InvalidAnswer("Ottu's answer is about another payment than was asked for")
    content_hash = hashlib.sha256(b"inquiry:" + canonical).digest()
    return Inquired(read_event(payload), content_hash, _moment(payload.get("timestamp_utc")))


def _moment(value: object) -> dt.datetime | None:
    """``timestamp_utc``, which is written ``YYYY-MM-DD HH:MM:SS``."""
    if not isinstance(value, str):
        return None
    try:
        return dt.datetime.strptime(value, "%Y-%m-%d %H:%M:%S").replace(tzinfo=dt.UTC)
    except ValueError:
        return None
