"""What is counted, for ``/metrics``: counters and histograms of every process, in one vocabulary.

Web, worker and beat are several processes: prometheus-client's multiprocess mode merges them through small
files in the data directory, so that any web process shows them all. ``metrics_files.prepare`` runs before
this module is imported, since prometheus-client chooses its storage at import. Gauges of state (queue depth,
cards by status) are not here: they are read from the database when asked for, and are right whichever host
answers.

No label ever holds content: only our own words.
"""

from __future__ import annotations

from typing import Final

from cardsync.metrics_files import is_shared, process_name

if is_shared():
    from prometheus_client import values

    values.ValueClass = values.MultiProcessValue(process_identifier=process_name)  # type: ignore[no-untyped-call]

# Only now: what is imported here takes the storage chosen above.
from prometheus_client import Counter, Histogram

HINTS: Final = Counter("cardsync_hints", "Notifications, by how they were answered.", ["outcome"])
SPOOLED: Final = Counter(
    "cardsync_spooled_hints",
    "Notifications that waited on disk, by what was done: written, drained, bad (set aside for an operator).",
    ["step"],
)
HINT_SECONDS: Final = Histogram(
    "cardsync_hint_answer_seconds",
    "Time to answer a notification.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 15),
)
SIGNATURES: Final = Counter(
    "cardsync_signatures", "Verified notifications, by key (its place) and scheme.", ["key", "scheme"]
)
EVENTS: Final = Counter(
    "cardsync_events_processed", "Hints folded into what is to be looked at, by outcome.", ["outcome"]
)
RECONCILIATIONS: Final = Counter(
    "cardsync_reconciliations", "Reconciliations, by lane and outcome.", ["lane", "outcome"]
)
RECONCILIATION_SECONDS: Final = Histogram(
    "cardsync_reconciliation_seconds",
    "Time of one reconciliation, with the call.",
    ["outcome"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
CALLS: Final = Counter("cardsync_ottu_calls", "Calls to Ottu, by operation and outcome.", ["operation", "outcome"])
CARD_CHANGES: Final = Counter("cardsync_card_changes", "Changes believed, by kind.", ["change"])
SUSPICIOUS: Final = Counter("cardsync_suspicious_hints", "Hints that Ottu's list contradicts, by reason.", ["reason"])
for _reason in ("not_listed", "another_customers_card", "repeated_signature"):
    SUSPICIOUS.labels(_reason)  # from zero on: a series that begins with its first count hides it from rate()
DELETIONS: Final = Counter("cardsync_deletions_ended", "Deletions that came to an end, by which.", ["status"])
for _status in ("done", "blocked", "failed"):
    DELETIONS.labels(_status)
READER_SECONDS: Final = Histogram(
    "cardsync_reader_wait_seconds",
    "Time that readers with max_age were held up, by how they were served.",
    ["served"],
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10),
)
for _served in ("fresh", "waited", "stale", "crowded"):
    READER_SECONDS.labels(_served)
REMOVALS_HELD: Final = Counter("cardsync_removals_held", "Removals that the brake stopped.")
FORGOTTEN: Final = Counter(
    "cardsync_forgotten_rows", "Rows that shed their content or went because of their age, by kind.", ["what"]
)
for _what in ("given_up", "content", "hint", "observation", "audit", "signature"):
    FORGOTTEN.labels(_what)
RINGS: Final = Counter("cardsync_rings", "Bells rung at the broker, by outcome.", ["outcome"])
