"""``/metrics`` for Prometheus: the counters of all processes of this host, and gauges of the state in the database.

Gauges are read on request, within a bound. While the database is away the counters are still shown, with
``cardsync_database_up 0`` in place of the gauges.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final, TypeVar
from zoneinfo import ZoneInfo

from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from cardsync import db
from cardsync import metrics as counters
from cardsync.core.call_budget import LANES, SECONDS_A_DAY, sweeps_a_day
from cardsync.core.planner import intervals_for, of_cadences
from cardsync.metrics_multiprocess import folder, forget_ended, is_shared, taking_turns
from cardsync.settings import Settings
from cardsync.spool import Spool
from cardsync.store import audits, retention
from cardsync.store.calls import gate
from cardsync.store.deliveries import endpoints
from cardsync.store.ops import gauges
from cardsync.web.cached_check import CachedCheck, NoAnswer

WAIT_SECONDS: Final = 1.0
SPOOL_KEEP_SECONDS: Final = 1.0
SPOOL_REST: Final = 20.0  # looking at 100,000 files takes some tenths of a second
QUEUES_KEEP_SECONDS: Final = 1.0
STOCK_KEEP_SECONDS: Final = 15.0  # counting reads whole tables, and the counts change slowly
# With five million customers a count takes one of the database's processors for a second or two, for each web process that is
# scraped. Resting this many times as long keeps it below a thirtieth of a processor.
STOCK_REST: Final = 30.0

Value = TypeVar("Value")


def blueprint(engine: Engine, settings: Settings, spool: Spool | None = None) -> Blueprint:
    """The route, with the registries behind it; ``spool`` is that of a process that takes notifications."""
    made = Blueprint("metrics", __name__)
    state = CollectorRegistry(auto_describe=False)
    state.register(_State(engine, settings))
    if spool is not None:
        state.register(_Waiting(spool))

    @made.get("/metrics")
    def metrics() -> Response:
        text = _counters() + generate_latest(state)
        return Response(text, content_type=CONTENT_TYPE_LATEST)

    return made


def _counters() -> bytes:
    if not is_shared():
        return generate_latest(REGISTRY)
    forget_ended(folder())
    merged = CollectorRegistry()
    MultiProcessCollector(merged)  # type: ignore[no-untyped-call]
    with taking_turns(folder()):
        return generate_latest(merged)


class _State(Collector):
    """The gauges."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._settings = settings
        self._queues = CachedCheck(_asking(engine, gauges.queues), keep_seconds=QUEUES_KEEP_SECONDS)
        self._stock = CachedCheck(_asking(engine, gauges.stock), keep_seconds=STOCK_KEEP_SECONDS, rest=STOCK_REST)
        self._drift = CachedCheck(_asking(engine, audits.summary), keep_seconds=STOCK_KEEP_SECONDS)
        self._lags = CachedCheck(_asking(engine, endpoints.lags), keep_seconds=QUEUES_KEEP_SECONDS)
        self._ages = CachedCheck(_asking(engine, retention.ages), keep_seconds=STOCK_KEEP_SECONDS)

    def collect(self) -> Iterator[Metric]:
        """Read what can be read in time."""
        expires_on = self._settings.ottu_api_key_expires_on
        if expires_on is not None:
            today = dt.datetime.now(ZoneInfo(self._settings.time_zone)).date()
            days = (expires_on - today).days
            yield _gauge("cardsync_ottu_key_expires_in_days", "Days until the last day of OTTU_API_KEY.", days)
        queues = _read(self._queues)
        yield _gauge("cardsync_database_up", "Whether the database answers.", queues is not None)
        if queues is not None:
            yield from _queue_gauges(queues, self._settings.ottu_daily_calls)
            yield from _endpoint_gauges(_read(self._lags) or [])
            drift, ages = _read(self._drift), _read(self._ages)
            yield from () if drift is None else _drift_gauges(drift)
            yield from () if ages is None else _age_gauges(ages)
        # Counting a large registry takes longer than a scrape waits: the last count is shown while a new one is made.
        stock = None if queues is None else _read(self._stock) or _last(self._stock)
        if stock is not None:
            yield from _stock_gauges(stock)
            yield from _schedule_gauges(stock, self._settings)


class _Waiting(Collector):
    """The gauges of what waits on this host's disk, database or not."""

    def __init__(self, spool: Spool) -> None:
        self._state = CachedCheck(spool.state, keep_seconds=SPOOL_KEEP_SECONDS, rest=SPOOL_REST)

    def collect(self) -> Iterator[Metric]:
        """Read what can be read in time."""
        with contextlib.suppress(NoAnswer, OSError):
            state = self._state.read(wait_seconds=WAIT_SECONDS)
            yield _gauge("cardsync_spool_files", "Hints that wait on disk for the database.", state.waiting)
            yield _gauge("cardsync_spool_bytes", "What the spool takes of the disk.", state.size_bytes)
            yield _gauge("cardsync_spool_oldest_seconds", "Age of the oldest hint on disk.", state.oldest_seconds)
            yield _gauge("cardsync_spool_bad_files", "Hints on disk set aside, for an operator.", state.bad)
            yield _gauge(
                "cardsync_spool_usage_ratio",
                "How much of CARDSYNC_SPOOL_MAX_FILES or CARDSYNC_SPOOL_MAX_BYTES is taken, whichever is more; 0 to 1.",
                state.usage,
            )


def _asking(engine: Engine, read: Callable[[Connection], Value]) -> Callable[[], Value]:
    def ask() -> Value:
        with engine.connect() as connection:
            return read(connection)

    return partial(db.once_more_if_the_connection_was_dead, ask)


def _read(check: CachedCheck[Value]) -> Value | None:
    try:
        return check.read(wait_seconds=WAIT_SECONDS)
    except (NoAnswer, SQLAlchemyError):
        return None


def _last(check: CachedCheck[Value]) -> Value | None:
    latest = check.latest()
    return None if latest is None else latest.value


def _gauge(name: str, help_text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help_text, value=float(value))


def _gauges(name: str, help_text: str, label: str, values: Iterable[tuple[object, float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help_text, labels=[label])
    for labelled, value in values:
        family.add_metric([str(labelled)], float(value))
    return family


def _queue_gauges(queues: gauges.QueueFigures, daily_calls: int) -> Iterator[Metric]:
    yield _gauge("cardsync_inbox_pending", "Hints that wait to be processed.", queues.pending_events)
    yield _gauge("cardsync_inbox_oldest_seconds", "Age of the oldest waiting hint.", queues.oldest_pending_seconds)
    yield _gauge("cardsync_inbox_failed", "Hints given up, for an operator.", queues.failed_events)
    yield _gauge("cardsync_customers_due", "Customers due to be looked at.", queues.due_customers)
    yield _gauge(
        "cardsync_customers_due_oldest_seconds",
        "How long the most overdue customer has waited.",
        queues.oldest_due_seconds,
    )
    yield _gauge("cardsync_deletions_open", "Deletions that are under way.", queues.open_deletions)
    yield _gauge(
        "cardsync_deletions_oldest_seconds",
        "Age of the oldest deletion that is under way.",
        queues.oldest_deletion_seconds,
    )
    yield _gauge("cardsync_deletions_held", "Deletions that the brake on requests holds.", queues.held_deletions)
    yield _gauges(
        "cardsync_ottu_calls_last_day",
        "Calls to Ottu in the last 24 hours, by lane.",
        "lane",
        [(lane, queues.calls_by_lane.get(lane, 0)) for lane in LANES],
    )
    yield _gauge("cardsync_ottu_calls_budget", "Calls allowed in 24 hours.", daily_calls)
    because = queues.calls_paused_because
    yield _gauge("cardsync_ottu_calls_paused", "Whether all calls are paused.", because is not None)
    yield _gauges(
        "cardsync_ottu_calls_paused_because",
        "Whether all calls are paused, by reason: throttled, down, credentials, operator.",
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
    yield _gauge(
        "cardsync_notification_queue_usage",
        "How full PostgreSQL's queue of notifications is, 0 to 1; from 0.5 on no bell is rung.",
        queues.notification_queue_usage,
    )
    yield _gauge("cardsync_feed_head", "Number of the newest card change.", queues.feed_head)
    yield _gauge(
        "cardsync_last_sweep_seconds",
        "Time since the last sweep, which a beat rings for each second; -1 if none ever ran.",
        queues.last_sweep_seconds,
    )
    yield _gauge(
        "cardsync_last_notification_seconds",
        "Time since the newest notification of any host; -1 if none is kept.",
        queues.last_notification_seconds,
    )


def _endpoint_gauges(lags: list[endpoints.Lag]) -> Iterator[Metric]:
    """A series for each endpoint that an operator has; none where there is none."""
    for one in lags:
        counters.begin_endpoint(one.name)
    kinds = (
        (
            "cardsync_endpoint_oldest_pending_seconds",
            "Age of the oldest notification or change that waits for the endpoint.",
            [(one.name, one.oldest_pending_seconds) for one in lags],
        ),
        (
            "cardsync_endpoint_changes_behind",
            "Changes of the feed that the endpoint does not have yet.",
            [(one.name, float(one.behind)) for one in lags if one.behind is not None],
        ),
        (
            "cardsync_endpoint_enabled",
            "Whether the endpoint is enabled.",
            [(one.name, float(one.is_enabled)) for one in lags],
        ),
        (
            "cardsync_endpoint_circuit_open",
            "Whether the endpoint fails so that one message at a time is tried.",
            [(one.name, float(one.is_circuit_open)) for one in lags],
        ),
    )
    for name, help_text, values in kinds:
        if values:
            yield _gauges(name, help_text, "endpoint", values)


def _drift_gauges(drift: audits.Drift) -> Iterator[Metric]:
    """The share is there only if a customer was audited: an invented share would raise or hide an alert."""
    of_days = f"of {audits.DAYS} days' audits"
    if drift.interval is not None:
        yield _gauge("cardsync_drift_right_share", f"Share of customers served right, {of_days}.", drift.interval.share)
        yield _gauge("cardsync_drift_right_share_low", "Lower bound of it (95 %, Wilson).", drift.interval.low)
        yield _gauge("cardsync_drift_right_share_high", "Upper bound of it (95 %, Wilson).", drift.interval.high)
    yield _gauge("cardsync_drift_sample", f"Customers judged, {of_days}.", drift.sample)
    yield _gauge("cardsync_drift_waiting", "Customers drawn, and not judged yet.", drift.waiting)
    yield _gauges(
        "cardsync_drift_differences",
        f"Cards served differently from Ottu's list, {of_days}, by cause.",
        "cause",
        drift.differences.items(),
    )


def _age_gauges(ages: retention.Ages) -> Iterator[Metric]:
    yield _gauge("cardsync_inbox_oldest_row_seconds", "Age of the oldest notification kept.", ages.row_seconds)
    yield _gauge(
        "cardsync_inbox_oldest_content_seconds",
        "Age of the oldest settled notification that still names its customer.",
        ages.content_seconds,
    )


def _stock_gauges(stock: gauges.StockFigures) -> Iterator[Metric]:
    yield _gauges("cardsync_cards", "Cards, by status.", "status", stock.cards_by_status.items())
    yield _gauges("cardsync_deletions", "Deletions, by status.", "status", stock.deletions_by_status.items())
    yield _gauges(
        "cardsync_erasures_open",
        "Erasures that are not done yet, by status.",
        "status",
        stock.open_erasures_by_status.items(),
    )
    yield _gauge("cardsync_customers", "Customers known.", stock.customers)
    yield _gauge("cardsync_customers_dirty", "Customers who may differ from Ottu.", stock.dirty_customers)
    yield _gauge("cardsync_customers_never_reconciled", "Customers who were never looked at.", stock.never_reconciled)
    yield _gauges(
        "cardsync_customers_reconciled_within",
        "Customers whose believed list is at most this many seconds old.",
        "seconds",
        stock.reconciled_within.items(),
    )
    yield _gauge(
        "cardsync_reconciliation_oldest_seconds",
        "Age of the oldest believed list of any customer.",
        stock.oldest_reconciliation_seconds,
    )


def _schedule_gauges(stock: gauges.StockFigures, settings: Settings) -> Iterator[Metric]:
    yield _gauges(
        "cardsync_customers_by_cadence",
        "Customers looked at before, by cadence: one more is a rate of silent changes twice as high.",
        "cadence",
        enumerate(stock.by_cadence),
    )
    if any(stock.by_cadence):
        routine, shortest = sweeps_a_day(settings.ottu_daily_calls, 0), settings.look_again_seconds / SECONDS_A_DAY
        intervals = intervals_for(of_cadences(stock.by_cadence), routine, shortest_days=shortest)
        yield _gauges(
            "cardsync_cadence_interval_seconds",
            "The time between two routine looks that the budget allows, by cadence.",
            "cadence",
            ((cadence, days * SECONDS_A_DAY) for cadence, days in enumerate(intervals.intervals_days)),
        )
