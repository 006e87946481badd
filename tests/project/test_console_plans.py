"""Every page of the console on a large database: each statement reads by an index, and a page costs at most five of them.

The pages are opened as a person opens them, with the console's own login, and every statement that one sends is run again under
EXPLAIN. A page that is added to ``benchmarks.console.paths`` is tested with it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import Engine, event

from benchmarks import big_registry
from benchmarks.console import paths
from cardsync import db
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.settings import Settings
from cardsync.store.console import operators
from cardsync.web.console import create_app
from tests.logins import ProcessLogins
from tests.web.console.conftest import Browser

CUSTOMERS: Final = 40_000
STATEMENTS_MAX: Final = 5
# Of 8 kB each: some descents of indexes, at most a thousand counted rows of each kind, a sample of customers.
PAGES_MAX: Final = 12_000
BIG: Final = {
    "customers",
    "cards",
    "events",
    "observations",
    "card_changes",
    "deletions",
    "deletion_steps",
    "deliveries",
}


@pytest.fixture(scope="module")
def big(postgres: EmbeddedPostgres, template_database: str) -> Iterator[str]:
    postgres.create_database("console_plans", template=template_database)
    url = postgres.url_for("console_plans")
    big_registry.fill(url, CUSTOMERS)
    yield url
    postgres.drop_database("console_plans")


@pytest.fixture(scope="module")
def person(
    big: str, logins: ProcessLogins, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Browser, Engine]]:
    engine = db.make_engine(logins.url("console", big), pool_size=1, statement_timeout_ms=600_000, autocommit=True)
    folder: Path = tmp_path_factory.mktemp("console")
    browser = Browser(create_app(Settings(database_url=big, data_dir=folder), engine=engine))
    owner, secret = db.make_engine(big), operators.new_secret()
    with owner.begin() as connection:
        operators.invite(connection, "Amal", "admin", secret, by="cli:test")
    owner.dispose()
    assert browser.sign_in(base64.urlsafe_b64encode(secret).decode().rstrip("=")).status_code == 200
    yield browser, engine
    engine.dispose()


@pytest.mark.parametrize("path", paths(CUSTOMERS))
def test_a_page_reads_by_indexes_alone_however_large_the_tables_are(person: tuple[Browser, Engine], path: str) -> None:
    browser, engine = person
    sent: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        sent.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        assert browser.get(path).status_code == 200
    finally:
        event.remove(engine, "before_cursor_execute", note)
    asked = [(statement, given) for statement, given in sent if statement.lstrip().startswith(("SELECT", "WITH", "("))]
    assert asked, "a page that asks nothing proves nothing"
    if (
        path != "/"
    ):  # its figures of a day are read once for all viewers; tests/web/console/test_pages.py counts the rest
        assert len(asked) <= STATEMENTS_MAX
    for statement, given in asked:
        plan = _explain(engine, statement, given)
        read = [n["Relation Name"] for n in _nodes(plan) if n["Node Type"] == "Seq Scan"]
        assert BIG.isdisjoint(read), statement
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < PAGES_MAX, statement


def _explain(engine: Engine, statement: str, given: Any) -> dict[str, Any]:
    with engine.connect() as connection:
        said = f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {statement}"
        (plan,) = connection.exec_driver_sql(said, given).scalar_one()
    found: dict[str, Any] = plan["Plan"]
    return found


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)
