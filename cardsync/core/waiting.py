"""A notification as it waits outside the database: the row that it will be, and when it arrived.

Rules: what is written says its version; what is read is believed only if it is whole and its id is that of its hash.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from typing import Final

from cardsync.core.events import event_id
from cardsync.errors import MalformedBody

VERSION: Final = 1


def write_waiting(row: Mapping[str, object], received_at: dt.datetime) -> bytes:
    """Write a row of the inbox with the time of its arrival."""
    return json.dumps({"version": VERSION, "received_at": received_at.isoformat(), "row": dict(row)}).encode()


def read_waiting(content: bytes) -> dict[str, object]:
    """Return the row, ``received_at`` in it. Raises ``MalformedBody`` for what is not whole, or another version's."""
    try:
        found = json.loads(content)
        if found["version"] != VERSION:
            raise MalformedBody("written by another version")
        row: dict[str, object] = {
            **found["row"],
            "received_at": dt.datetime.fromisoformat(found["received_at"]).isoformat(),
        }
        body_hash = bytes.fromhex(found["row"]["body_hash"])
        if len(body_hash) != 32 or row["event_id"] != str(event_id(body_hash)):
            raise MalformedBody("the id is not that of the hash")
    except (ValueError, LookupError, TypeError, RecursionError):
        raise MalformedBody("not a notification that waits") from None
    return row
