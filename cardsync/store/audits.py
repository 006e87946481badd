"""Audits: draw a random customer, and let its next list say whether the cards that were served until then were right.

**How a customer is drawn.** Every row that a snapshot sees stands in exactly one cell of the table: a page, and a place on that
page. Cells are drawn with equal chances, and cells without a customer are thrown away. If several customers are found, one of
them is taken at random. So each customer has exactly the same chance, however full or empty the pages are. Rejected:

- probing the range of ids: every notification burns an id (``customers.touch`` is an upsert), so the holes grow with traffic and
  never shrink;
- ``TABLESAMPLE SYSTEM``: it takes whole pages, and so customers who became known together;
- ``ORDER BY random()``: it reads the whole table.

A draw reads ``TRIES`` pages, for a hundred customers and for five million. On full pages one try in five is a hit.

**Who is judged.** The drawn customer is judged by its next list that is believed. Mostly that list has lane ``audit`` and is
asked for at once. A customer who was due already, or is being asked about, keeps its lane and is judged by that list. Drawing
another customer instead would leave out exactly the customers who change often. Two biases are left. A customer whose list Ottu
never gives is never judged (``Drift.waiting`` counts these). A hint that comes in the seconds between draw and list can make a
verdict worse, never better.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from cardsync.ciphers import KeyRing
from cardsync.core import drift
from cardsync.core.diff import LocalCard, Plan
from cardsync.db import Answer, Transaction
from cardsync.store import inbox, locks
from cardsync.store.customers import IN_LINE, IS_NOT_ASKED_ABOUT, Ticket

DAYS: Final = 30  # the days that the share covers: enough for thousands of audits, few enough to show a change
TRIES: Final = 64  # at a hit in ten (half-empty pages), all miss once in a thousand draws; then the next tick draws

_SINCE = text("""
    SELECT extract(epoch FROM clock_timestamp() - coalesce(
        (SELECT max(drawn_at) FROM cardsync.audits),
        (SELECT first_seen_at FROM cardsync.customers ORDER BY id LIMIT 1)
    ))::float8
""")


def seconds_since_draw(connection: Connection) -> float | None:
    """The seconds since the last draw, or since the first customer became known; ``None`` if there is no customer.

    0 if another draw is under way. Otherwise no other draw can begin until this transaction ends.
    """
    if not locks.try_lock(connection, "audit"):
        return 0.0
    since: float | None = connection.execute(_SINCE).scalar_one()
    return since


# A page of n bytes has at most (n - 24) / 28 places: PostgreSQL's own bound (MaxHeapTuplesPerPage), for rows without columns. A
# place with an old version, or with none, is a miss. The last line draws among the hits: the scan returns them in the table's
# order.
_DRAW = text("""
    WITH size AS MATERIALIZED (
        SELECT pg_relation_size('cardsync.customers') / current_setting('block_size')::int AS pages,
               (current_setting('block_size')::int - 24) / 28 AS places
    )
    SELECT id FROM cardsync.customers
    WHERE ctid = ANY(ARRAY(
        SELECT format('(%s,%s)', floor(random() * pages), 1 + floor(random() * places))::tid
        FROM size, generate_series(1, :tries) WHERE pages > 0
    ))
    ORDER BY random() LIMIT 1
""")


def draw(connection: Connection) -> int | None:
    """Draw one customer, each with the same chance; ``None`` if every try missed."""
    customer: int | None = connection.execute(_DRAW, {"tries": TRIES}).scalar_one_or_none()
    return customer


# A customer who is drawn again before being judged stays one audit: the same list would judge both.
_OPEN = text("""
    INSERT INTO cardsync.audits (customer) VALUES (:customer) ON CONFLICT (customer) WHERE verdict IS NULL DO NOTHING
""")
# As a turn of routine looks does (``store.schedule``), it takes over the look that a repeat asked for.
_ASK = text(f"""
    UPDATE cardsync.customers
    SET due_at = CASE WHEN failures > 0 THEN greatest(due_at, clock_timestamp()) ELSE clock_timestamp() END,
        lane = 'audit', rung_at = clock_timestamp()
    WHERE id = :customer AND {IN_LINE} AND {IS_NOT_ASKED_ABOUT}
""")


def begin(connection: Connection, customer: int) -> bool:
    """Let the next believed list judge this customer; make it due unless it is due or asked about, and tell whether to ring."""
    connection.execute(_OPEN, {"customer": customer})
    return connection.execute(_ASK, {"customer": customer}).rowcount == 1


_WAITING = text("""
    SELECT a.customer, a.audit_no, c.applied_no = 0 AS never_looked
    FROM cardsync.audits AS a JOIN cardsync.customers AS c ON c.id = a.customer
    WHERE a.customer = ANY(cast(:customers AS bigint[])) AND a.verdict IS NULL
""")
_JUDGE = text("""
    UPDATE cardsync.audits
    SET observation_no = :number, judged_at = clock_timestamp(), causes = :causes,
        verdict = CASE WHEN cardinality(cast(:causes AS text[])) = 0 THEN 'right' ELSE 'wrong' END
    WHERE audit_no = :audit_no
""")


@dataclass(frozen=True, slots=True)
class Waiting:
    """An audit that waits for the customer's next list; ``never_looked`` if that is the first one."""

    audit_no: int
    never_looked: bool


def waiting(connection: Transaction, customers: Sequence[int]) -> Answer[dict[int, Waiting]]:
    """The audits of those of the customers that were drawn, by customer."""
    rows = connection.execute(_WAITING, {"customers": list(customers)})
    return lambda: {customer: Waiting(*audit) for customer, *audit in rows}


def judge(
    connection: Connection,
    ticket: Ticket,
    waiting: Waiting,
    local: Sequence[LocalCard],
    plan: Plan,
    *,
    fingerprint_key: bytes,
    ring: KeyRing,
) -> None:
    """Note whether the served cards are those that Ottu lists. Call it before the plan is applied."""
    heard = inbox.open_hints(
        connection, ticket.environment, ticket.customer_id, fingerprint_key=fingerprint_key, ring=ring
    )
    causes = drift.differences(
        local,
        plan,
        on=ticket.asked_at.astimezone(dt.UTC).date(),
        heard={hint.fingerprint for hint in heard},
        never_looked=waiting.never_looked,
    )
    connection.execute(_JUDGE, {"audit_no": waiting.audit_no, "number": ticket.number, "causes": list(causes)})


@dataclass(frozen=True, slots=True)
class Drift:
    """The result of the audits of the last ``DAYS``. ``waiting`` counts customers who were drawn and not judged yet."""

    right: int
    sample: int
    waiting: int
    differences: Mapping[drift.Cause, int]  # cards, by why they differed

    @property
    def interval(self) -> drift.Interval | None:
        """The share of customers whose cards are right; ``None`` while no customer was judged."""
        return drift.wilson(self.right, self.sample)


_SUMMARY = text("""
    SELECT count(*) FILTER (WHERE verdict = 'right') AS right, count(*) AS sample,
           (SELECT count(*) FROM cardsync.audits WHERE verdict IS NULL) AS waiting
    FROM cardsync.audits WHERE judged_at > statement_timestamp() - make_interval(days => :days)
""")
_CAUSES = text("""
    SELECT cause, count(*) AS cards FROM cardsync.audits, unnest(causes) AS cause
    WHERE judged_at > statement_timestamp() - make_interval(days => :days) GROUP BY cause
""")


def summary(connection: Connection) -> Drift:
    """Read the result of the audits."""
    row = connection.execute(_SUMMARY, {"days": DAYS}).one()
    causes = {r.cause: r.cards for r in connection.execute(_CAUSES, {"days": DAYS})}
    return Drift(row.right, row.sample, row.waiting, dict.fromkeys(drift.CAUSES, 0) | causes)
