"""The description is true: valid as OpenAPI 3.1, and what the application answers is what it says."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import schemathesis
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, assume, given, settings
from hypothesis.errors import Unsatisfiable
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis import Case, GenerationMode
from sqlalchemy import Engine

from cardsync.core.cards import looks_like_full_number
from tests.web.conftest import NotingBells
from tests.web.registry_rows import add_card, reconcile_now

EXAMPLES = 15


OPERATIONS = [
    ("GET", "/v1/cards"),
    ("GET", "/v1/cards/{card_id}"),
    ("GET", "/v1/agreements/card"),
    ("POST", "/v1/reconciliations"),
    ("POST", "/v1/deletions"),
    ("GET", "/v1/deletions/{deletion_id}"),
    ("POST", "/v1/customers/erase"),
    ("GET", "/v1/customers/erasures/{erasure_id}"),
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
    routes = {re.sub(r"<\w+:(\w+)>", r"{\1}", rule.rule) for rule in app.url_map.iter_rules()}
    assert set(document["paths"]) == routes - {"/docs", "/openapi.json"}  # type: ignore[index]


class _AnsweredBells(NotingBells):
    """Bells after which the customer has been looked at, so that no reader waits."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine

    def ring_customers(self, customers: Sequence[int]) -> None:
        for customer in customers:
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

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def call(case: Case[Any]) -> None:
        # No schema says "looks like a full card number"; its refusal has tests of its own.
        assume(not (isinstance(case.body, dict) and looks_like_full_number(str(case.body.get("reason")))))
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
