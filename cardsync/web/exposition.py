"""``/metrics`` for Prometheus: the counters of all processes of this host, and gauges of the state in the database.

Gauges are read when asked for, within a bound: while the database is away the counters are still shown, with
``cardsync_database_up 0`` in the gauges' place.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from cardsync.core.allowance import SECONDS_A_DAY, sweeps_a_day
from cardsync.core.planner import of_cadences, pace
from cardsync.metrics_files import is_shared
from cardsync.settings import Settings
from cardsync.spool import Spool
from cardsync.store import audits, figures, gate, retention
from cardsync.web.probes import NoAnswer, Probe
from cardsync.web.services import Services

WAIT_SECONDS: Final = 1.0
SPOOL_KEEP_SECONDS: Final = 1.0
SPOOL_REST: Final = 20.0  # looking at 100,000 files takes some tenths of a second
QUEUES_KEEP_SECONDS: Final = 1.0
STOCK_KEEP_SECONDS: Final = 15.0  # it passes over whole tables, and changes slowly
# ... and with five million customers it takes a second or two of one of the database's processors, for each web process that
# is scraped: never more than a thirtieth of one.
STOCK_REST: Final = 30.0

Value = TypeVar("Value")


def blueprint(services: Services) -> Blueprint:
    """The route, with the registries behind it."""
    made = Blueprint("metrics", __name__)
    state = CollectorRegistry(auto_describe=False)
    state.register(_State(services.engine, services.settings))
    state.register(_Waiting(services.spool))

    @made.get("/metrics")
    def metrics() -> Response:
        text = generate_latest(_counters()) + generate_latest(state)
        return Response(text, content_type=CONTENT_TYPE_LATEST)

    return made


def _counters() -> CollectorRegistry:
    if not is_shared():
        return REGISTRY
    merged = CollectorRegistry()
    MultiProcessCollector(merged)  # type: ignore[no-untyped-call]
    return merged


class _State(Collector):
    """The gauges."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._settings = settings
        self._queues = Probe(_asking(engine, figures.queues), keep_seconds=QUEUES_KEEP_SECONDS)
        self._stock = Probe(_asking(engine, figures.stock), keep_seconds=STOCK_KEEP_SECONDS, rest=STOCK_REST)
        self._drift = Probe(_asking(engine, audits.summary), keep_seconds=STOCK_KEEP_SECONDS)
        self._ages = Probe(_asking(engine, retention.ages), keep_seconds=STOCK_KEEP_SECONDS)

    def collect(self) -> Iterator[Metric]:
        """Read what can be read in time."""
        queues = _read(self._queues)
        yield _gauge("cardsync_database_up", "Whether the database answers.", queues is not None)
        if queues is not None:
            yield from _queue_gauges(queues, self._settings.ottu_daily_calls)
            drift, ages = _read(self._drift), _read(self._ages)
            yield from () if drift is None else _drift_gauges(drift)
            yield from () if ages is None else _age_gauges(ages)
        # Counting a large registry takes longer than a scrape waits: the last count is shown while a new one is made.
        stock = None if queues is None else _read(self._stock) or self._stock.latest()
        if stock is not None:
            yield from _stock_gauges(stock)
            yield from _schedule_gauges(stock, self._settings)


class _Waiting(Collector):
    """The gauges of what waits on this host's disk, database or not."""

    def __init__(self, spool: Spool) -> None:
        self._state = Probe(spool.state, keep_seconds=SPOOL_KEEP_SECONDS, rest=SPOOL_REST)

    def collect(self) -> Iterator[Metric]:
        """Read what can be read in time."""
        with contextlib.suppress(NoAnswer, OSError):
            state = self._state.read(wait_seconds=WAIT_SECONDS)
            yield _gauge("cardsync_spool_files", "Hints that wait on disk for the database.", state.waiting)
            yield _gauge("cardsync_spool_bytes", "What the spool takes of the disk.", state.size_bytes)
            yield _gauge("cardsync_spool_oldest_seconds", "Age of the oldest hint on disk.", state.oldest_seconds)
            yield _gauge("cardsync_spool_bad_files", "Hints on disk set aside, for an operator.", state.bad)


def _asking(engine: Engine, read: Callable[[Connection], Value]) -> Callable[[], Value]:
    def ask() -> Value:
        with engine.connect() as connection:
            return read(connection)

    return ask


def _read(probe: Probe[Value]) -> Value | None:
    try:
        return probe.read(wait_seconds=WAIT_SECONDS)
    except (NoAnswer, SQLAlchemyError):
        return None


def _gauge(name: str, help_text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help_text, value=float(value))


def _gauges(name: str, help_text: str, label: str, values: Iterable[tuple[object, float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help_text, labels=[label])
    for labelled, value in values:
        family.add_metric([str(labelled)], float(value))
    return family


def _queue_gauges(queues: figures.QueueFigures, daily_calls: int) -> Iterator[Metric]:
    yield _gauge("cardsync_inbox_pending", "Hints that wait to be processed.", queues.pending_events)
    yield _gauge("cardsync_inbox_oldest_seconds", "Age of the oldest waiting hint.", queues.oldest_pending_seconds)
    yield _gauge("cardsync_inbox_failed", "Hints given up, for an operator.", queues.failed_events)
    yield _gauge("cardsync_customers_due", "Customers due to be looked at.", queues.due_customers)
    yield _gauge(
        "cardsync_customers_due_oldest_seconds",
        "For how long the longest due customer is due.",
        queues.oldest_due_seconds,
    )
    yield _gauge("cardsync_deletions_open", "Deletions that are under way.", queues.open_deletions)
    yield _gauge(
        "cardsync_deletions_oldest_seconds",
        "Age of the oldest deletion that is under way.",
        queues.oldest_deletion_seconds,
    )
    yield _gauges(
        "cardsync_ottu_calls_last_day",
        "Calls to Ottu in the last 24 hours, by lane.",
        "lane",
        queues.calls_by_lane.items(),
    )
    yield _gauge("cardsync_ottu_calls_budget", "Calls allowed in 24 hours.", daily_calls)
    because = queues.calls_paused_because
    yield _gauge("cardsync_ottu_calls_paused", "Whether all calls are paused.", because is not None)
    yield _gauges(
        "cardsync_ottu_calls_paused_because",
        "Whether all calls are paused, by reason: throttled, down, credentials.",
        "reason",
        [(reason, because == reason) for reason in gate.BECAUSE],
    )
    yield _gauge(
        "cardsync_ottu_calls_per_second_limit",
        "The pace of all calls together after a 429; infinite while nothing limits it.",
        math.inf if queues.calls_per_second is None else queues.calls_per_second,
    )
    yield _gauge(
        "cardsync_removal_brake_engaged",
        "Whether removals are stopped until an operator releases them.",
        queues.removal_brake_engaged,
    )
    yield _gauge("cardsync_feed_head", "Number of the newest card change.", queues.feed_head)


def _drift_gauges(drift: audits.Drift) -> Iterator[Metric]:
    """The share stands only where somebody was audited: a made-up one would raise or hide an alert."""
    of_days = f"of {audits.DAYS} days' audits"
    if drift.interval is not None:
        yield _gauge("cardsync_drift_right_share", f"Share of customers served right, {of_days}.", drift.interval.share)
        yield _gauge("cardsync_drift_right_share_low", "Lower bound of it (95 %, Wilson).", drift.interval.low)
        yield _gauge("cardsync_drift_right_share_high", "Upper bound of it (95 %, Wilson).", drift.interval.high)
    yield _gauge("cardsync_drift_sample", f"Customers judged, {of_days}.", drift.sample)
    yield _gauge("cardsync_drift_waiting", "Customers drawn, and not judged yet.", drift.waiting)
    yield _gauges(
        "cardsync_drift_differences",
        f"Cards served otherwise than Ottu lists them, {of_days}, by cause.",
        "cause",
        drift.differences.items(),
    )


def _age_gauges(ages: retention.Ages) -> Iterator[Metric]:
    yield _gauge("cardsync_inbox_oldest_row_seconds", "Age of the oldest notification kept.", ages.row_seconds)
    yield _gauge(
        "cardsync_inbox_oldest_content_seconds",
        "Age of the oldest settled notification that still says of whom it was.",
        ages.content_seconds,
    )


def _stock_gauges(stock: figures.StockFigures) -> Iterator[Metric]:
    yield _gauges("cardsync_cards", "Cards, by status.", "status", stock.cards_by_status.items())
    yield _gauges("cardsync_deletions", "Deletions, by status.", "status", stock.deletions_by_status.items())
    yield _gauges(
        "cardsync_erasures_open",
        "Persons to be erased who are not yet, by status.",
        "status",
        stock.open_erasures_by_status.items(),
    )
    yield _gauge("cardsync_customers", "Customers known.", stock.customers)
    yield _gauge("cardsync_customers_dirty", "Customers who may differ from Ottu.", stock.dirty_customers)
    yield _gauge("cardsync_customers_never_reconciled", "Customers never yet looked at.", stock.never_reconciled)
    yield _gauges(
        "cardsync_customers_reconciled_within",
        "Customers of whom a list no older than so many seconds is believed.",
        "seconds",
        stock.reconciled_within.items(),
    )
    yield _gauge(
        "cardsync_reconciliation_oldest_seconds",
        "Age of the oldest list that is believed of a customer.",
        stock.oldest_reconciliation_seconds,
    )


def _schedule_gauges(stock: figures.StockFigures, settings: Settings) -> Iterator[Metric]:
    yield _gauges(
        "cardsync_customers_by_cadence",
        "Customers looked at before, by cadence: one more is a rate of silent changes twice as high.",
        "cadence",
        enumerate(stock.by_cadence),
    )
    if any(stock.by_cadence):
        routine, shortest = sweeps_a_day(settings.ottu_daily_calls, 0), settings.look_again_seconds / SECONDS_A_DAY
        paced = pace(of_cadences(stock.by_cadence), routine, shortest_days=shortest)
        yield _gauges(
            "cardsync_cadence_interval_seconds",
            "The time between two routine looks that the budget allows, by cadence.",
            "cadence",
            ((cadence, days * SECONDS_A_DAY) for cadence, days in enumerate(paced.intervals_days)),
        )
