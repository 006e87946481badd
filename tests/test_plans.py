"""Queries that run all the time read the heads of indexes, whatever there is behind them: EXPLAIN on a million customers.

To add a query: a row in ``QUERIES`` with its statement, its parameters and the index that must answer it; where it reads another
table, fill that in ``_fill``. A query passes if it reads no table as a whole, sorts nothing, and touches few pages.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pytest
from sqlalchemy import Engine, TextClause, text

from cardsync import db
from cardsync.dev.postgres import EmbeddedPostgres
from cardsync.store import customers, freshness, schedule, walks

CUSTOMERS: Final = 1_000_000
# A page is 8 kB: a few descents of an index and the rows they lead to, where all customers are over ten thousand pages.
PAGES_MAX: Final = 1_000
BIG_TABLES: Final = {"customers"}

# Of a thousand customers: fifty never looked at, five due and five to be due, the rest looked at within a month, of all
# cadences, a tenth with a date. Indexes are made after the rows: that takes a quarter of the time.
_FILL: Final = f"""
    INSERT INTO cardsync.customers (environment, customer_id, reconciled_at, due_at, lane, cadence, look_by)
    SELECT 'production', 'customer-' || n,
           CASE WHEN n % 20 <> 0 THEN now() - interval '5 minutes' - n * interval '2.5 seconds' END,
           CASE WHEN n % 100 = 1 THEN now() + (n % 200 - 100) * interval '1 minute' END,
           CASE WHEN n % 100 = 1 THEN 'hint' END,
           CASE WHEN n % 10 = 0 THEN n / 10 % 12 ELSE n % 2 END,
           CASE WHEN n % 10 = 3 THEN now() + (n % 1000 - 10) * interval '1 hour' END
    FROM generate_series(1, {CUSTOMERS}) AS n
"""


@dataclass(frozen=True, slots=True)
class Query:
    """A statement, what it is asked with, and the indexes by which it must find its rows."""

    statement: TextClause
    parameters: Mapping[str, Any]
    indexes: frozenset[str]


QUERIES: Final = {
    "heads of cadences": Query(
        schedule._CADENCE_HEADS,
        {"last_cadence": 11, "shortest_seconds": 300.0, "limit": 10},
        frozenset({"customers_cadence"}),
    ),
    "newcomers": Query(schedule._NEWCOMERS, {"limit": 10}, frozenset({"customers_stalest"})),
    "dated": Query(schedule._DATED, {"limit": 10}, frozenset({"customers_look_by"})),
    "make due": Query(schedule._MAKE_DUE, {"customers": list(range(2, 22))}, frozenset({"customers_pkey"})),
    "ring for the due": Query(
        customers._DUE, {"again_seconds": 10.0, "limit": 10}, frozenset({"customers_due", "customers_pkey"})
    ),
    "a page of a walk": Query(
        walks._PAGE,
        {"began_at": dt.datetime.now(dt.UTC), "after": 500_000, "last_customer": CUSTOMERS, "limit": walks.PAGE},
        frozenset({"customers_pkey"}),
    ),
    "a reader's customer": Query(
        freshness._BY_NAME,
        {"environment": "production", "customer_id": "customer-7"},
        frozenset({"customers_identity"}),
    ),
    "take a ticket": Query(customers._TAKE, {"customer": 201, "lease_seconds": 15.0}, frozenset({"customers_pkey"})),
}


@pytest.fixture(scope="module")
def million(postgres: EmbeddedPostgres, template_database: str) -> Iterator[Engine]:
    """A database with a million customers, for all tests of this file; nothing that they do is kept."""
    postgres.create_database("plans", template=template_database)
    engine = db.make_engine(postgres.url_for("plans"), statement_timeout_ms=120_000)
    _fill(engine)
    yield engine
    engine.dispose()
    postgres.drop_database("plans")


def _fill(engine: Engine) -> None:
    with engine.begin() as connection:
        made_later = text(
            "SELECT indexrelid::regclass AS name, pg_get_indexdef(indexrelid) AS definition FROM pg_index"
            " WHERE indrelid = 'cardsync.customers'::regclass AND NOT indisprimary"
        )
        indexes = connection.execute(made_later).all()
        for index in indexes:
            connection.execute(text(f"DROP INDEX {index.name}"))
        connection.execute(text(_FILL))
        connection.execute(text("SET LOCAL maintenance_work_mem = '256MB'"))
        for index in indexes:
            connection.execute(text(index.definition))
        connection.execute(text("ANALYZE cardsync.customers"))


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_a_query_reads_the_head_of_its_index_among_a_million_customers(million: Engine, query: Query) -> None:
    plan = explain(million, query)
    nodes = list(_nodes(plan))
    assert [n["Node Type"] for n in nodes if n["Node Type"] in ("Sort", "Incremental Sort", "Bitmap Heap Scan")] == []
    assert [n for n in nodes if n["Node Type"] == "Seq Scan" and n["Relation Name"] in BIG_TABLES] == []
    assert {n["Index Name"] for n in nodes if "Index Name" in n} == query.indexes
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < PAGES_MAX
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
