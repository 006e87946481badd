"""A batch of rows as the ring keeps it: the very text that the database was given, in one line with a checksum.

::

    <CRC-32 of the JSON, eight hex digits> {"version": 3, "received_at": ..., "rows": [...], "kept": [...]}\\n

``rows`` is the text of the insert's parameter, taken over as it is: writing each row once more, as the spool does, would cost a
notification half of what verifying it costs. A row that has a date keeps it; the others came at ``received_at``. ``kept`` holds
the encrypted bodies that are to be passed on, in the rows' order. The rules of ``core.spool_format`` for versions and unknown
fields hold here too.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence

import orjson

from cardsync.core.kept_bodies import KeptBody
from cardsync.core.spool_format import VERSION, WaitingRow, checked, row_of, with_checksum
from cardsync.errors import MalformedBody


def write_batch(rows_as_json: str, kept: Sequence[KeptBody | None], *, received_at: dt.datetime) -> bytes:
    """One line. ``rows_as_json`` is a JSON array of rows, encrypted, without line breaks."""
    bodies = f',"kept":{orjson.dumps([_body(one) for one in kept]).decode()}' if any(kept) else ""
    text = f'{{"version":{VERSION},"received_at":"{received_at.isoformat()}","rows":{rows_as_json}{bodies}}}'
    return with_checksum(text.encode())


def read_batch(line: bytes) -> list[WaitingRow]:
    """The rows of one line, dated. Raises ``MalformedBody`` if it is damaged, or of a version that cannot be read."""
    content = checked(line)
    if content is None:
        raise MalformedBody("the checksum is not that of the batch")
    try:
        found = json.loads(content)
        kept = found.get("kept") or [None] * len(found["rows"])
        version, arrived = found["version"], found["received_at"]
        return [
            row_of({**row, "version": version, "received_at": row.get("received_at") or arrived, "kept": body})
            for row, body in zip(found["rows"], kept, strict=True)
        ]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise MalformedBody("not a batch of notifications") from None


def _body(kept: KeptBody | None) -> dict[str, str | None] | None:
    return None if kept is None else {"content_type": kept.content_type, "body": kept.body}
