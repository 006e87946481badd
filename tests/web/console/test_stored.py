"""Texts that are stored in English are shown in the viewer's language: the one table has each that the code can write."""

from __future__ import annotations

import ast
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from flask import g
from sqlalchemy import text

from cardsync.core import delivery, events, oddities
from cardsync.core.deletion import HELD_SINCE_RESTORE
from cardsync.core.trouble import TABLE as TROUBLES
from cardsync.store.calls import gate
from cardsync.store.console import sessions
from cardsync.store.deletions import requests
from cardsync.store.deliveries import claims
from cardsync.stories import carry_out, reconcile
from cardsync.web.console import shown, stored
from cardsync.web.console.preferences import Preferences
from tests.factories import CustomerFactory, EventFactory, make_card

CARDSYNC = Path(__file__).parents[3] / "cardsync"
# What a call to Ottu, or one that was not made, ends with: ``errors.named`` writes these with rows.
ENDS = {
    *("InvalidAnswer", "OttuUnavailable", "OttuThrottled", "OttuFault", "OttuRejected", "CredentialsRefused"),
    *("UnreadableAnswer", "CallsPaused", "BudgetSpent"),
}
REFUSALS = {"Refused", "Conflict", "NotFound"}
# What operations call, which write their refusal with the operation.
OF_OPERATIONS = (
    "store/deliveries/endpoints.py",
    "stories/endpoints.py",
    "stories/carry_out.py",
    "outgoing/addresses.py",
)
RAISED = re.compile(r"RAISE EXCEPTION '([^'%]*)' USING ERRCODE = '(?:CC023|CC409)'")
# Facts of the timeline's entries that it does not show.
NOT_SHOWN = {"calls", "detail", "event_id", "repeated", "seq"}
SAMPLE = "500"  # what varies is a number, or a text of its own
CARD = uuid.UUID(int=7)


def said_in(node: ast.AST) -> Iterator[str]:
    """The texts that an expression may have as its value, with a sample for what varies."""
    match node:
        case ast.Constant(value=str(said)):
            yield said
        case ast.JoinedStr(values=parts):
            yield "".join(part.value if isinstance(part, ast.Constant) else SAMPLE for part in parts)
        case ast.IfExp(body=one, orelse=other):
            yield from said_in(one)
            yield from said_in(other)


def called(tree: ast.AST, names: set[str]) -> Iterator[str]:
    """What is given to errors of these names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and getattr(node.func, "id", None) in names:
            yield from said_in(node.args[0])


def returned(file: str, *functions: str) -> Iterator[str]:
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.FunctionDef) and node.name in functions:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Return) and inner.value is not None:
                    yield from said_in(inner.value)


def tree_of(file: str | Path) -> ast.Module:
    return ast.parse((CARDSYNC / file).read_text(encoding="utf-8"))


def noted(tree: ast.AST) -> Iterator[str]:
    """What is given as ``error=``, as a last argument of ``disable``, or as the value of ``why``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "error":
            yield from said_in(node.value)
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "why":
                    yield from said_in(value)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", None) == "disable" and node.args:
            yield from said_in(node.args[-1])


def written() -> dict[str, set[str]]:
    """Every text that the code can store, by where it comes from."""
    ours = [path for path in CARDSYNC.rglob("*.py") if "dev" not in path.relative_to(CARDSYNC).parts]
    rooms = [path for path in ours if path.relative_to(CARDSYNC).parts[0] in ("store", "stories")]
    ends = {said for path in ours for said in called(tree_of(path), ENDS)}
    paused = {f"calls are paused: {because}" for because in gate.BECAUSE.values()}
    migrations = CARDSYNC.parent / "migrations" / "versions"
    return {
        "ends of calls": ends - {f"calls are paused: {SAMPLE}"} | paused,
        "ends of calls, with more": {f"{end}{one.note}" for end in ends & stored._PLAIN for one in TROUBLES.values()},
        "no connection to Ottu": set(returned("reachability.py", "why_unreachable", "_why", "_why_not_verified")),
        "messages": set(returned("outgoing/sender.py", "_why"))
        | set(returned("stories/deliver.py", "_unsendable", "_why")),
        "noted": {said for path in rooms for said in noted(tree_of(path))},
        "with a wait": {f"no answer in time{claims.asked_for(7.5)}"},
        "deletions": {
            *(requests.NO_API, HELD_SINCE_RESTORE, reconcile.READ_AS_EMPTY, "cancelled", "held"),
            *("Ottu refuses (409)", "Ottu refuses (409): type=invalid, code=card_locked, field=token"),
            "no list: OttuFault: Ottu failed: 502",
        },
        "erasures": {
            *(f"the deletion of card {CARD} failed: no reason is known", f"card {CARD} is locked: Ottu refuses (409)"),
            "no list in production: OttuFault: Ottu failed: 502; no list in sandbox: BudgetSpent: no connection",
        },
        "ignored": {*get_args(events.IgnoredBecause), *_in_sql(r"ignored_because = '([^']+)'")},
        "removed": _in_sql(r"removed_because = '([^']+)'"),
        "disabled": set(get_args(delivery.DisabledBecause)),
        "operations": {*carry_out.WHYS, "it did not take it: answered 404", "it did not take it: no connection"},
        "refusals": {said for file in OF_OPERATIONS for said in called(tree_of(file), REFUSALS)},
        "refusals of the console": {
            said for path in (CARDSYNC / "store" / "console").glob("*.py") for said in called(tree_of(path), REFUSALS)
        }
        | {sessions.SENT_BEFORE},
        "refusals of the database": {
            said for file in migrations.glob("*.py") for said in RAISED.findall(file.read_text(encoding="utf-8"))
        },
        "oddities": {meaning.said for meaning in oddities.TABLE.values()},
    }


def _in_sql(pattern: str) -> set[str]:
    return {
        said
        for path in (CARDSYNC / "store").rglob("*.py")
        for said in re.findall(pattern, path.read_text(encoding="utf-8"))
    }


BUILT = re.compile(r"jsonb_build_object\(((?:[^()]|\([^()]*\))*)\)")
NAME = re.compile(r"(?:^|,)\s*'(\w+)'\s*,")


def fact_names() -> set[str]:
    """The names of facts in the journal, in receipts and in the timeline, as the code writes them."""
    files = [*(CARDSYNC.parent / "migrations" / "versions").glob("*.py"), *(CARDSYNC / "store").rglob("*.py")]
    built = {
        name
        for file in files
        for inside in BUILT.findall(file.read_text(encoding="utf-8"))
        for name in NAME.findall(inside)
    }
    steps = {
        keyword.arg
        for room in ("store", "stories")
        for file in (CARDSYNC / room).rglob("*.py")
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "receipts.add"
        for keyword in node.keywords
        if keyword.arg is not None
    }
    assert len(built) > 20
    assert len(steps) > 5
    return built | steps


def test_every_fact_of_the_journal_and_of_receipts_has_a_name_in_every_language():
    assert fact_names() - shown.FACTS.keys() == NOT_SHOWN


@pytest.fixture
def arabic(console):
    """A request of a viewer who reads Arabic."""
    with console.test_request_context():
        g.preferences = Preferences(language="ar")
        yield


@pytest.mark.parametrize(
    ("source", "texts"), sorted(written().items()), ids=lambda one: one if isinstance(one, str) else ""
)
def test_every_text_that_the_code_stores_is_translated_when_it_is_shown(arabic, source, texts):
    assert texts, f"what finds no text proves nothing: {source}"
    assert {said for said in texts if not stored.knows(said)} == set()
    for said in texts:
        shown = stored.said(said)
        assert re.search("[\N{ARABIC LETTER HAMZA}-\N{ARABIC LETTER YEH}]", shown), said
        assert said not in shown


def test_a_text_within_a_text_is_translated_and_what_is_ottu_s_is_marked_as_english(arabic):
    shown = stored.said(f"card {CARD} is locked: Ottu refuses (409): code=card_locked")
    assert f'<bdi lang="en" dir="ltr">{CARD}</bdi>' in shown
    assert '<bdi lang="en" dir="ltr">code=card_locked</bdi>' in shown
    assert "is locked" not in shown
    assert "refuses" not in shown
    assert '<bdi lang="en" dir="ltr">OttuFault</bdi>' in stored.said("OttuFault: Ottu failed: 502")


@pytest.mark.parametrize(
    "said", ["NoSuchError", "what a later release says", "no list: <b>odd</b>", "a; b", "; ", "x" * 10_000]
)
def test_an_unknown_text_is_shown_as_it_was_stored_and_marked_as_english(arabic, said):
    shown = stored.said(said)
    assert 'lang="en" dir="ltr"' in shown
    assert "<b>" not in shown
    assert said.rpartition(": ")[2].replace("<", "&lt;").replace(">", "&gt;") in shown


def test_a_viewer_reads_the_same_text_in_english(console):
    with console.test_request_context():
        g.preferences = Preferences(language="en")
        assert stored.said("no answer in time, asked for 30 s").striptags() == "no answer in time, asked for 30 s"


def test_pages_in_arabic_hold_no_stored_text_in_english(engine, signed_in):
    customer = CustomerFactory(
        environment="sandbox",
        customer_id="someone",
        failures=3,
        last_error="OttuFault: Ottu failed: 502",
        list_oddities=["no_token_yet", "incomplete"],
    )
    card = make_card(customer)
    event = EventFactory(customer_id="someone", status="ignored", ignored_because="no card", settled=True)
    with engine.begin() as connection:
        deletion = requests.request(connection, card_id=card.card_id, requested_by="x").deletion_id
        requests.cancel(connection, deletion, by="x")
        connection.execute(
            text(
                "INSERT INTO cardsync.erasures (customer_id, requested_by, status, due_at, error) VALUES "
                "('someone', 'x', 'blocked', now(), :said)"
            ),
            {"said": f"card {card.card_id} is locked: Ottu refuses (409)"},
        )
        erasure = connection.execute(text("SELECT erasure_id FROM cardsync.erasures")).scalar_one()
    browser = signed_in("admin")
    browser.client.set_cookie("console-language", "ar", domain="127.0.0.1")
    pages = {
        f"/customers/{customer.id}": ("Ottu failed", "lacks required", "no card"),
        "/customers/odd": ("lacks required",),
        f"/notifications/{event.event_id}": ("no card",),
        "/notifications?status=ignored": ("no card",),
        f"/deletions/{deletion}": (">cancelled<", "cancelled</d"),
        "/deletions?state=cancelled": (">cancelled<",),
        f"/erasures/{erasure}": ("is locked", "refuses", "Ottu failed"),
        "/erasures": ("is locked", "refuses"),
    }
    for path, english in pages.items():
        page = browser.get(path).text
        assert '<html lang="ar"' in page
        assert [said for said in english if said in page] == [], path
    assert '<bdi lang="en" dir="ltr">no_token_yet</bdi>' in browser.get("/customers/odd").text
