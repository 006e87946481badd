"""Lists of the console's pages. Each combination of filters that a page offers reads an index, or looks through a bounded slice.

No list is counted as a whole, and none shows a token, a name or a number (``paging`` says what bounds a page).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, text

from cardsync.core.cards import ENVIRONMENTS
from cardsync.core.deletion import OPEN
from cardsync.core.oddities import HIDING
from cardsync.store.console.paging import PAGE, Facts, Listing, Order, Page, Place, exact, walk
from cardsync.store.deletions.requests import in_phase
from cardsync.store.feed import head as newest_change

__all__ = ["PAGE", "Facts", "Page", "Place"]

_EVENT_COLUMNS: Final = """
    e.received_at AS at, e.event_id AS ref, e.status, e.kind, e.environment, e.result, e.state, e.payment_type, e.scheme,
    e.attempts, e.due_at, e.last_error, e.ignored_because, e.repeated, e.card_id,
    (SELECT c.id FROM cardsync.customers AS c WHERE c.environment = e.environment AND c.customer_id = e.customer_id) AS customer
"""
_EVENTS: Final = "cardsync.events AS e"
_RECEIVED: Final = Order("e.received_at", "e.event_id")
# What is pending goes by when it is due: the inbox has that index for its workers, and each hint would write one by arrival.
_DUE: Final = Order("e.due_at", "e.event_id", newest_first=False)
_OF_ENVIRONMENT: Final = "e.environment = :environment"
_ALIKE: Final = "e.status = 'failed' AND e.last_error = :error AND e.environment = {environment}"
# By state, and whether an environment and an error are chosen.
_NOTIFICATIONS: Final[Mapping[tuple[str | None, bool, bool], Listing]] = {
    (None, False, False): exact(_EVENT_COLUMNS, _EVENTS, _RECEIVED, "true"),
    (None, True, False): walk(_EVENT_COLUMNS, _EVENTS, _RECEIVED, "true", _OF_ENVIRONMENT),
    ("failed", False, False): exact(_EVENT_COLUMNS, _EVENTS, _RECEIVED, "e.status = 'failed'"),
    ("failed", True, False): walk(_EVENT_COLUMNS, _EVENTS, _RECEIVED, "e.status = 'failed'", _OF_ENVIRONMENT),
    ("failed", True, True): exact(_EVENT_COLUMNS, _EVENTS, _RECEIVED, _ALIKE.format(environment=":environment")),
    ("failed", False, True): exact(
        _EVENT_COLUMNS, _EVENTS, _RECEIVED, *(_ALIKE.format(environment=f"'{one}'") for one in ENVIRONMENTS)
    ),
    ("pending", False, False): exact(_EVENT_COLUMNS, _EVENTS, _DUE, "e.status = 'pending'"),
    ("pending", True, False): walk(_EVENT_COLUMNS, _EVENTS, _DUE, "e.status = 'pending'", _OF_ENVIRONMENT),
    ("ignored", False, False): exact(_EVENT_COLUMNS, _EVENTS, _RECEIVED, "e.status = 'ignored'"),
    ("ignored", True, False): walk(_EVENT_COLUMNS, _EVENTS, _RECEIVED, "e.status = 'ignored'", _OF_ENVIRONMENT),
    ("done", False, False): walk(_EVENT_COLUMNS, _EVENTS, _RECEIVED, "true", "e.status = 'done'"),
    ("done", True, False): walk(_EVENT_COLUMNS, _EVENTS, _RECEIVED, "true", f"e.status = 'done' AND {_OF_ENVIRONMENT}"),
}
EVENT_STATES: Final = ("failed", "pending", "ignored", "done")


def notifications(
    connection: Connection, *, status: str | None, environment: str | None, error: str | None, after: Place | None
) -> Page:
    """Notifications, all of them or those in one state, of all environments or of one. An error goes with ``failed`` alone."""
    if status not in EVENT_STATES:
        status = None
    if status != "failed":
        error = None
    chosen = {name: value for name, value in (("environment", environment), ("error", error)) if value is not None}
    return _NOTIFICATIONS[status, environment is not None, error is not None].page(connection, after, **chosen)


_EVENT = text(f"""
    SELECT {_EVENT_COLUMNS}, e.evidence_no, e.key_id, e.settled_at, e.shed_at, e.vouched, e.as_of
    FROM cardsync.events AS e WHERE e.event_id = :event_id
""")
_DELIVERIES_OF = text("""
    SELECT p.name, d.status, d.attempts, d.made_at, d.finished_at, d.last_status, d.last_error
    FROM cardsync.deliveries AS d JOIN cardsync.endpoints AS p USING (endpoint_id)
    WHERE d.event_id = :event_id ORDER BY p.name
""")


@dataclass(frozen=True, slots=True)
class Notification:
    """One notification, and how it was passed on."""

    facts: Facts
    deliveries: tuple[Facts, ...]


def notification(connection: Connection, event_id: uuid.UUID) -> Notification | None:
    """One notification; ``None`` if there is no such one."""
    row = connection.execute(_EVENT, {"event_id": event_id}).mappings().one_or_none()
    if row is None:
        return None
    deliveries = connection.execute(_DELIVERIES_OF, {"event_id": event_id}).mappings()
    return Notification(dict(row), tuple(dict(one) for one in deliveries))


_DELETION_COLUMNS: Final = """
    d.requested_at AS at, d.deletion_id AS ref, d.phase, d.card_id, d.customer, d.requested_by, d.asker, d.attempts, d.error,
    d.finished_at, d.when_unlocked, d.due_at = 'infinity' AS held
"""
_DELETIONS: Final = "cardsync.deletions AS d"
_ASKED: Final = Order("d.requested_at", "d.deletion_id")
_ENDED: Final = Order("d.finished_at", "d.deletion_id")
_BY_STATE: Final[Mapping[str, Listing]] = {
    "all": exact(_DELETION_COLUMNS, _DELETIONS, _ASKED, "true"),
    "open": exact(_DELETION_COLUMNS, _DELETIONS, _ASKED, in_phase("d", *OPEN)),
    "held": exact(_DELETION_COLUMNS, _DELETIONS, _ASKED, "d.due_at = 'infinity'::timestamptz"),
    "blocked": exact(_DELETION_COLUMNS, _DELETIONS, _ENDED, "d.phase = 'blocked'"),
    "failed": exact(
        _DELETION_COLUMNS, _DELETIONS, _ENDED, "d.phase = 'failed' AND d.error IS DISTINCT FROM 'cancelled'"
    ),
    "cancelled": walk(
        _DELETION_COLUMNS,
        _DELETIONS,
        _ENDED,
        "d.phase IN ('blocked', 'failed')",
        "d.phase = 'failed' AND d.error = 'cancelled'",
    ),
    "done": walk(_DELETION_COLUMNS, _DELETIONS, _ASKED, "true", "d.phase = 'done'"),
}
DELETION_STATES: Final = tuple(_BY_STATE)


def deletions(connection: Connection, *, state: str, after: Place | None) -> Page:
    """Deletions in a state; those that ended badly go by when they ended."""
    return _BY_STATE[state].page(connection, after)


_DELETION = text(f"""
    SELECT {_DELETION_COLUMNS}, d.reason, d.called_at, d.said_status, d.proof_no, d.locked_by, d.tried_since, d.life,
           (SELECT e.erasure_id FROM cardsync.erasure_deletions AS e
            WHERE e.deletion_id BETWEEN d.deletion_id AND d.deletion_id ORDER BY e.deletion_id LIMIT 1) AS erasure_id
    FROM cardsync.deletions AS d WHERE d.deletion_id = :deletion_id
""")
_STEPS_OF: Final = """
    SELECT s.at, s.deletion_id, s.step, s.detail, c.step_no, c.hash,
           (SELECT min(l.step_no) FROM cardsync.receipt_seals AS l WHERE l.step_no >= c.step_no) AS sealed_by
    FROM cardsync.deletion_steps AS s LEFT JOIN cardsync.receipt_chain AS c USING (step_id)
    WHERE {which} ORDER BY s.step_id LIMIT 200
"""
_STEPS = text(_STEPS_OF.format(which="s.deletion_id = :deletion_id"))


@dataclass(frozen=True, slots=True)
class Deletion:
    """One deletion, and its receipt: each step with its place in the chain, its hash, and the seal that covers it."""

    facts: Facts
    steps: tuple[Facts, ...]


def deletion(connection: Connection, deletion_id: uuid.UUID) -> Deletion | None:
    """One deletion; ``None`` if there is no such one."""
    row = connection.execute(_DELETION, {"deletion_id": deletion_id}).mappings().one_or_none()
    if row is None:
        return None
    steps = connection.execute(_STEPS, {"deletion_id": deletion_id}).mappings()
    return Deletion(dict(row), tuple(dict(one) for one in steps))


# Few in a deployment: a person asks for each.
_ERASURE_COLUMNS: Final = """
    e.requested_at AS at, e.erasure_id AS ref, e.status, e.requested_by, e.reason, e.finished_at, e.error,
    (SELECT count(*) FROM cardsync.erasure_deletions AS d WHERE d.erasure_id = e.erasure_id) AS deletions,
    (SELECT c.id FROM cardsync.customers AS c WHERE c.customer_id = e.customer_id AND c.environment = 'production') AS production,
    (SELECT c.id FROM cardsync.customers AS c WHERE c.customer_id = e.customer_id AND c.environment = 'sandbox') AS sandbox
"""
_ERASURES: Final = "cardsync.erasures AS e"
_WANTED: Final = Order("e.requested_at", "e.erasure_id")
_BY_PROGRESS: Final[Mapping[str, Listing]] = {
    "all": exact(_ERASURE_COLUMNS, _ERASURES, _WANTED, "true"),
    "open": exact(_ERASURE_COLUMNS, _ERASURES, _WANTED, "e.due_at IS NOT NULL"),
    "stuck": exact(_ERASURE_COLUMNS, _ERASURES, _WANTED, "e.due_at IS NOT NULL AND e.status IN ('blocked', 'failed')"),
    "done": walk(_ERASURE_COLUMNS, _ERASURES, _WANTED, "true", "e.status = 'done'"),
}
ERASURE_STATES: Final = tuple(_BY_PROGRESS)


def erasures(connection: Connection, *, state: str, after: Place | None) -> Page:
    """Erasures in a state, with our numbers of the person's customers in place of the merchant's id."""
    return _BY_PROGRESS[state].page(connection, after)


_ERASURE = text(f"SELECT {_ERASURE_COLUMNS} FROM cardsync.erasures AS e WHERE e.erasure_id = :erasure_id")
# What ``erasures.is_proved`` asks, for each environment. What cannot be read is no proof.
_PERSON = text("""
    SELECT c.id AS customer, c.environment, c.reconciled_at,
           coalesce(c.applied_no > e.asked_no AND c.dirty_since IS NULL AND NOT c.list_oddities && cast(:hiding AS text[]), false)
               AS is_proved,
           CASE WHEN c.failures > 0 THEN c.last_error END AS error,
           (SELECT count(*) FROM (
               SELECT FROM cardsync.cards AS k WHERE k.customer = c.id AND k.status <> 'removed' LIMIT :limit
           ) AS counted) AS cards
    FROM cardsync.erasures AS e
    JOIN cardsync.customers AS c ON c.customer_id = e.customer_id AND c.environment = ANY(:environments)
    WHERE e.erasure_id = :erasure_id ORDER BY c.environment
""")
# The worst first: what needs a person must not be beyond the limit.
_DELETIONS_OF_ERASURE = text(f"""
    SELECT {_DELETION_COLUMNS}, d.proof_no
    FROM cardsync.erasure_deletions AS e JOIN cardsync.deletions AS d USING (deletion_id)
    WHERE e.erasure_id = :erasure_id
    ORDER BY d.phase NOT IN ('failed', 'blocked'), d.requested_at, d.deletion_id LIMIT :limit
""")
_STEPS_OF_ERASURE = text(
    _STEPS_OF.format(
        which="""
    s.deletion_id IN (SELECT e.deletion_id FROM cardsync.erasure_deletions AS e WHERE e.erasure_id = :erasure_id)
"""
    )
)
OF_ERASURE_MAX: Final = 200  # deletions, and cards that are counted


@dataclass(frozen=True, slots=True)
class Erasure:
    """One erasure: the person's customers and what is not proved of each, its deletions, and its receipt: all their steps."""

    facts: Facts
    person: tuple[Facts, ...]
    deletions: tuple[Facts, ...]
    steps: tuple[Facts, ...]


def erasure(connection: Connection, erasure_id: uuid.UUID) -> Erasure | None:
    """One erasure; ``None`` if there is no such one."""
    which: dict[str, Any] = {"erasure_id": erasure_id}
    row = connection.execute(_ERASURE, which).mappings().one_or_none()
    if row is None:
        return None
    of_person = {**which, "environments": list(ENVIRONMENTS), "hiding": list(HIDING), "limit": OF_ERASURE_MAX}
    person = connection.execute(_PERSON, of_person).mappings()
    deletions = connection.execute(_DELETIONS_OF_ERASURE, {**which, "limit": OF_ERASURE_MAX}).mappings()
    steps = connection.execute(_STEPS_OF_ERASURE, which).mappings()
    return Erasure(dict(row), *(tuple(dict(one) for one in found) for found in (person, deletions, steps)))


_FEED = text("""
    SELECT seq, at, card_id, customer, change, fields, cause FROM cardsync.card_changes
    WHERE seq < :before ORDER BY seq DESC LIMIT :limit
""")
NEWEST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Feed:
    """A page of the feed, the newest first, and its head."""

    head: int
    rows: tuple[Facts, ...]


def feed(connection: Connection, *, before: int | None) -> Feed:
    """The newest changes before a number."""
    head = newest_change(connection)
    rows = connection.execute(_FEED, {"before": before or NEWEST, "limit": PAGE}).mappings()
    return Feed(head, tuple(dict(row) for row in rows))


_IMPORTS = text("""
    SELECT encode(substr(content_hash, 1, 6), 'hex') AS file, line, lines, customers, new, bad, began_at, advanced_at
    FROM cardsync.imports ORDER BY began_at DESC LIMIT :limit
""")
_RESYNCS = text("""
    SELECT walk_id, began_at, began_by, expected, ended_at FROM cardsync.walks ORDER BY walk_id DESC LIMIT :limit
""")
# How many of a sample of customers were looked at since a resync began: a bounded read at any size.
_SEEN = text("""
    SELECT count(*) AS sampled, count(*) FILTER (WHERE reconciled_at >= :since) AS seen
    FROM cardsync.customers TABLESAMPLE SYSTEM (:percent)
""")
_SIZE = text("SELECT greatest(reltuples, 1)::bigint FROM pg_class WHERE oid = 'cardsync.customers'::regclass")
SAMPLE: Final = 20_000
RUNS_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Runs:
    """Imports and full resyncs; ``share_seen`` estimates how far the one under way is, 0 to 1."""

    imports: tuple[Facts, ...]
    resyncs: tuple[Facts, ...]
    share_seen: float | None


def runs(connection: Connection) -> Runs:
    """The newest imports under way, and full resyncs."""
    imports = tuple(dict(row) for row in connection.execute(_IMPORTS, {"limit": RUNS_MAX}).mappings())
    resyncs = tuple(dict(row) for row in connection.execute(_RESYNCS, {"limit": RUNS_MAX}).mappings())
    running = next((one for one in resyncs if one["ended_at"] is None), None)
    if running is None:
        return Runs(imports, resyncs, None)
    size: int = connection.execute(_SIZE).scalar_one()
    percent = min(100.0, 100.0 * SAMPLE / size)
    row = connection.execute(_SEEN, {"since": running["began_at"], "percent": percent}).one()
    return Runs(imports, resyncs, row.seen / row.sampled if row.sampled else None)


_DELIVERY_COLUMNS: Final = """
    d.made_at AS at, d.event_id AS ref, d.delivery_id, d.status, d.attempts, d.due_at, d.finished_at, d.last_status,
    d.last_error, cardsync.body_is_kept(d.event_id) AS is_kept
"""
_MADE: Final = Order("d.made_at", "d.event_id")
_OF_ENDPOINT: Final = """
    d.endpoint_id = (SELECT endpoint_id FROM cardsync.endpoints WHERE name = :endpoint AND status <> 'removed')
"""
_DELIVERIES: Final[Mapping[str, Listing]] = {
    status: exact(_DELIVERY_COLUMNS, "cardsync.deliveries AS d", _MADE, f"{_OF_ENDPOINT} AND d.status = '{status}'")
    for status in ("pending", "failed", "done")
}
DELIVERY_STATES: Final = tuple(_DELIVERIES)


def deliveries(connection: Connection, *, endpoint: str, status: str, after: Place | None) -> Page:
    """The deliveries of one endpoint in a state."""
    return _DELIVERIES[status].page(connection, after, endpoint=endpoint)


_CADENCES = text("""
    SELECT CASE WHEN reconciled_at IS NULL THEN -1 ELSE cadence END AS cadence, count(*) AS customers
    FROM cardsync.customers TABLESAMPLE SYSTEM (:percent) GROUP BY 1
""")


@dataclass(frozen=True, slots=True)
class Cadences:
    """About how many customers each cadence has (-1: never looked at), by a sample."""

    customers: int
    by_cadence: Mapping[int, float]


def cadences(connection: Connection) -> Cadences:
    """How often customers change, as ``plan`` needs it: a bounded read at any size."""
    size: int = connection.execute(_SIZE).scalar_one()
    found = connection.execute(_CADENCES, {"percent": min(100.0, 100.0 * SAMPLE / size)})
    counts = {row.cadence: row.customers for row in found}
    sampled = sum(counts.values())
    total = max(size, sampled) if sampled else 0
    factor = total / sampled if sampled else 0.0
    return Cadences(total, {cadence: number * factor for cadence, number in counts.items()})
