"""The schedule's rows: read the candidates for routine looks, make the chosen ones due, and count the turns.

The head of each line is the beginning of an index, so reading it takes the same time for any number of customers. The choice
itself is pure (``core.schedule``). The caller holds the sweep's lock, so that no two processes take the same turns.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from cardsync.core.change_rate import CADENCES
from cardsync.core.schedule import Candidates, Waiting
from cardsync.store.customers import IN_LINE, IS_NOT_ASKED_ABOUT

# Ranges are compared with ``statement_timestamp()``, as in ``store.customers``. Each cadence has a query of its own: one ORDER BY
# over all cadences would sort all customers.
_CADENCE_HEADS = text(f"""
    SELECT line.cadence, head.id, head.age_seconds
    FROM generate_series(0, :last_cadence) AS line (cadence) CROSS JOIN LATERAL (
        SELECT id, extract(epoch FROM statement_timestamp() - reconciled_at)::float8 AS age_seconds
        FROM cardsync.customers
        WHERE {IN_LINE} AND cadence = line.cadence::smallint
          AND reconciled_at < statement_timestamp() - make_interval(secs => :shortest_seconds)
        ORDER BY reconciled_at, id LIMIT :limit
    ) AS head
""")
_NEWCOMERS = text(f"""
    SELECT id, extract(epoch FROM statement_timestamp() - first_seen_at)::float8 AS age_seconds
    FROM cardsync.customers WHERE {IN_LINE} AND reconciled_at IS NULL
    ORDER BY reconciled_at NULLS FIRST, id LIMIT :limit
""")
_DATED = text(f"""
    SELECT id FROM cardsync.customers
    WHERE {IN_LINE} AND look_by <= statement_timestamp() ORDER BY look_by LIMIT :limit
""")


def candidates(connection: Connection, *, shortest_seconds: float, limit: int) -> Candidates:
    """Read the head of each line. A customer looked at within ``shortest_seconds`` can only be in the line of dates."""
    lines: dict[int, list[Waiting]] = {}
    parameters = {"last_cadence": CADENCES - 1, "shortest_seconds": shortest_seconds, "limit": limit}
    for row in connection.execute(_CADENCE_HEADS, parameters):
        lines.setdefault(row.cadence, []).append(Waiting(row.id, row.age_seconds))
    newcomers = [Waiting(row.id, row.age_seconds) for row in connection.execute(_NEWCOMERS, {"limit": limit})]
    return Candidates(lines, newcomers, list(connection.execute(_DATED, {"limit": limit}).scalars()))


_DEALT = text("SELECT dealt FROM cardsync.schedule")
_DEAL = text("UPDATE cardsync.schedule SET dealt = dealt + :turns")
# A customer that a hint has made due meanwhile is looked at in any case, in the hint's lane.
# A repeat's look becomes the routine one. If that look has failed, it keeps its date: the back-off protects Ottu.
_MAKE_DUE = text(f"""
    UPDATE cardsync.customers
    SET due_at = CASE WHEN failures > 0 THEN greatest(due_at, clock_timestamp()) ELSE clock_timestamp() END,
        lane = 'sweep', rung_at = clock_timestamp()
    WHERE id = ANY(ARRAY(
        SELECT id FROM cardsync.customers WHERE id = ANY(:customers) AND {IN_LINE} AND {IS_NOT_ASKED_ABOUT}
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING id
""")


def turns_taken(connection: Connection) -> int:
    """How many turns were taken so far."""
    dealt: int = connection.execute(_DEALT).scalar_one()
    return dealt


def take_turns(connection: Connection, customers: Sequence[int]) -> list[int]:
    """Take a turn for each of these customers and make them due; return the customers who were not due already."""
    connection.execute(_DEAL, {"turns": len(customers)})
    return make_due(connection, customers)


def make_due(connection: Connection, customers: Sequence[int]) -> list[int]:
    """Make these customers due for a routine look; return those who were not due, locked or asked about."""
    return list(connection.execute(_MAKE_DUE, {"customers": list(customers)}).scalars())


_WAITING = text("""
    SELECT count(*) FROM (
        SELECT FROM cardsync.customers
        WHERE lane IN ('sweep', 'audit') AND due_at <= statement_timestamp()
          AND (lease_until IS NULL OR lease_until <= statement_timestamp())
        LIMIT :most
    ) AS waiting
""")


def waiting(connection: Connection, *, most: int) -> int:
    """How many routine looks are due that no process has taken yet; counted up to ``most``."""
    found: int = connection.execute(_WAITING, {"most": most}).scalar_one()
    return found


@dataclass(frozen=True, slots=True)
class Roll:
    """The customers as the planner counts them; ages are of now, in seconds, of those ever looked at."""

    by_cadence: tuple[int, ...]
    newcomers: int
    dated_in_a_month: int
    worst_age_seconds: float | None
    median_age_seconds: float | None


_BY_CADENCE = text("""
    SELECT cadence, count(*) AS customers FROM cardsync.customers WHERE reconciled_at IS NOT NULL GROUP BY cadence
""")
_ROLL = text("""
    SELECT count(*) FILTER (WHERE reconciled_at IS NULL) AS newcomers,
           count(*) FILTER (WHERE look_by < statement_timestamp() + interval '30 days') AS dated_in_a_month,
           extract(epoch FROM statement_timestamp() - min(reconciled_at))::float8 AS worst_age_seconds,
           extract(epoch FROM statement_timestamp()
               - percentile_disc(0.5) WITHIN GROUP (ORDER BY reconciled_at))::float8 AS median_age_seconds
    FROM cardsync.customers
""")


def by_cadence(connection: Connection) -> tuple[int, ...]:
    """The number of customers of each cadence who were ever looked at; it reads the whole table."""
    counts = {row.cadence: row.customers for row in connection.execute(_BY_CADENCE)}
    return tuple(counts.get(cadence, 0) for cadence in range(CADENCES))


def roll(connection: Connection) -> Roll:
    """Count the customers; it reads the whole table and sorts it, so ask seldom."""
    row = connection.execute(_ROLL).one()
    return Roll(
        by_cadence(connection), row.newcomers, row.dated_in_a_month, row.worst_age_seconds, row.median_age_seconds
    )


STANDSTILL_SECONDS = 30.0  # thirty ticks without a sweep: then something is wrong


@dataclass(frozen=True, slots=True)
class LastSweep:
    """When the last sweep ran, and how long ago that is."""

    swept_at: dt.datetime
    seconds_ago: float


_LAST_SWEEP = text("""
    SELECT swept_at, extract(epoch FROM clock_timestamp() - swept_at)::float8 AS seconds_ago
    FROM cardsync.gate WHERE swept_at IS NOT NULL
""")


def last_sweep(connection: Connection) -> LastSweep | None:
    """Read when a sweep ran last; ``None`` if none ever did."""
    row = connection.execute(_LAST_SWEEP).one_or_none()
    return None if row is None else LastSweep(row.swept_at, row.seconds_ago)
