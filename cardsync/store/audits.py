"""Audits: one customer drawn at random, and what the next list believed of it says of what had been served until then.

**How a customer is drawn.** Every row that a snapshot sees stands in exactly one cell of the table: a page, and a place on it.
Cells are drawn with equal chances, those without a customer are thrown away, and of several customers found one is taken by
lot. So each customer has the same chance, exactly, whatever pages are full or empty. Rejected: probing the range of ids, since
every notification burns one (``customers.touch`` is an upsert), so that its holes grow with traffic and never shrink;
``TABLESAMPLE SYSTEM``, which takes whole pages, and with them customers who came together; ``ORDER BY random()``, which reads
everybody. A draw reads ``PROBES`` pages, with a hundred customers or with five million; of full pages one probe in five is a hit.

**Who is judged.** Whoever was drawn, by the next list that is believed: mostly that of lane ``audit``, asked for at once. A
customer who was due already, or is being asked about, keeps its lane and is judged by that list. To draw another instead would
leave out just those who change often. What bias is left: a customer of whom Ottu answers nothing is never judged
(``Drift.waiting`` counts them), and a hint that comes between draw and list, within seconds, makes a verdict worse, not better.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from cardsync.core import drift
from cardsync.core.cards import Token
from cardsync.core.diff import LocalCard, Plan
from cardsync.store.customers import Ticket

DAYS: Final = 30  # what the share is of: long enough for thousands of audits, short enough to show a change
PROBES: Final = 64  # at a hit in ten (half-empty pages), all miss once in a thousand draws; then the next tick draws
AUDIT_LOCK: Final = 0x6175646974000001  # "audit", 1

_TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(cast(:key AS bigint))")
_SINCE = text("""
    SELECT extract(epoch FROM clock_timestamp() - coalesce(
        (SELECT max(drawn_at) FROM cardsync.audits),
        (SELECT first_seen_at FROM cardsync.customers ORDER BY id LIMIT 1)
    ))::float8
""")


def seconds_since_draw(connection: Connection) -> float | None:
    """The seconds since a customer was last drawn, or since the first became known; ``None`` if there is nobody to draw.

    0 if another draw is under way; none is until this transaction ends.
    """
    if not connection.execute(_TRY_LOCK, {"key": AUDIT_LOCK}).scalar_one():
        return 0.0
    since: float | None = connection.execute(_SINCE).scalar_one()
    return since


# A page of n bytes has at most (n - 24) / 28 places: PostgreSQL's own bound (MaxHeapTuplesPerPage), for rows without columns. A
# place that holds an old version, or none, is a miss. The lot among the hits: the scan returns them in the table's order.
_DRAW = text("""
    WITH size AS MATERIALIZED (
        SELECT pg_relation_size('cardsync.customers') / current_setting('block_size')::int AS pages,
               (current_setting('block_size')::int - 24) / 28 AS places
    )
    SELECT id FROM cardsync.customers
    WHERE ctid = ANY(ARRAY(
        SELECT format('(%s,%s)', floor(random() * pages), 1 + floor(random() * places))::tid
        FROM size, generate_series(1, :probes) WHERE pages > 0
    ))
    ORDER BY random() LIMIT 1
""")


def draw(connection: Connection) -> int | None:
    """Draw one customer, each with the same chance; ``None`` if every probe missed."""
    customer: int | None = connection.execute(_DRAW, {"probes": PROBES}).scalar_one_or_none()
    return customer


# Somebody who is drawn again before being judged is one audit: it would be the same list.
_OPEN = text("""
    INSERT INTO cardsync.audits (customer) VALUES (:customer) ON CONFLICT (customer) WHERE verdict IS NULL DO NOTHING
""")
_ASK = text("""
    UPDATE cardsync.customers SET due_at = clock_timestamp(), lane = 'audit', rung_at = clock_timestamp()
    WHERE id = :customer AND due_at IS NULL
""")


def begin(connection: Connection, customer: int) -> bool:
    """Let the next believed list judge this customer; make it due unless it is. True if the caller is to ring for it."""
    connection.execute(_OPEN, {"customer": customer})
    return connection.execute(_ASK, {"customer": customer}).rowcount == 1


_WAITING = text("""
    SELECT a.audit_no, c.applied_no = 0 AS never_looked
    FROM cardsync.audits AS a JOIN cardsync.customers AS c ON c.id = a.customer
    WHERE a.customer = :customer AND a.verdict IS NULL
""")
_HEARD = text("""
    SELECT token FROM cardsync.events
    WHERE environment = :environment AND customer_id = :customer_id AND status IN ('pending', 'failed')
""")
_JUDGE = text("""
    UPDATE cardsync.audits
    SET observation_no = :number, judged_at = clock_timestamp(), causes = :causes,
        verdict = CASE WHEN cardinality(cast(:causes AS text[])) = 0 THEN 'right' ELSE 'wrong' END
    WHERE audit_no = :audit_no
""")


def judge(
    connection: Connection, ticket: Ticket, local: Sequence[LocalCard], plan: Plan, *, fingerprint_key: bytes
) -> None:
    """Note, if the customer was drawn, whether what is served is what Ottu lists; before the plan is applied."""
    waiting = connection.execute(_WAITING, {"customer": ticket.customer}).one_or_none()
    if waiting is None:
        return
    whose = {"environment": ticket.environment, "customer_id": ticket.customer_id}
    tokens = connection.execute(_HEARD, whose).scalars()
    causes = drift.differences(
        local,
        plan,
        on=ticket.asked_at.astimezone(dt.UTC).date(),
        heard={Token(one).fingerprint(fingerprint_key, ticket.environment) for one in tokens if one},
        never_looked=waiting.never_looked,
    )
    connection.execute(_JUDGE, {"audit_no": waiting.audit_no, "number": ticket.number, "causes": list(causes)})


@dataclass(frozen=True, slots=True)
class Drift:
    """What the audits of the last ``DAYS`` say; ``waiting`` were drawn and are not judged yet."""

    right: int
    sample: int
    waiting: int
    differences: Mapping[drift.Cause, int]  # cards, by why they differed

    @property
    def interval(self) -> drift.Interval | None:
        """The share of customers whose cards are right; ``None`` while nobody was judged."""
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
    """Read what the audits say."""
    row = connection.execute(_SUMMARY, {"days": DAYS}).one()
    causes = {r.cause: r.cards for r in connection.execute(_CAUSES, {"days": DAYS})}
    return Drift(row.right, row.sample, row.waiting, dict.fromkeys(drift.CAUSES, 0) | causes)
