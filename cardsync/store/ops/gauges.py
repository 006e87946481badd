"""Gauges of the current state, for ``/metrics``: a cheap set that indexes answer, and a set that reads whole tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from cardsync.core.call_budget import Lane
from cardsync.core.cards import CARD_STATUSES
from cardsync.core.deletion import OPEN
from cardsync.store import schedule
from cardsync.store.calls import gate, ledger
from cardsync.store.calls.gate import Reason
from cardsync.store.deletions import requests


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """Waiting work, calls to Ottu, and what stops calls or removals: cheap at any size."""

    pending_events: int
    oldest_pending_seconds: float
    failed_events: int
    due_customers: int
    oldest_due_seconds: float
    open_deletions: int
    oldest_deletion_seconds: float
    held_deletions: int
    calls_paused_because: Reason | None
    calls_per_second: float | None  # the limited pace after a 429
    removal_brake_engaged: bool
    feed_head: int
    last_sweep_seconds: float  # -1 if none ever ran
    last_notification_seconds: float  # -1 if none is kept
    notification_queue_usage: float  # of PostgreSQL's queue for all databases of the server, 0 to 1
    calls_by_lane: Mapping[Lane, int]


_QUEUES = text(f"""
    SELECT pending.*, failed.*, due.*, deletions.*, held.*,
           (SELECT seq FROM cardsync.feed_head) AS feed_head,
           (SELECT coalesce(extract(epoch FROM clock_timestamp() - swept_at), -1)::float8
            FROM cardsync.gate) AS last_sweep_seconds,
           (SELECT coalesce(extract(epoch FROM clock_timestamp() - max(received_at)), -1)::float8
            FROM cardsync.events) AS last_notification_seconds
    FROM (SELECT count(*) AS pending_events,
                 coalesce(extract(epoch FROM clock_timestamp() - min(received_at)), 0)::float8 AS oldest_pending_seconds
          FROM cardsync.events WHERE status = 'pending') AS pending,
         (SELECT count(*) AS failed_events FROM cardsync.events WHERE status = 'failed') AS failed,
         (SELECT count(*) AS due_customers,
                 coalesce(extract(epoch FROM clock_timestamp() - min(due_at)), 0)::float8 AS oldest_due_seconds
          FROM cardsync.customers WHERE due_at <= statement_timestamp()) AS due,
         (SELECT count(*) AS open_deletions,
                 coalesce(extract(epoch FROM clock_timestamp() - min(requested_at)), 0)::float8 AS oldest_deletion_seconds
          FROM cardsync.deletions WHERE {requests.in_phase("deletions", *OPEN)}) AS deletions,
         (SELECT count(*) AS held_deletions FROM cardsync.deletions WHERE due_at = 'infinity') AS held
""")


_NOTIFICATION_QUEUE_USAGE = text("SELECT pg_notification_queue_usage()")


def notification_queue_usage(connection: Connection) -> float:
    """How full PostgreSQL's queue of notifications is, 0 to 1; no bell of ours is rung above 0.5."""
    usage: float = connection.execute(_NOTIFICATION_QUEUE_USAGE).scalar_one()
    return usage


def queues(connection: Connection) -> QueueFigures:
    """Read the cheap gauges."""
    row = connection.execute(_QUEUES).one()
    state = gate.state(connection)
    return QueueFigures(
        **row._asdict(),
        calls_paused_because=state.reason,
        calls_per_second=state.calls_per_second,
        removal_brake_engaged=state.brake_engaged_at is not None,
        notification_queue_usage=notification_queue_usage(connection),
        calls_by_lane=ledger.spent_by_lane(connection),
    )


@dataclass(frozen=True, slots=True)
class StockFigures:
    """Counts of what is stored. Each reads a whole table, so read them seldom. Ages are in seconds."""

    cards_by_status: Mapping[str, int]
    deletions_by_status: Mapping[str, int]
    open_erasures_by_status: Mapping[str, int]
    customers: int
    dirty_customers: int
    never_reconciled: int
    oldest_reconciliation_seconds: float
    reconciled_within: Mapping[int, int]  # seconds -> customers
    by_cadence: tuple[int, ...]  # those ever looked at


# 1, 5, 15 minutes; 1, 6 hours; 1, 3 days; 1, 2, 4 weeks. Cumulative, like Prometheus buckets.
WITHIN_SECONDS: Final = (60, 300, 900, 3_600, 21_600, 86_400, 259_200, 604_800, 1_209_600, 2_419_200)

_DELETIONS = text("SELECT status, count(*) AS deletions FROM registry.deletions GROUP BY status")
_ERASURES = text("SELECT status, count(*) AS erasures FROM cardsync.erasures WHERE status <> 'done' GROUP BY status")
_CARDS = text("SELECT status, count(*) AS cards FROM cardsync.cards GROUP BY status")
# Counts within bounds instead of a median: a median sorts all customers, a count only reads them. Measured on five million
# customers: 0.8 s with four bounds, 1.2 s with these ten, 3.7 s with width_bucket (an age is a subtraction for each row).
_WITHIN: Final = ", ".join(
    f"count(*) FILTER (WHERE reconciled_at > now() - interval '{s} seconds') AS within_{s}" for s in WITHIN_SECONDS
)
_CUSTOMERS = text(f"""
    SELECT count(*) AS customers, count(dirty_since) AS dirty_customers,
           count(*) - count(reconciled_at) AS never_reconciled,
           coalesce(extract(epoch FROM clock_timestamp() - min(reconciled_at)), 0)::float8 AS oldest,
           {_WITHIN}
    FROM cardsync.customers
""")


def stock(connection: Connection) -> StockFigures:
    """Count cards and customers."""
    cards = dict.fromkeys(CARD_STATUSES, 0) | {r.status: r.cards for r in connection.execute(_CARDS)}
    deletions_ = {r.status: r.deletions for r in connection.execute(_DELETIONS)}
    erasures = {r.status: r.erasures for r in connection.execute(_ERASURES)}
    row = connection.execute(_CUSTOMERS).one()
    return StockFigures(
        cards_by_status=cards,
        deletions_by_status=dict.fromkeys(requests.STATUSES, 0) | deletions_,
        open_erasures_by_status=dict.fromkeys(("pending", "blocked", "failed"), 0) | erasures,
        customers=row.customers,
        dirty_customers=row.dirty_customers,
        never_reconciled=row.never_reconciled,
        oldest_reconciliation_seconds=row.oldest,
        reconciled_within={s: getattr(row, f"within_{s}") for s in WITHIN_SECONDS},
        by_cadence=schedule.by_cadence(connection),
    )
