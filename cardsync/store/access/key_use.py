"""What a key has used: requests in this second, calls to Ottu on this day, and when it was used last. One row for each key.

All web processes count in the same row, so that a key has its quota once, however many processes answer. Two counts, two ways:

- **Requests** are taken in blocks of a tenth of a second's permits (``web.key_quotas``): a busy key costs ten writes a second in
  each process, not one for each request. Rejected: counting in each process alone, since N processes would give N quotas.
- **Calls** are counted in the transaction that causes them, so that a call which is not caused is not counted. The row is locked
  last, after the customer's and the card's.

A day is a day of UTC. Around midnight a key may so cause two days' calls within minutes; all keys together stay within the share
of ``core.call_budget``, which goes by 24 hours.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text


@dataclass(frozen=True, slots=True)
class CallQuota:
    """Whose calls are counted, and how many of them a day may be."""

    key_id: uuid.UUID
    calls_per_day: int


BURST_SECONDS: Final = 1.0  # permits that were not used are kept for this long: a page sends ten requests at once

# The generic cell rate algorithm: ``taken_until`` is when the permits taken so far are used up at the even rate.
_TAKE = text("""
    INSERT INTO cardsync.key_use AS u (key_id, day, taken_until)
    SELECT :key_id, (clock_timestamp() AT TIME ZONE 'UTC')::date, clock_timestamp() + :cost * interval '1 second'
    ON CONFLICT (key_id) DO UPDATE
    SET last_used_at = clock_timestamp(),
        taken_until = greatest(u.taken_until, clock_timestamp()) + :cost * interval '1 second'
    WHERE u.taken_until <= clock_timestamp() + (:burst - :cost) * interval '1 second'
    RETURNING greatest(0, floor((:burst - extract(epoch FROM taken_until - clock_timestamp())) * :per_second))::integer
""")


def take_requests(connection: Connection, key_id: uuid.UUID, *, permits: int, per_second: int) -> int | None:
    """Take permits for this number of the key's requests; return how many more it could take now.

    ``None``, and nothing is taken, if it has used up its rate.
    """
    parameters = {
        "key_id": key_id,
        "cost": permits / per_second,
        "burst": max(BURST_SECONDS, permits / per_second),
        "per_second": per_second,
    }
    left: int | None = connection.execute(_TAKE, parameters).scalar_one_or_none()
    return left


_COUNT = text("""
    INSERT INTO cardsync.key_use AS u (key_id, day, calls)
    SELECT :key_id, (clock_timestamp() AT TIME ZONE 'UTC')::date, :calls WHERE :limit > 0
    ON CONFLICT (key_id) DO UPDATE
    SET day = excluded.day, calls = CASE WHEN u.day = excluded.day THEN u.calls ELSE 0 END + :calls
    WHERE u.day <> excluded.day OR u.calls < :limit
    RETURNING 1
""")


def count_calls(connection: Connection, quota: CallQuota, calls: int = 1) -> bool:
    """Count calls that the key causes today; false, and nothing is counted, if it has caused all that it may.

    The last ones may go a little beyond: a deletion takes two calls, and is not begun by halves.
    """
    counted = {"key_id": quota.key_id, "calls": calls, "limit": quota.calls_per_day}
    return connection.execute(_COUNT, counted).one_or_none() is not None


_SECONDS_TO_MIDNIGHT = text("""
    SELECT extract(epoch FROM date_trunc('day', now, 'UTC') + interval '24 hours' - now)::float8
    FROM clock_timestamp() AS now
""")


def seconds_to_midnight(connection: Connection) -> float:
    """The seconds until a new day of UTC begins, by the database's clock."""
    seconds: float = connection.execute(_SECONDS_TO_MIDNIGHT).scalar_one()
    return seconds
