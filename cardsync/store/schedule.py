"""Whom a routine look goes to: the heads of the lines, made due where they are chosen, and what the choice goes by.

Each head is the beginning of an index, so that reading them takes the same time however many customers there are. The choice
itself is pure (``core.schedule``); whoever deals turns holds the lock of the sweep, so that two never deal the same.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from cardsync.core.cards import Environment
from cardsync.core.outlook import CADENCES
from cardsync.core.schedule import Heads, Waiting

# Ranges are compared with ``statement_timestamp()``, as in ``store.customers``. Each cadence for itself: one ORDER BY over all
# would sort everybody.
_CADENCE_HEADS = text("""
    SELECT line.cadence, head.id, head.age_seconds
    FROM generate_series(0, :last_cadence) AS line (cadence) CROSS JOIN LATERAL (
        SELECT id, extract(epoch FROM statement_timestamp() - reconciled_at)::float8 AS age_seconds
        FROM cardsync.customers
        WHERE due_at IS NULL AND cadence = line.cadence::smallint
          AND reconciled_at < statement_timestamp() - make_interval(secs => :shortest_seconds)
        ORDER BY reconciled_at, id LIMIT :limit
    ) AS head
""")
_NEWCOMERS = text("""
    SELECT id, extract(epoch FROM statement_timestamp() - first_seen_at)::float8 AS age_seconds
    FROM cardsync.customers WHERE due_at IS NULL AND reconciled_at IS NULL
    ORDER BY reconciled_at NULLS FIRST, id LIMIT :limit
""")
_DATED = text("""
    SELECT id FROM cardsync.customers
    WHERE due_at IS NULL AND look_by <= statement_timestamp() ORDER BY look_by LIMIT :limit
""")


def heads(connection: Connection, *, shortest_seconds: float, limit: int) -> Heads:
    """Read the first of each line; who was looked at within ``shortest_seconds`` is in none but that of dates."""
    lines: dict[int, list[Waiting]] = {}
    parameters = {"last_cadence": CADENCES - 1, "shortest_seconds": shortest_seconds, "limit": limit}
    for row in connection.execute(_CADENCE_HEADS, parameters):
        lines.setdefault(row.cadence, []).append(Waiting(row.id, row.age_seconds))
    newcomers = [Waiting(row.id, row.age_seconds) for row in connection.execute(_NEWCOMERS, {"limit": limit})]
    return Heads(lines, newcomers, list(connection.execute(_DATED, {"limit": limit}).scalars()))


_DEALT = text("SELECT dealt FROM cardsync.schedule")
_DEAL = text("UPDATE cardsync.schedule SET dealt = dealt + :turns")
# Whom a hint has made due meanwhile is looked at in any case, in the hint's lane.
_MAKE_DUE = text("""
    UPDATE cardsync.customers SET due_at = clock_timestamp(), lane = 'sweep', rung_at = clock_timestamp()
    WHERE id = ANY(ARRAY(
        SELECT id FROM cardsync.customers WHERE id = ANY(:customers) AND due_at IS NULL FOR UPDATE SKIP LOCKED
    ))
    RETURNING id
""")


def turns_dealt(connection: Connection) -> int:
    """How many turns were dealt so far."""
    dealt: int = connection.execute(_DEALT).scalar_one()
    return dealt


def deal(connection: Connection, customers: Sequence[int]) -> list[int]:
    """Make these customers due, a turn each; return those of them who were not due already."""
    connection.execute(_DEAL, {"turns": len(customers)})
    return list(connection.execute(_MAKE_DUE, {"customers": list(customers)}).scalars())


# A customer's last notifications, read backwards by their index: bounded, whatever else the customer does.
_CHARGES = text("""
    SELECT agreement_id, received_at FROM (
        SELECT agreement_id, received_at, payment_type, evidence_no FROM cardsync.events
        WHERE environment = :environment AND customer_id = :customer_id ORDER BY evidence_no DESC LIMIT 50
    ) AS latest
    WHERE payment_type = 'auto_debit' AND agreement_id = ANY(:agreements) ORDER BY evidence_no DESC
""")


def charges(
    connection: Connection, environment: Environment, customer_id: str, agreements: Iterable[str]
) -> dict[str, list[dt.datetime]]:
    """When each of the agreements was charged, as far as the inbox still tells, the newest first."""
    moments: dict[str, list[dt.datetime]] = {agreement: [] for agreement in agreements}
    if moments:
        parameters = {"environment": environment, "customer_id": customer_id, "agreements": list(moments)}
        for row in connection.execute(_CHARGES, parameters):
            moments[row.agreement_id].append(row.received_at)
    return moments


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
    """How many customers have each cadence, of those ever looked at; it reads the whole table."""
    counts = {row.cadence: row.customers for row in connection.execute(_BY_CADENCE)}
    return tuple(counts.get(cadence, 0) for cadence in range(CADENCES))


def roll(connection: Connection) -> Roll:
    """Count the customers; it reads the whole table and sorts it, so ask seldom."""
    row = connection.execute(_ROLL).one()
    return Roll(
        by_cadence(connection), row.newcomers, row.dated_in_a_month, row.worst_age_seconds, row.median_age_seconds
    )
