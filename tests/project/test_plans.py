"""Queries that run all the time read the heads of indexes, whatever there is behind them: EXPLAIN on a million customers.

To add a query: a row in ``QUERIES`` with its statement, its parameters and the index that must answer it; where it reads another
table, fill that in ``_fill``. A query passes if it reads no table as a whole, sorts nothing, and touches few pages.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pytest
from sqlalchemy import Engine, TextClause, text

from cardsync import db
from cardsync.core.call_budget import LANES
from cardsync.core.expiry import month_ends
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.store import brake, calendar, claims, customers, freshness, lifecycle, schedule
from cardsync.store.deliveries import batches, endpoints
from cardsync.store.ops import resyncs

CUSTOMERS: Final = 1_000_000
# A page is 8 kB: a few descents of an index and the rows they lead to, where all customers are over ten thousand pages.
PAGES_MAX: Final = 1_000
BIG_TABLES: Final = {"customers", "cards", "agreements", "card_changes"}
FILLED: Final = ("customers", "cards", "agreements", "known_agreements", "card_changes", "endpoints")
CARDS: Final = 250_000
TODAY: Final = dt.datetime.now(dt.UTC).date()

# Of a thousand customers: fifty never looked at, five due and five to be due, ten in the line although a repeat asked for a
# look, the rest looked at within a month, of all cadences, a tenth with a date; of five thousand the brake holds one. Indexes
# are made after the rows: that takes a quarter of the time.
_FILL: Final = f"""
    INSERT INTO cardsync.customers (environment, customer_id, reconciled_at, due_at, lane, cadence, look_by, removals_held)
    SELECT 'production', 'customer-' || n,
           CASE WHEN n % 20 <> 0 THEN now() - interval '5 minutes' - n * interval '2.5 seconds' END,
           CASE WHEN n % 100 = 1 THEN now() + (n % 200 - 100) * interval '1 minute' WHEN n % 100 = 5 THEN now() END,
           CASE WHEN n % 100 = 1 THEN 'hint' WHEN n % 100 = 5 THEN 'repeat' END,
           CASE WHEN n % 10 = 0 THEN n / 10 % 12 ELSE n % 2 END,
           CASE WHEN n % 10 = 3 THEN now() + (n % 1000 - 10) * interval '1 hour' END,
           n % 5000 = 7
    FROM generate_series(1, {CUSTOMERS}) AS n
"""


# Cards whose months end over five years; the calendar has told of all but one of a thousand.
_FILL_CARDS: Final = f"""
    INSERT INTO cardsync.cards (customer, fingerprint, token, status, expires_on, told_for, told_days, cause)
    SELECT o.id, sha256(o.customer_id::bytea), 'token-' || o.customer_id, 'active', last.day,
           CASE WHEN o.id % 1000 <> 9 THEN last.day END, CASE WHEN o.id % 1000 <> 9 THEN told.days END, 'test'
    FROM (SELECT * FROM cardsync.customers ORDER BY id LIMIT {CARDS}) AS o
    CROSS JOIN LATERAL (
        SELECT (date_trunc('month', now()) + make_interval(months => (o.id % 60)::int - 9) - interval '1 day')::date AS day
    ) AS last
    CROSS JOIN LATERAL (
        SELECT CASE WHEN last.day < now()::date - 1 THEN 0 WHEN last.day < now()::date + 7 THEN 7
                    WHEN last.day < now()::date + 30 THEN 30 WHEN last.day < now()::date + 61 THEN 60 END AS days
    ) AS told
"""


# One card in fifty serves an agreement, and one agreement in a hundred has no card.
_FILL_AGREEMENTS: Final = """
    INSERT INTO cardsync.known_agreements (environment, agreement_id, customer, without_card_since)
    SELECT 'production', 'agreement-' || c.customer, c.customer, CASE WHEN c.customer % 5000 = 0 THEN now() END
    FROM cardsync.cards AS c WHERE c.customer % 50 = 0;
    INSERT INTO cardsync.agreements (environment, agreement_id, card_id, since_no, card_good_until)
    SELECT 'production', 'agreement-' || c.customer, c.card_id, 1, c.expires_on
    FROM cardsync.cards AS c WHERE c.customer % 50 = 0 AND c.customer % 5000 <> 0
"""


# A change of each card, and an endpoint that has got none of them. The numbers leap, as after a restore.
BEHIND: Final = uuid.UUID(int=7)
_FILL_CHANGES: Final = f"""
    INSERT INTO cardsync.card_changes (seq, card_id, customer, change, fields, cause)
    SELECT row_number() OVER (ORDER BY customer) + 1000000, card_id, customer, 'added', '{{}}', 'hint' FROM cardsync.cards;
    UPDATE cardsync.feed_head SET seq = 1000000 + {CARDS};
    INSERT INTO cardsync.endpoints (endpoint_id, name, url, kind, secret, cursor_seq)
    VALUES ('{BEHIND}', 'behind', 'https://orders.example/', 'changes', 'encrypted', 0)
"""


@dataclass(frozen=True, slots=True)
class Query:
    """A statement, what it is asked with, and the indexes by which it must find its rows."""

    statement: TextClause
    parameters: Mapping[str, Any]
    indexes: frozenset[str]
    sorts: int = 0
    by_key: int = 0  # rows that the statement itself has chosen, fetched in the order of their pages


QUERIES: Final = {
    "heads of cadences": Query(
        schedule._CADENCE_HEADS,
        {"last_cadence": 11, "shortest_seconds": 300.0, "limit": 10},
        frozenset({"customers_line_by_cadence"}),
    ),
    "held by the brake": Query(brake._HELD, {"limit": 10}, frozenset({"customers_held"})),
    "newcomers": Query(schedule._NEWCOMERS, {"limit": 10}, frozenset({"customers_line"})),
    "dated": Query(schedule._DATED, {"limit": 10}, frozenset({"customers_line_by_date"})),
    "make due": Query(schedule._MAKE_DUE, {"customers": list(range(2, 22))}, frozenset({"customers_pkey"})),
    "claim the due": Query(
        claims._LOOKS,
        {"lanes": list(LANES), "limit": 10},
        frozenset({"customers_by_lane"}),
        sorts=1,  # the heads of the lanes
    ),
    "a page of a full resync": Query(
        resyncs._PAGE,
        {"began_at": dt.datetime.now(dt.UTC), "after": 500_000, "last_customer": CUSTOMERS, "limit": resyncs.PAGE},
        frozenset({"customers_pkey"}),
    ),
    "a reader's customer": Query(
        freshness._BY_NAME,
        {"environment": "production", "customer_id": "customer-7"},
        frozenset({"customers_identity"}),
    ),
    "cards that the calendar tells of": Query(
        calendar._TELL, {"limit": 20}, frozenset({"cards_calendar", "customers_pkey", "cards_pkey"}), by_key=1
    ),
    "a page of expiring cards": Query(
        lifecycle._EXPIRING,
        {
            "environment": "production",
            "days": month_ends(TODAY, TODAY + dt.timedelta(days=365)),
            "after": uuid.UUID(int=1 << 127),
            "limit": 10,
        },
        frozenset({"cards_expiry", "customers_pkey"}),
        sorts=1,  # the heads of at most thirteen days
    ),
    "a page of changes": Query(
        batches._CHANGES,
        {"after": 1_100_000, "last": 2**63 - 1, "limit": 100},
        frozenset({"card_changes_pkey", "customers_pkey", "feed_epochs_pkey"}),
    ),
    "a page of a consumer in SQL": Query(
        text("SELECT * FROM registry.card_changes WHERE seq > 0 ORDER BY seq LIMIT 100"),
        {},
        frozenset({"card_changes_pkey", "customers_pkey", "feed_epochs_pkey"}),
    ),
    "claim a batch of changes": Query(
        batches._CLAIM,
        {"endpoint_id": BEHIND, "batch": 100, "seconds": 30.0},
        frozenset({"card_changes_pkey", "customers_pkey"}),
    ),
    "how far endpoints are behind": Query(
        endpoints._LAGS, {}, frozenset({"card_changes_pkey", "customers_pkey", "deliveries_waiting"}), sorts=1
    ),
    "take a ticket": Query(customers._TAKE, {"customers": [201], "lease_seconds": 15.0}, frozenset({"customers_pkey"})),
    "take tickets and count their calls": Query(
        claims._TAKE_AND_COUNT,
        {"customers": list(range(1, 4_001, 200)), "hinted": [], "lease_seconds": 15.0},
        frozenset({"customers_pkey"}),
        sorts=1,  # the taken, by lane
    ),
}


@pytest.fixture(scope="module")
def million(postgres: EmbeddedPostgres, template_database: str) -> Iterator[Engine]:
    """A database with a million customers, for all tests of this file; nothing that they do is kept."""
    postgres.create_database("plans", template=template_database)
    engine = db.make_engine(postgres.url_for("plans"), statement_timeout_ms=1_800_000)
    _fill(engine)
    yield engine
    engine.dispose()
    postgres.drop_database("plans")


def _fill(engine: Engine) -> None:
    with engine.begin() as connection:
        made_later = text(
            "SELECT indexrelid::regclass AS name, pg_get_indexdef(indexrelid) AS definition FROM pg_index"
            " WHERE indrelid IN ('cardsync.customers'::regclass, 'cardsync.cards'::regclass) AND NOT indisprimary"
        )
        indexes = connection.execute(made_later).all()
        for index in indexes:
            connection.execute(text(f"DROP INDEX {index.name}"))
        for table in FILLED:  # autovacuum would come by at some time, and change figures that a plan stands on
            connection.execute(text(f"ALTER TABLE cardsync.{table} SET (autovacuum_enabled = false)"))
        connection.execute(text(_FILL))
        connection.execute(text("ALTER TABLE cardsync.cards DISABLE TRIGGER USER"))
        connection.execute(text(_FILL_CARDS))
        connection.execute(text("ALTER TABLE cardsync.cards ENABLE TRIGGER USER"))
        connection.execute(text("ALTER TABLE cardsync.agreements DISABLE TRIGGER USER"))
        for statement in _FILL_AGREEMENTS.split(";"):
            connection.execute(text(statement))
        connection.execute(text("ALTER TABLE cardsync.agreements ENABLE TRIGGER USER"))
        for statement in _FILL_CHANGES.split(";"):
            connection.execute(text(statement))
        connection.execute(text("SET LOCAL maintenance_work_mem = '256MB'"))
        for index in indexes:
            connection.execute(text(index.definition))
        connection.execute(text(f"ANALYZE {', '.join(f'cardsync.{table}' for table in FILLED)}"))


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_a_query_reads_the_head_of_its_index_among_a_million_customers(million: Engine, query: Query) -> None:
    plan = explain(million, query)
    nodes = list(_nodes(plan))
    kinds = [n["Node Type"].removeprefix("Incremental ") for n in nodes]
    slow = [kind for kind in kinds if kind in ("Sort", "Bitmap Heap Scan")]
    assert (slow.count("Sort"), slow.count("Bitmap Heap Scan")) == (query.sorts, query.by_key)
    assert [n for n in nodes if n["Node Type"] == "Seq Scan" and n["Relation Name"] in BIG_TABLES] == []
    assert {n["Index Name"] for n in nodes if "Index Name" in n} == query.indexes
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < PAGES_MAX
    assert plan["Actual Rows"] > 0, "a query that finds nothing proves nothing"


def view(statement: str | TextClause, **parameters: object) -> Query:
    return Query(text(statement) if isinstance(statement, str) else statement, parameters, frozenset())


VIEWS: Final = {
    "expiring cards": view("SELECT * FROM registry.expiring_cards WHERE environment = 'production' LIMIT 100"),
    "all agreements at risk": view("SELECT * FROM registry.agreements_at_risk"),
    "a page of agreements at risk": view(
        lifecycle._AT_RISK, environment="production", after="agreement-5000", limit=100
    ),
    "whether one agreement is at risk": view(
        "SELECT * FROM registry.agreements_at_risk WHERE environment = 'production' AND agreement_id = 'agreement-5000'"
    ),
}


@pytest.mark.parametrize("query", VIEWS.values(), ids=VIEWS)
def test_cards_that_expire_and_agreements_at_risk_are_found_by_indexes_among_a_quarter_of_a_million_cards(
    million: Engine, query: Query
) -> None:
    plan = explain(million, query)
    scanned = [n["Relation Name"] for n in _nodes(plan) if n["Node Type"] == "Seq Scan"]
    assert [name for name in scanned if name in BIG_TABLES] == [], (plan["Shared Hit Blocks"], scanned)
    assert plan["Actual Rows"] > 0, "a query that finds nothing proves nothing"


def explain(engine: Engine, query: Query) -> dict[str, Any]:
    """Run the query for its plan, and undo what it did."""
    with engine.connect() as connection:
        statement = text(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {query.statement.text}")
        (plan,) = connection.execute(statement, dict(query.parameters)).scalar_one()
        connection.rollback()
    found: dict[str, Any] = plan["Plan"]
    return found


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)
