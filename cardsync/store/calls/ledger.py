"""The ledger of calls to Ottu: a row for each minute and lane, written before the call, read over the last 24 hours.

Rules: the clock is the database's, for every process. A row is dropped long after it has left the window. So after the clock is
set back the calls counted before are still there; rows in its future count like the rest. Nothing else removes a row.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, text

from cardsync.core.call_budget import WINDOW_SECONDS, Lane
from cardsync.db import Answer, Transaction

KEEP_DAYS: Final = 8  # if the clock is set back by a week, its calls are still counted

_COUNT = text("""
    INSERT INTO cardsync.call_minutes AS m (minute, lane, calls)
    VALUES (date_trunc('minute', clock_timestamp()), :lane, 1)
    ON CONFLICT (minute, lane) DO UPDATE SET calls = m.calls + 1
""")


def count(connection: Connection, lane: Lane) -> None:
    """Count one call of this moment; the caller holds the gate's row."""
    connection.execute(_COUNT, {"lane": lane})


# At the full allowance there are at most 8,700 rows in the window. Summing them takes two milliseconds on two busy cores
# (hundreds of calls a second, where the allowance is one). A running total beside them was rejected: it would have to be kept
# right by every version that counts, and after every jump of the clock.
_SPENT = text(f"""
    SELECT coalesce(sum(calls), 0)::bigint FROM cardsync.call_minutes
    WHERE minute > statement_timestamp() - interval '{WINDOW_SECONDS} seconds'
""")


def spent(connection: Connection) -> int:
    """How many calls count against the allowance now."""
    calls: int = connection.execute(_SPENT).scalar_one()
    return calls


_BY_LANE = text(f"""
    SELECT lane, sum(calls)::bigint AS calls FROM cardsync.call_minutes
    WHERE minute > statement_timestamp() - interval '{WINDOW_SECONDS} seconds' GROUP BY lane
""")


def spent_by_lane(connection: Connection) -> dict[Lane, int]:
    """The same, by lane."""
    return ask_spent_by_lane(connection)()


def ask_spent_by_lane(connection: Transaction) -> Answer[dict[Lane, int]]:
    """The same, for a pipeline too."""
    rows = connection.execute(_BY_LANE)
    return lambda: {row.lane: row.calls for row in rows}


_FREES_IN = text(f"""
    SELECT extract(epoch FROM min(minute) + interval '{WINDOW_SECONDS} seconds' - clock_timestamp())::float8
    FROM cardsync.call_minutes WHERE minute > statement_timestamp() - interval '{WINDOW_SECONDS} seconds'
""")


def frees_in_seconds(connection: Transaction) -> float:
    """When the oldest calls in the window leave it; 0 where there are none."""
    seconds: float | None = connection.execute(_FREES_IN).scalar_one()
    return seconds or 0.0


# This minute's calls and the last one's, over the time that they took: between one and two minutes.
_PER_SECOND = text("""
    SELECT (coalesce(sum(calls), 0) / (60 + extract(second FROM clock_timestamp())))::float8
    FROM cardsync.call_minutes
    WHERE minute >= date_trunc('minute', clock_timestamp()) - interval '1 minute' AND minute <= clock_timestamp()
""")


def calls_per_second(connection: Connection) -> float:
    """The calls a second that all processes together made lately."""
    rate: float = connection.execute(_PER_SECOND).scalar_one()
    return rate


_FORGET = text(f"""
    DELETE FROM cardsync.call_minutes WHERE minute < statement_timestamp() - interval '{KEEP_DAYS} days'
""")


def forget(connection: Connection) -> None:
    """Drop rows that left the window long ago."""
    connection.execute(_FORGET)
