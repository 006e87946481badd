"""The description is true: valid as OpenAPI 3.1, and what the application answers is what it says."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, assume, given, seed, settings
from hypothesis.errors import Unsatisfiable
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis import Case, GenerationMode
from sqlalchemy import Engine

from cardsync.core import feed
from cardsync.core.call_budget import LANES
from cardsync.core.card_numbers import looks_like_full_number
from tests.web.conftest import NotingBells
from tests.web.rows import add_card, due, reconcile_now

EXAMPLES = 15


OPERATIONS = [
    ("GET", "/v1/cards"),
    ("GET", "/v1/cards/{card_id}"),
    ("GET", "/v1/agreements/card"),
    ("GET", "/v1/customers"),
    ("GET", "/v1/cards/expiring"),
    ("GET", "/v1/agreements/at-risk"),
    ("POST", "/v1/charges"),
    ("GET", "/v1/changes"),
    ("POST", "/v1/reconciliations"),
    ("GET", "/v1/reconciliations/{reconciliation_id}"),
    ("GET", "/v1/deletions"),
    ("POST", "/v1/deletions"),
    ("GET", "/v1/deletions/{deletion_id}"),
    ("POST", "/v1/customers/erase"),
    ("GET", "/v1/customers/erasures/{erasure_id}"),
    ("GET", "/v1/ops/status"),
    ("GET", "/v1/ops/deletions"),
    ("POST", "/webhooks/ottu"),
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
]


def test_it_is_a_valid_description(client: FlaskClient) -> None:
    document = client.get("/openapi.json").json
    assert document is not None
    assert document["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(document).validate()


def test_every_route_is_described(app: Flask, client: FlaskClient) -> None:
    document = client.get("/openapi.json").json
    routes = {re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule.rstrip("/")) for rule in app.url_map.iter_rules()}
    assert set(document["paths"]) == routes - {"", "/docs", "/openapi.json", "/problems/{code}"}  # type: ignore[index]


class _AnsweredBells(NotingBells):
    """Bells after which the customer has been looked at, so that no reader waits."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine

    are_in_vain = False

    def ring(self) -> None:
        for customer in due(self._engine):
            reconcile_now(self._engine, customer)


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_what_is_answered_is_what_is_described(
    make_app: Callable[..., Flask],
    engine: Engine,
    bearer: Callable[..., dict[str, str]],
    method: str,
    path: str,
    mode: GenerationMode,
) -> None:
    app = make_app(bells=_AnsweredBells(engine))
    add_card(engine, customer_id="0")
    headers = bearer()
    operation = schemathesis.openapi.from_wsgi("/openapi.json", app)[path][method]

    @seed(1)  # the same examples each time, whatever else changed
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def call(case: Case[Any]) -> None:
        # No schema says "looks like a full card number"; its refusal has tests of its own.
        assume(not (isinstance(case.body, dict) and looks_like_full_number(str(case.body.get("reason")))))
        if mode is GenerationMode.POSITIVE and "epoch" in (case.query or {}):
            case.query["epoch"] = 1  # no schema says which one counts; 410 has tests of its own
        case.call_and_validate(headers=headers)

    try:
        call()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE, "nothing that is sent can be as described"


def test_a_receipt_and_an_erasure_are_as_described(
    app: Flask, engine: Engine, bearer: Callable[..., dict[str, str]]
) -> None:
    add_card(engine)
    headers = {**bearer(), "Idempotency-Key": "k"}
    erasure = app.test_client().post("/v1/customers/erase", json={"customer_id": "cust-1"}, headers=headers).json
    found = {"erasure_id": erasure["erasure_id"], "deletion_id": erasure["deletions"][0]["deletion_id"]}  # type: ignore[index]
    described = schemathesis.openapi.from_wsgi("/openapi.json", app)
    for path, name in (
        ("/v1/customers/erasures/{erasure_id}", "erasure_id"),
        ("/v1/deletions/{deletion_id}", "deletion_id"),
    ):
        case = described[path]["GET"].Case(path_parameters={name: found[name]})
        assert case.call_and_validate(headers=headers).status_code == 200


def test_every_operation_is_tried(client: FlaskClient) -> None:
    document = client.get("/openapi.json").json
    assert {(m.upper(), p) for p, item in document["paths"].items() for m in item} == set(OPERATIONS)  # type: ignore[index]


def test_the_page_runs_nothing_and_loads_nothing(client: FlaskClient) -> None:
    response = client.get("/docs")
    page, policy = response.text, response.headers["Content-Security-Policy"]
    assert response.content_type == "text/html; charset=utf-8"
    assert "<script" not in page
    assert "style=" not in page
    assert not re.search(r"(src|href)=.?(https?:)?//", page)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none'; ")


def test_the_page_shows_every_operation(client: FlaskClient) -> None:
    page = client.get("/docs").text
    document = client.get("/openapi.json").json
    for path, item in document["paths"].items():  # type: ignore[index]
        assert path in page
        for operation in item.values():
            assert f'id="{operation["operationId"]}"' in page


def test_the_first_page_leads_a_browser_to_the_description_and_names_the_console(client: FlaskClient) -> None:
    browser = client.get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (browser.status_code, browser.headers["Location"]) == (303, "/docs")
    program = client.get("/")
    assert program.json == {"docs": "/docs", "openapi": "/openapi.json", "console": "http://127.0.0.1:8001"}
    assert "http://127.0.0.1:8001" in client.get("/docs").text


def _document(client: FlaskClient) -> dict[str, Any]:
    document = client.get("/openapi.json").json
    assert document is not None
    return document


def test_lists_of_values_have_a_name_and_no_schema_is_left_over(client: FlaskClient) -> None:
    document = _document(client)
    schemas = document["components"]["schemas"]
    names = {"Environment", "CardStatus", "DeletionStatus", "ErasureStatus", "ReconciliationStatus", "RemovedBecause"}
    names |= {"Change", "Cause"}
    assert names <= set(schemas)
    assert [name for name in names if not schemas[name]["enum"]] == []
    text = json.dumps(document)
    assert [name for name in schemas if f'"#/components/schemas/{name}"' not in text] == []
    inline = re.findall(r'"enum": (\[[^]]*\])', text)
    assert all(inline.count(json.dumps(schemas[name]["enum"])) == 1 for name in names)


def test_reads_are_described_with_their_tag_and_answers_to_a_key_with_its_limit(
    client: FlaskClient, bearer: Callable[..., dict[str, str]]
) -> None:
    limit = {"RateLimit", "RateLimit-Policy"}
    for path, item in _document(client)["paths"].items():
        for method, operation in item.items():
            has_key, is_read = bool(operation["security"]), bool(operation["security"]) and method == "get"
            sent = {parameter["name"] for parameter in operation.get("parameters", ())}
            assert ("If-None-Match" in sent) == ("304" in operation["responses"]) == is_read, path
            for status, answer in operation["responses"].items():
                headers = set(answer.get("headers", ()))
                assert (limit <= headers) == (has_key and status not in ("401", "504")), (path, status)
                assert ("ETag" in headers) == (is_read and status in ("200", "304")), (path, status)
    answer = client.get("/v1/cards?environment=sandbox&customer_id=cust-1", headers=bearer())
    assert answer.status_code == 200
    assert {"ETag", *limit} <= set(answer.headers.keys())


def test_each_word_of_the_feed_is_explained_in_the_description_and_in_the_documents(client: FlaskClient) -> None:
    schemas = _document(client)["components"]["schemas"]
    consumers = (Path(__file__).parents[2] / "docs" / "consumers.md").read_text(encoding="utf-8")
    for name, words, means in (
        ("Change", feed.CHANGES, feed.CHANGE_MEANS),
        ("Cause", feed.CAUSES, feed.CAUSE_MEANS),
    ):
        assert schemas[name]["enum"] == list(words) == list(means)
        assert [w for w, meaning in means.items() if f"`{w}`: {meaning}." not in schemas[name]["description"]] == []
        assert [w for w, meaning in means.items() if f"\n| `{w}` | {meaning} |" not in consumers] == []
    fields = schemas["CardChange"]["properties"]["fields"]["description"]
    assert [w for w in ("added", "expired", "expiring", "60", "30", "7") if f"`{w}`" not in fields] == []


def test_every_cause_that_the_code_writes_is_a_word_of_the_feed() -> None:
    code = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("store", "stories")
        for path in Path(feed.__file__).parents[1].joinpath(folder).rglob("*.py")
    )
    written = set(re.findall(r"\bcause ?= ?['\"](\w+)['\"]", code)) | set(LANES)
    assert {"deletion", "erasure", "calendar"} <= written
    assert written == set(feed.CAUSES)


def test_everything_is_described_and_has_an_example_that_fits(client: FlaskClient) -> None:
    document = _document(client)
    schemas = document["components"]["schemas"]
    registry = {"components": {"schemas": schemas}}
    for name, schema in schemas.items():
        assert schema["description"], name
        for example in schema["examples"]:
            OAS31Validator({**registry, "$ref": f"#/components/schemas/{name}"}).validate(example)
        for field, property_ in schema.get("properties", {}).items():
            assert property_.get("description") or "$ref" in property_, f"{name}.{field}"
            assert property_.get("examples") or "$ref" in property_ or name == "ProblemDetails", f"{name}.{field}"
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert operation["description"], (method, path)
            for parameter in operation.get("parameters", ()):
                assert parameter["description"], (path, parameter["name"])
                OAS31Validator({**registry, **parameter["schema"]}).validate(parameter["example"])
            for holder in (operation.get("requestBody", {}), *operation["responses"].values()):
                for content in holder.get("content", {}).values():
                    OAS31Validator({**registry, **content["schema"]}).validate(content["example"])


def test_the_page_has_a_command_for_each_operation_and_says_how_to_get_a_key(client: FlaskClient) -> None:
    page = html.unescape(client.get("/docs").text)
    assert page.count("<pre><code>curl ") == len(OPERATIONS)
    assert "cardsync keys create" in page
    command = next(c for c in re.findall(r"<pre><code>(curl .*?)</code></pre>", page, re.DOTALL) if "-X POST" in c)
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:3] == ["curl", "-X", "POST"]
    assert "Authorization: Bearer $CARDSYNC_KEY" in words
    assert json.loads(words[words.index("-d") + 1])
