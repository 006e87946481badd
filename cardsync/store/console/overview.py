"""What needs a person, and how the registry does: cheap reads for the console's first page.

What needs a person is read at each view, by partial indexes, and counted up to ``COUNTED_MAX``. The figures that plots show read
a day of rows or a sample of customers, so they are read once for all viewers (``cardsync.web.cached_check``).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from sqlalchemy import Connection, text

from cardsync.core.deletion import OPEN
from cardsync.store.deletions.requests import in_phase

COUNTED_MAX: Final = 1_000  # beyond it a count says "1,000+"
HOURS: Final = 24
SAMPLE: Final = 20_000  # customers whose ages stand for all: the share of an age group is then right to one percent
FEED_MAX: Final = 100_000  # changes of the feed that are read at most for a day
# The bounds of the age groups in seconds: an hour, six hours, a day, three days, a week, four weeks.
AGES: Final = (3_600, 21_600, 86_400, 259_200, 604_800, 2_419_200)


@dataclass(frozen=True, slots=True)
class Needs:
    """Counts of what needs a person, each up to ``COUNTED_MAX``; ``oldest_hint`` is the oldest of those that wait."""

    failed_events: int
    blocked_deletions: int
    failed_deletions: int
    held_deletions: int
    late_erasures: int
    held_customers: int
    odd_customers: int
    pending_events: int
    oldest_hint: dt.datetime | None
    open_deletions: int


def _capped(what: str, order: str) -> str:
    """SQL: a count that stops. Its order is that of an index which holds nothing else: or PostgreSQL, which expects to come upon
    enough rows soon, reads a table from its beginning, and what waits is at its end."""
    return f"(SELECT count(*) FROM (SELECT FROM cardsync.{what} ORDER BY {order} LIMIT {COUNTED_MAX}) AS counted)"


_FAILED_DELETIONS: Final = "deletions WHERE phase = 'failed' AND error IS DISTINCT FROM 'cancelled'"
_LATE: Final = "erasures WHERE due_at IS NOT NULL AND status IN ('blocked', 'failed')"
_NEEDS = text(f"""
    SELECT {_capped("events WHERE status = 'failed'", "received_at")} AS failed_events,
           {_capped("deletions WHERE phase = 'blocked'", "finished_at")} AS blocked_deletions,
           {_capped(_FAILED_DELETIONS, "finished_at")} AS failed_deletions,
           {_capped("deletions WHERE due_at = 'infinity'", "requested_at, deletion_id")} AS held_deletions,
           {_capped(_LATE, "due_at")} AS late_erasures,
           {_capped("customers WHERE removals_held", "id")} AS held_customers,
           {_capped("customers WHERE list_oddities <> '{}'", "id")} AS odd_customers,
           {_capped("events WHERE status = 'pending'", "due_at")} AS pending_events,
           (SELECT min(w.received_at) FROM (
               SELECT received_at FROM cardsync.events WHERE status = 'pending' ORDER BY due_at LIMIT {COUNTED_MAX}
           ) AS w) AS oldest_hint,
           {_capped("deletions WHERE " + in_phase("deletions", *OPEN), "requested_at DESC")} AS open_deletions
""")


def needs(connection: Connection) -> Needs:
    """Read what needs a person."""
    return Needs(*connection.execute(_NEEDS).one())


@dataclass(frozen=True, slots=True)
class Hour:
    """What happened in one hour. ``calls`` is by lane."""

    began: dt.datetime
    hints: int
    lists: int
    changes: int
    calls: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Ages:
    """How long ago customers were reconciled, by a sample: a count for each of ``AGES`` and beyond, and those never looked at."""

    sampled: int
    customers: int
    groups: tuple[int, ...]
    never: int


# An expression and not the first of the hours: the planner knows how few rows of a large table are that new.
_SINCE: Final = "date_trunc('hour', statement_timestamp()) - make_interval(hours => :hours - 1)"
# A row for each hour and kind, and no join: the planner expects a row of its own for each moment of a day, and would compile for
# a second what it then joins.
_HOURS = text(f"""
    SELECT h AS hour, 'began' AS kind, 0 AS n FROM generate_series(
        date_trunc('hour', statement_timestamp()) - make_interval(hours => :hours - 1), statement_timestamp(),
        interval '1 hour'
    ) AS h
    UNION ALL
    SELECT date_trunc('hour', received_at), 'hints', count(*) FROM cardsync.events WHERE received_at >= {_SINCE} GROUP BY 1
    UNION ALL
    SELECT date_trunc('hour', asked_at), 'lists', count(*) FROM cardsync.observations WHERE asked_at >= {_SINCE} GROUP BY 1
    UNION ALL
    SELECT date_trunc('hour', at), 'changes', count(*) FROM cardsync.card_changes
    WHERE seq BETWEEN (SELECT seq FROM cardsync.feed_head) - :feed_max AND (SELECT seq FROM cardsync.feed_head)
      AND at >= {_SINCE} GROUP BY 1
    UNION ALL
    SELECT date_trunc('hour', minute), 'lane ' || lane, sum(calls)::bigint FROM cardsync.call_minutes
    WHERE minute >= {_SINCE} GROUP BY 1, 2
""")


def hours(connection: Connection) -> list[Hour]:
    """The last ``HOURS`` hours, the oldest first; the newest one is not over yet."""
    found: dict[dt.datetime, dict[str, int]] = {}
    for row in connection.execute(_HOURS, {"hours": HOURS, "feed_max": FEED_MAX}):
        found.setdefault(row.hour, {})[row.kind] = row.n
    return [_hour(began, found[began]) for began in sorted(found) if "began" in found[began]]


def _hour(began: dt.datetime, counted: Mapping[str, int]) -> Hour:
    calls = {kind.removeprefix("lane "): n for kind, n in counted.items() if kind.startswith("lane ")}
    return Hour(began, counted.get("hints", 0), counted.get("lists", 0), counted.get("changes", 0), calls)


_SIZE = text("SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'cardsync.customers'::regclass")
_GROUPS: Final = ", ".join(
    f"count(*) FILTER (WHERE reconciled_at > statement_timestamp() - interval '{s} seconds') AS within_{s}"
    for s in AGES
)
_AGES = text(f"""
    SELECT count(*) AS sampled, count(*) - count(reconciled_at) AS never, {_GROUPS}
    FROM cardsync.customers TABLESAMPLE SYSTEM (:percent)
""")


def ages(connection: Connection) -> Ages:
    """How old customers' lists are, by a sample of pages of the table: a bounded read at any size."""
    size: int = connection.execute(_SIZE).scalar_one()
    row = connection.execute(_AGES, {"percent": 100.0 if size <= SAMPLE else 100.0 * SAMPLE / size}).one()
    within = [getattr(row, f"within_{s}") for s in AGES]
    groups = [within[0], *(later - earlier for earlier, later in pairwise(within))]
    return Ages(row.sampled, max(size, row.sampled), (*groups, row.sampled - row.never - within[-1]), row.never)
