"""Lists of the console's pages, each by a keyset: the moment, then the id. A filter reads an index, or ends at the time-out.

No list is counted as a whole, and none shows a token, a name or a number.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, TextClause, text

from cardsync.core.cards import ENVIRONMENTS
from cardsync.core.deletion import OPEN
from cardsync.core.oddities import HIDING
from cardsync.store.deletions.requests import in_phase
from cardsync.store.feed import head as newest_change

PAGE: Final = 50

Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the next page begins: after the row of this moment and id."""

    at: dt.datetime
    ref: uuid.UUID


@dataclass(frozen=True, slots=True)
class Page:
    """The rows of a page, the newest first, and where the next one begins; ``None`` at the end."""

    rows: tuple[Facts, ...]
    after: Place | None


def _read(connection: Connection, statement: TextClause, after: Place | None, **parameters: Any) -> Page:
    place = {"at": "infinity" if after is None else after.at, "ref": uuid.UUID(int=0) if after is None else after.ref}
    found = connection.execute(statement, {**place, "limit": PAGE + 1, **parameters}).mappings()
    rows = tuple(dict(row) for row in found)
    last = rows[PAGE - 1] if len(rows) > PAGE else None
    return Page(rows[:PAGE], None if last is None else Place(last["at"], last["ref"]))


_EVENT_COLUMNS: Final = """
    e.received_at AS at, e.event_id AS ref, e.status, e.kind, e.environment, e.result, e.state, e.payment_type, e.scheme,
    e.attempts, e.last_error, e.ignored_because, e.repeated, e.card_id,
    (SELECT c.id FROM cardsync.customers AS c WHERE c.environment = e.environment AND c.customer_id = e.customer_id) AS customer
"""
_BEFORE_EVENT: Final = "(e.received_at, e.event_id) < (cast(:at AS timestamptz), :ref)"
_ORDER_EVENTS: Final = "ORDER BY e.received_at DESC, e.event_id DESC LIMIT :limit"
_EVENTS = text(f"SELECT {_EVENT_COLUMNS} FROM cardsync.events AS e WHERE {_BEFORE_EVENT} {_ORDER_EVENTS}")
_EVENTS_OF: Final[Mapping[str, TextClause]] = {
    status: text(f"""
        SELECT {_EVENT_COLUMNS} FROM cardsync.events AS e
        WHERE e.status = '{status}' AND {_BEFORE_EVENT}
          AND (cast(:environment AS text) IS NULL OR e.environment = :environment)
          AND (cast(:error AS text) IS NULL OR e.last_error = :error)
        {_ORDER_EVENTS}
    """)
    for status in ("failed", "pending", "ignored", "done")
}
EVENT_STATES: Final = tuple(_EVENTS_OF)


def notifications(
    connection: Connection, *, status: str | None, environment: str | None, error: str | None, after: Place | None
) -> Page:
    """Notifications, all of them or those in one state; the other filters go with a state."""
    if status is None or status not in _EVENTS_OF:
        return _read(connection, _EVENTS, after)
    return _read(connection, _EVENTS_OF[status], after, environment=environment, error=error)


_EVENT = text(f"""
    SELECT {_EVENT_COLUMNS}, e.evidence_no, e.key_id, e.due_at, e.settled_at, e.shed_at, e.vouched, e.as_of
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
_BEFORE_DELETION: Final = "(d.requested_at, d.deletion_id) < (cast(:at AS timestamptz), :ref)"
_ORDER_DELETIONS: Final = "ORDER BY d.requested_at DESC, d.deletion_id DESC LIMIT :limit"
_DELETIONS: Final[Mapping[str, TextClause]] = {
    state: text(f"""
        SELECT {_DELETION_COLUMNS} FROM cardsync.deletions AS d WHERE {condition} AND {_BEFORE_DELETION} {_ORDER_DELETIONS}
    """)
    for state, condition in {
        "all": "true",
        "open": in_phase("d", *OPEN),
        "held": "d.due_at = 'infinity'::timestamptz",
        "blocked": "d.phase IN ('blocked', 'failed') AND d.phase = 'blocked'",
        "failed": "d.phase IN ('blocked', 'failed') AND d.phase = 'failed'",
        "done": "d.phase = 'done'",
    }.items()
}
DELETION_STATES: Final = tuple(_DELETIONS)


def deletions(connection: Connection, *, state: str, after: Place | None) -> Page:
    """Deletions in a state."""
    return _read(connection, _DELETIONS[state], after)


_DELETION = text(f"""
    SELECT {_DELETION_COLUMNS}, d.reason, d.called_at, d.said_status, d.proof_no, d.locked_by, d.tried_since, d.life,
           (SELECT e.erasure_id FROM cardsync.erasure_deletions AS e WHERE e.deletion_id = d.deletion_id LIMIT 1) AS erasure_id
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
_ERASURES: Final[Mapping[str, TextClause]] = {
    state: text(f"""
        SELECT {_ERASURE_COLUMNS} FROM cardsync.erasures AS e
        WHERE {condition} AND (e.requested_at, e.erasure_id) < (cast(:at AS timestamptz), :ref)
        ORDER BY e.requested_at DESC, e.erasure_id DESC LIMIT :limit
    """)
    for state, condition in {
        "all": "true",
        "open": "e.due_at IS NOT NULL",
        "stuck": "e.due_at IS NOT NULL AND e.status IN ('blocked', 'failed')",
        "done": "e.status = 'done'",
    }.items()
}
ERASURE_STATES: Final = tuple(_ERASURES)


def erasures(connection: Connection, *, state: str, after: Place | None) -> Page:
    """Erasures in a state, with our numbers of the person's customers in place of the merchant's id."""
    return _read(connection, _ERASURES[state], after)


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
    d.last_error
"""
_DELIVERIES: Final[Mapping[str, TextClause]] = {
    status: text(f"""
        SELECT {_DELIVERY_COLUMNS} FROM cardsync.deliveries AS d
        WHERE d.endpoint_id = (SELECT endpoint_id FROM cardsync.endpoints WHERE name = :endpoint AND status <> 'removed')
          AND d.status = '{status}' AND (d.made_at, d.event_id) < (cast(:at AS timestamptz), :ref)
        ORDER BY d.made_at DESC, d.event_id DESC LIMIT :limit
    """)
    for status in ("pending", "failed", "done")
}
DELIVERY_STATES: Final = tuple(_DELIVERIES)


def deliveries(connection: Connection, *, endpoint: str, status: str, after: Place | None) -> Page:
    """The deliveries of one endpoint in a state."""
    return _read(connection, _DELIVERIES[status], after, endpoint=endpoint)


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
