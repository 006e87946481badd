"""Counters and histograms of every process, for ``/metrics``, in one vocabulary.

Web, worker and beat are several processes. The multiprocess mode of prometheus-client merges them through small files in the data
directory, so that any web process shows them all. ``metrics_multiprocess.prepare`` must run before this module is imported, since
prometheus-client chooses its storage at import. Gauges of state (queue depth, cards by status) are not here: they are read from
the database on request, so every host shows the same.

No label ever holds content: only our own words.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any, Final

from cardsync.core.believe import DOUBTS
from cardsync.core.call_budget import LANES
from cardsync.core.oddities import ODDITIES
from cardsync.core.signature import SCHEMES
from cardsync.core.trouble import KINDS
from cardsync.metrics_multiprocess import is_shared, process_name

if is_shared():
    from prometheus_client import values

    values.ValueClass = values.MultiProcessValue(process_identifier=process_name)  # type: ignore[no-untyped-call]

# Imported only now, so that these classes take the storage chosen above.
from prometheus_client import Counter, Gauge, Histogram

# Buckets have an edge at each objective (docs/runbooks/README.md): an answer in 0.5 s, a reader served in 3 s, a hint believed in
# 30 s, a deletion proved in 5 minutes.


def _from_zero(metric: Any, labels: Iterable[str | tuple[str, ...]]) -> None:
    """Make the series of a fixed set of labels: one that begins with its first count hides that count from ``increase()``."""
    for values in labels:
        metric.labels(*((values,) if isinstance(values, str) else values))


HINTS: Final = Counter("cardsync_hints", "Notifications, by how they were answered.", ["outcome"])
HINT_OUTCOMES: Final = ("accepted", "duplicate", "ignored")
HINT_REFUSALS: Final = (
    "malformed",
    "unauthentic",
    "no_length",
    "too_large",
    "not_json",
    "unavailable",
    "error",
    "unknown_path",
)
_from_zero(HINTS, HINT_OUTCOMES + HINT_REFUSALS)
REPEATED_HINTS: Final = Counter(
    "cardsync_repeated_hints",
    "Notifications whose signature came in another body before; they are in cardsync_hints too.",
)
SPOOLED: Final = Counter(
    "cardsync_spooled_hints",
    "Notifications that waited on disk, by what was done: written, drained, bad (set aside for an operator), erased.",
    ["step"],
)
_from_zero(SPOOLED, ("written", "drained", "bad", "erased"))
HINT_SECONDS: Final = Histogram(
    "cardsync_hint_answer_seconds",
    "Time to answer a notification.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 15),
)
SIGNATURES: Final = Counter(
    "cardsync_signatures", "Verified notifications, by key (its place) and scheme.", ["key", "scheme"]
)
EVENTS: Final = Counter(
    "cardsync_events_processed", "Hints processed into looks that are due, by outcome.", ["outcome"]
)
_from_zero(EVENTS, ("done", "repeated", "given_up", "postponed", "failed"))
HINT_BELIEVED_SECONDS: Final = Histogram(
    "cardsync_hint_believed_seconds",
    "Time from a notification's arrival to the list that settles it being believed; of each look, its oldest notification.",
    buckets=(0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3_600, 21_600),
)
LAST_HINT: Final = Gauge(
    "cardsync_last_notification_timestamp_seconds",
    "When a process of this host last took an authentic notification (Unix time); 0 before the first.",
    multiprocess_mode="max",
)
KEY_LAST_USED: Final = Gauge(
    "cardsync_webhook_key_last_used_timestamp_seconds",
    "When a webhook key last vouched for a notification, by its place in OTTU_WEBHOOK_KEYS (Unix time).",
    ["key"],
    multiprocess_mode="max",
)
REQUEST_SECONDS: Final = Histogram(
    "cardsync_http_request_seconds",
    "Requests, their number and time, by route and status; the webhook's are cardsync_hint_answer_seconds.",
    ["route", "status"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
RECONCILIATIONS: Final = Counter(
    "cardsync_reconciliations", "Reconciliations, by lane and outcome.", ["lane", "outcome"]
)
RECONCILIATION_OUTCOMES: Final = ("unchanged", "changed", "superseded", "failed", "paused")
_from_zero(RECONCILIATIONS, [(lane, outcome) for lane in LANES for outcome in RECONCILIATION_OUTCOMES])
RECONCILIATION_SECONDS: Final = Histogram(
    "cardsync_reconciliation_seconds",
    "Time of one reconciliation, with the call.",
    ["outcome"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
_from_zero(RECONCILIATION_SECONDS, RECONCILIATION_OUTCOMES)
CALLS: Final = Counter("cardsync_ottu_calls", "Calls to Ottu, by operation and outcome.", ["operation", "outcome"])
OPERATIONS: Final = ("list", "list_agreement", "list_gateway", "delete", "inquiry")
CALL_FAILURES: Final = tuple(sorted(error.__name__ for error, by_call in KINDS.items() if by_call))
_from_zero(CALLS, [(operation, outcome) for operation in OPERATIONS for outcome in ("answered", *CALL_FAILURES)])
_from_zero(CALLS, [("inquiry", "unknown")])
CALL_SECONDS: Final = Histogram(
    "cardsync_ottu_call_seconds",
    "Time of one call to Ottu, answered or not, by operation.",
    ["operation"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20),
)
_from_zero(CALL_SECONDS, OPERATIONS)
CARD_CHANGES: Final = Counter("cardsync_card_changes", "Changes believed, by kind.", ["change"])
_from_zero(CARD_CHANGES, ("added", "returned", "updated", "removed", "expiring", "expired"))
SUSPICIOUS: Final = Counter("cardsync_suspicious_hints", "Hints that Ottu contradicts, by reason.", ["reason"])
for _reason in (
    *("not_listed", "another_customers_card", "repeated_signature"),
    *("other_environment", "not_in_payment", "unknown_payment"),
):
    SUSPICIOUS.labels(_reason)  # from zero on: a series that begins with its first count hides it from rate()
UNCONFIRMED: Final = Counter(
    "cardsync_unconfirmed_hints",
    "Hints that are not believed by themselves where Ottu offers no list, by reason.",
    ["reason"],
)
for _doubt in DOUBTS:
    UNCONFIRMED.labels(_doubt)
LIST_ODDITIES: Final = Counter(
    "cardsync_list_oddities", "Odd entries of lists that were believed all the same, by kind.", ["oddity"]
)
for _oddity in ODDITIES:
    LIST_ODDITIES.labels(_oddity)
DELETIONS: Final = Counter("cardsync_deletions_ended", "Deletions that ended, by final status.", ["status"])
for _status in ("done", "blocked", "failed"):
    DELETIONS.labels(_status)
DELETION_SECONDS: Final = Histogram(
    "cardsync_deletion_proved_seconds",
    "Time from a deletion's request, or its replay, to the list that proves it.",
    buckets=(1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3_600, 21_600, 86_400),
)
READER_SECONDS: Final = Histogram(
    "cardsync_reader_wait_seconds",
    "Time that readers with max_age waited, by how they were served.",
    ["served"],
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10),
)
for _served in ("fresh", "waited", "stale", "crowded", "cooling", "spent"):
    READER_SECONDS.labels(_served)
REMOVALS_HELD: Final = Counter("cardsync_removals_held", "Removals that the brake stopped.")
BRAKE_ENGAGED: Final = Counter("cardsync_removal_brake_trips", "How often the brake on removals was engaged.")
LOCK_WAITS: Final = Counter(
    "cardsync_lock_waits", "Times that a lock between processes could not be had for 30 seconds, by lock.", ["lock"]
)
for _lock in ("sweep", "leader"):
    LOCK_WAITS.labels(_lock)
FEED_WENT_BACK: Final = Counter(
    "cardsync_feed_went_back", "Times that a process found the feed at a lower number than it had seen before."
)
TOKEN_READS: Final = Counter(
    "cardsync_token_reads",
    "Tokens that API keys were given (`cardsync keys reads` lists them).",
)
FORGOTTEN: Final = Counter(
    "cardsync_forgotten_rows", "Rows that shed their content or went because of their age, by kind.", ["what"]
)
for _what in (
    *("given_up", "content", "hint", "observation", "audit", "strangers", "signature", "customer", "inquiry"),
    "unlisted_customer",
    *("token_read", "probation", "kept_body", "relayed", "answer", "look", "gateway"),
):
    FORGOTTEN.labels(_what)
# The names of endpoints are an operator's few words, kept to what a log may hold (``cli.endpoints``).
DELIVERIES: Final = Counter(
    "cardsync_deliveries",
    "Messages to endpoints that ended, by endpoint and outcome: delivered, failed (tried again), given_up.",
    ["endpoint", "outcome"],
)
DELIVERY_OUTCOMES: Final = ("delivered", "failed", "given_up")
RINGS: Final = Counter("cardsync_rings", "Bells rung at the broker, by outcome.", ["outcome"])
_from_zero(RINGS, ("rung", "failed", "dropped"))
# Names of pools are those of our engines: each is there from the making of its engine on.
POOL_IN_USE: Final = Gauge(
    "cardsync_database_pool_in_use",
    "Connections to the database in use, by pool.",
    ["pool"],
    multiprocess_mode="livesum",
)
POOL_WAIT_SECONDS: Final = Histogram(
    "cardsync_database_pool_wait_seconds",
    "Time until a pool gave a connection: a free one, a new one, or one that was given back.",
    ["pool"],
    buckets=(0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
PROCESSES: Final = Gauge(
    "cardsync_processes",
    "Processes that run and share this data folder, by kind and version.",
    ["kind", "version"],
    multiprocess_mode="livesum",
)
BUILD_INFO: Final = Gauge(
    "cardsync_build_info", "What is running; always 1.", ["version", "python", "revision"], multiprocess_mode="livemax"
)


def begin_keys(number: int) -> None:
    """Make the series of this many webhook keys; called once, by what takes notifications."""
    for key in map(str, range(number)):
        _from_zero(SIGNATURES, [(key, scheme) for scheme in SCHEMES])
        KEY_LAST_USED.labels(key)


def begin_endpoint(name: str) -> None:
    """Make the series of an endpoint; called again and again, by what shows how far endpoints are."""
    _from_zero(DELIVERIES, [(name, outcome) for outcome in DELIVERY_OUTCOMES])


def say_what_runs(kind: str, revision: str | None) -> None:
    """Show this process, its version, and the newest migration that it knows. Called once in each process."""
    release = version("cardsync")
    PROCESSES.labels(kind, release).set(1)
    BUILD_INFO.labels(release, platform.python_version(), revision or "none").set(1)
