"""Every page of the console on a large database: each statement reads by an index, and a page costs at most five of them.

The pages are opened as a person opens them, with the console's own login, and every statement that one sends is run again under
EXPLAIN. A page that is added to ``benchmarks.console.paths`` is tested with it. So is every combination of filters, on a usual
database and on a lopsided one, where some combinations have no row and the rows beside them are many: there no statement looks
through more rows than a page may.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import pytest
from sqlalchemy import Engine, event

from benchmarks import big_registry
from benchmarks.console import paths
from cardsync import db
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.settings import Settings
from cardsync.store.console import operators, paging
from cardsync.web.console import create_app, regions
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
    "receipt_chain",
    "erasure_deletions",
}
OLDER: Final = re.compile(r'<a class="button plain" href="([^"]+)">(?:Older|More)</a>')
FILTERS: Final = re.compile(r'<ul class="filters">.*?</ul>', re.DOTALL)
LINK: Final = re.compile(r'href="([^"]+)"')
# Rows that one step of a plan may look through: a page's slice, and the place where it begins; else a sample of customers. The
# lopsided database has 30,000 of what is not asked for.
OF_A_LIST_MAX: Final = paging.LOOKED_AT_MAX + paging.PAGE
ROWS_MAX: Final = 25_000


@pytest.fixture(scope="module", params=["usual", "lopsided"])
def big(request: pytest.FixtureRequest, postgres: EmbeddedPostgres, template_database: str) -> Iterator[str]:
    name = f"console_plans_{request.param}"
    postgres.create_database(name, template=template_database)
    url = postgres.url_for(name)
    big_registry.fill(url, CUSTOMERS)
    if request.param == "lopsided":
        big_registry.make_lopsided(url, CUSTOMERS)
    yield url
    postgres.drop_database(name)


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
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(regions, "WAIT_SECONDS", 60.0)  # or what is read in the background would not be seen
        assert browser.sign_in(base64.urlsafe_b64encode(secret).decode().rstrip("=")).status_code == 200
        yield browser, engine
    engine.dispose()


@pytest.mark.parametrize("path", paths(CUSTOMERS))
def test_a_page_reads_by_indexes_alone_however_large_the_tables_are(person: tuple[Browser, Engine], path: str) -> None:
    # The figures of a day on the first page are read once for all viewers; tests/web/console/test_pages.py counts the rest.
    _opened(person, path, most=None if path == "/" else STATEMENTS_MAX)


@pytest.mark.parametrize(
    "path",
    [
        "/customers/102",
        *("/notifications", "/notifications?status=failed", "/notifications?status=failed&environment=production"),
        *("/notifications?status=failed&error=UnusableCard: too long", "/deletions?state=all", "/erasures"),
        *("/erasures?state=done", "/feed", "/operations", "/audit"),
    ],
)
def test_an_older_page_reads_by_indexes_too(person: tuple[Browser, Engine], path: str) -> None:
    _turn_pages(person, path)


@pytest.mark.parametrize("big", ["lopsided"], indirect=True)
@pytest.mark.parametrize(
    "path",
    [
        *(
            "/notifications?status=done",
            "/notifications?status=pending",
            "/notifications?status=ignored&environment=sandbox",
        ),
        *("/notifications?status=failed&environment=sandbox", "/deletions?state=done", "/deletions?state=held"),
        *("/deletions?state=blocked", "/deletions?state=cancelled", "/deletions?state=open"),
        *("/deliveries?name=shop&status=failed", "/deliveries?name=shop&status=pending"),
    ],
)
def test_an_older_page_of_what_failed_or_waits_reads_by_indexes_too(person: tuple[Browser, Engine], path: str) -> None:
    _turn_pages(person, path)


def _turn_pages(person: tuple[Browser, Engine], path: str) -> None:
    for _ in range(3):
        page = _opened(person, path, most=STATEMENTS_MAX)
        if (older := OLDER.search(page)) is None:
            break
        path = html.unescape(older[1])
    assert "after=" in path or "before=" in path or path == "/customers/102", "there was no older page"


def test_every_filter_that_a_page_offers_is_looked_at(person: tuple[Browser, Engine]) -> None:
    known = {_chosen(path) for path in paths(CUSTOMERS)}
    lists = {path for path in paths(CUSTOMERS) if FILTERS.search(person[0].get(path).text)}
    offered = {
        html.unescape(link)
        for path in lists
        for part in FILTERS.findall(person[0].get(path).text)
        for link in LINK.findall(part)
    }
    assert len(offered) > 20
    assert {path for path in offered if _chosen(path) not in known} == set()


def _chosen(path: str) -> tuple[str, frozenset[tuple[str, str]]]:
    address = urlsplit(path)
    return address.path, frozenset(parse_qsl(address.query))


def test_the_page_of_an_operation_reads_by_indexes(person: tuple[Browser, Engine]) -> None:
    found = re.search(r'href="(/operations/[0-9a-f-]{36})"', person[0].get("/operations").text)
    assert found is not None
    _opened(person, found[1], most=STATEMENTS_MAX)


def test_the_page_of_an_erasure_reads_by_indexes(person: tuple[Browser, Engine]) -> None:
    found = re.search(r'href="(/erasures/[0-9a-f-]{36})"', person[0].get("/erasures").text)
    assert found is not None
    _opened(person, found[1], most=STATEMENTS_MAX)


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


NEW: Final = 3 * CUSTOMERS  # a notification that has its ids still
SAID: Final = {
    "customer": "customer-102",
    "card": str(uuid.UUID(_md5("card-203"))),
    "notification": str(uuid.UUID(_md5(f"event-{NEW}"))),
    "deletion": str(uuid.UUID(_md5("deletion-101"))),
    "session": f"{_md5(str(NEW))}-{NEW}",
    "reference": f"reference-{NEW}",
    "agreement": "agreement-7",
}


@pytest.mark.parametrize("kind", [*SAID, "nothing"])
def test_finding_reads_by_indexes_alone(person: tuple[Browser, Engine], kind: str) -> None:
    browser, engine = person
    browser.get("/find")
    with _asked(engine) as asked:
        answer = browser.post("/find", said=SAID.get(kind, "nobody-has-this-id"))
    assert (answer.status_code == 303 or "Nothing has this id." not in answer.text) == (kind in SAID)
    _require_indexes(engine, asked, most=STATEMENTS_MAX)


def _opened(person: tuple[Browser, Engine], path: str, *, most: int | None) -> str:
    """Open a page, and look at the plan of each statement that it cost; the page."""
    browser, engine = person
    with _asked(engine) as asked:
        answer = browser.get(path)
    assert answer.status_code == 200
    is_list = urlsplit(path).path in ("/notifications", "/deletions", "/erasures", "/deliveries", "/customers/odd")
    _require_indexes(engine, asked, most=most, rows_max=OF_A_LIST_MAX if is_list else ROWS_MAX)
    return answer.text


@contextlib.contextmanager
def _asked(engine: Engine) -> Iterator[list[tuple[str, Any]]]:
    """The questions that are asked meanwhile, with what was given to them."""
    asked: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if statement.lstrip().startswith(("SELECT", "WITH", "(")):
            asked.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(engine, "before_cursor_execute", note)


def _require_indexes(
    engine: Engine, asked: list[tuple[str, Any]], *, most: int | None, rows_max: int = ROWS_MAX
) -> None:
    assert asked, "what asks nothing proves nothing"
    assert most is None or len(asked) <= most
    for statement, given in asked:
        plan = _explain(engine, statement, given)
        read = [n["Relation Name"] for n in _nodes(plan) if n["Node Type"] == "Seq Scan"]
        assert BIG.isdisjoint(read), statement
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < PAGES_MAX, statement
        assert max(map(_looked_at, _nodes(plan))) <= rows_max, statement


def _explain(engine: Engine, statement: str, given: Any) -> dict[str, Any]:
    with engine.connect() as connection:
        said = f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {statement}"
        (plan,) = connection.exec_driver_sql(said, given).scalar_one()
    found: dict[str, Any] = plan["Plan"]
    return found


def _looked_at(node: dict[str, Any]) -> int:
    """The rows that a step of a plan looked at: those that it passed on, and those that it left out."""
    passed_over = sum(node.get(f"Rows Removed by {why}", 0) for why in ("Filter", "Index Recheck"))
    found: int = (node["Actual Rows"] + passed_over) * node["Actual Loops"] if "Scan" in node["Node Type"] else 0
    return found


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)
