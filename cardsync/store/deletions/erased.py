"""Which persons were erased lately: for hints that wait outside the database, where no erasure can reach them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

AT_MOST: Final = 10_000  # the newest: far beyond what is erased while hints wait on a disk


@dataclass(frozen=True, slots=True)
class Erased:
    """When a person's newest finished erasure was asked for, and when it was done."""

    requested_at: dt.datetime
    finished_at: dt.datetime


_DONE_SINCE = text("""
    SELECT customer_id, max(requested_at) AS requested_at, max(finished_at) AS finished_at
    FROM cardsync.erasures WHERE status = 'done' AND finished_at >= :since
    GROUP BY customer_id ORDER BY max(finished_at) DESC LIMIT :limit
""")


def done_since(connection: Connection, since: dt.datetime) -> Mapping[str, Erased]:
    """The persons whose erasure was done at ``since`` or later, by their customer id."""
    rows = connection.execute(_DONE_SINCE, {"since": since, "limit": AT_MOST})
    return {row.customer_id: Erased(row.requested_at, row.finished_at) for row in rows}
