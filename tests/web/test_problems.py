"""Problems: each has a kind whose code and page stay, a field's error has a code, and no answer repeats what may be a secret."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from http import HTTPStatus

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine

from cardsync import errors
from cardsync.web.problems import FIELD_CODES, KINDS, OF_STATUS
from cardsync.web.responses import TABLE
from tests.web.rows import add_card, remove_card

Bearer = Callable[..., dict[str, str]]
LISTED = "/v1/cards?environment=sandbox&customer_id=cust-1"


def test_a_kind_has_a_code_that_reads_as_a_word_and_says_what_to_do() -> None:
    for code, kind in KINDS.items():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", code), code
        assert kind.type == f"/problems/{code}"
        assert kind.title
        assert kind.advice.endswith(".")
        assert 400 <= kind.status < 600


def test_every_error_has_a_kind_with_its_own_status() -> None:
    for status, code in OF_STATUS.items():
        assert KINDS[code].status == status
    for kind, status, code, _ in TABLE:
        own = kind.CODE if issubclass(kind, errors.Refused) else code
        assert own is not None
        assert KINDS[own].status == status


def test_each_kind_has_its_page_and_the_documentation_leads_there(client: FlaskClient) -> None:
    docs = client.get("/docs").text
    for code, kind in KINDS.items():
        page = client.get(kind.type)
        assert (page.status_code, page.content_type) == (200, "text/html; charset=utf-8")
        assert code in page.text
        assert "'sha256-" in page.headers["Content-Security-Policy"]
        assert f'href="{kind.type}"' in docs
    assert all(one.code in docs for one in FIELD_CODES)
    assert client.get("/problems/nothing").json["code"] == "not_found"  # type: ignore[index]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", f"/v1/cards/{uuid.UUID(int=1)}", 404, "card_not_found"),
        ("GET", f"/v1/deletions/{uuid.UUID(int=1)}", 404, "deletion_not_found"),
        ("GET", f"/v1/customers/erasures/{uuid.UUID(int=1)}", 404, "erasure_not_found"),
        ("GET", "/v1/agreements/card?environment=sandbox&agreement_id=a", 404, "agreement_without_card"),
        ("GET", "/v1/cards/no-uuid", 422, "invalid_request"),
        ("GET", f"{LISTED}&maxage=5", 422, "unknown_field"),
        ("GET", LISTED.replace("sandbox", "sand"), 422, "invalid_request"),
        ("PUT", "/v1/cards", 405, "method_not_allowed"),
        ("POST", "/v1/reconciliations", 415, "unsupported_media_type"),
    ],
)
def test_a_problem_has_its_code_and_the_path_of_its_page(
    client: FlaskClient, bearer: Bearer, method: str, path: str, status: int, code: str
) -> None:
    response = client.open(path, method=method, data=b"{}" if method == "POST" else None, headers=bearer())
    problem = response.json
    assert problem is not None
    assert (response.status_code, response.content_type) == (status, "application/problem+json")
    assert (problem["status"], problem["code"], problem["type"]) == (status, code, f"/problems/{code}")
    assert problem["title"] == KINDS[code].title
    assert problem["detail"]


def test_a_request_without_a_valid_key_or_its_scope_has_a_code(client: FlaskClient, bearer: Bearer) -> None:
    assert client.get(LISTED).json["code"] == "invalid_key"  # type: ignore[index]
    assert client.get(LISTED, headers=bearer("cards:delete")).json["code"] == "insufficient_scope"  # type: ignore[index]


@pytest.mark.parametrize(
    ("query", "field", "code"),
    [
        ("customer_id=c", "environment", "missing"),
        ("environment=sandbox&customer_id=", "customer_id", "too_short"),
        ("environment=sandbox&customer_id=" + "x" * 65, "customer_id", "too_long"),
        ("environment=sand&customer_id=c", "environment", "not_allowed"),
        ("environment=sandbox&customer_id=c&customer_id=d", "customer_id", "repeated"),
        ("environment=sandbox&customer_id=c&maxage=5", "maxage", "unknown_field"),
        ("environment=sandbox&customer_id=c&max-age=5", "max-age", "unknown_field"),
        ("environment=sandbox&customer_id=c&card.id2=5", "card.id2", "unknown_field"),
        ("environment=sandbox&customer_id=c&9999000000000001=5", "", "unknown_field"),
        ("environment=sandbox&customer_id=c&n-9999-000-000-0001=5", "", "unknown_field"),
        ("environment=sandbox&customer_id=c&max_age=999999999", "max_age", "out_of_range"),
        ("environment=sandbox&customer_id=c&max_age=x", "max_age", "invalid"),
    ],
)
def test_a_wrong_field_has_a_code(client: FlaskClient, bearer: Bearer, query: str, field: str, code: str) -> None:
    response = client.get(f"/v1/cards?{query}", headers=bearer())
    (error,) = response.json["errors"]  # type: ignore[index]
    assert (error["field"], error["code"]) == (field, code)
    assert error["message"]
    assert code in {one.code for one in FIELD_CODES}


def test_an_id_that_is_no_uuid_is_said_so(client: FlaskClient, bearer: Bearer) -> None:
    for path, field in (
        ("/v1/cards/{}", "card_id"),
        ("/v1/deletions/{}", "deletion_id"),
        ("/v1/customers/erasures/{}", "erasure_id"),
    ):
        for wrong in ("7", "{6f1f2d0e-6a43-4d0c-9a54-0d6ce7f2f7aa}", "6f1f2d0e6a434d0c9a540d6ce7f2f7aa"):
            response = client.get(path.format(wrong), headers=bearer())
            assert response.status_code == 422
            assert response.json["errors"] == [  # type: ignore[index]
                {"field": field, "code": "not_a_uuid", "message": "must be a UUID"}
            ]


def test_a_refused_deletion_says_why_in_a_code(app: Flask, engine: Engine, bearer: Bearer) -> None:
    client, headers = app.test_client(), bearer("cards:delete")

    def ask(card_id: uuid.UUID, key: str) -> tuple[int, str]:
        response = client.post(
            "/v1/deletions", json={"card_id": str(card_id)}, headers={**headers, "Idempotency-Key": key}
        )
        return response.status_code, response.json.get("code", "")  # type: ignore[union-attr]

    active, other = add_card(engine, token="tok-fake-0001"), add_card(engine, token="tok-fake-0002")
    removed = add_card(engine, token="tok-fake-0003")
    remove_card(engine, removed)
    assert ask(removed, "removed") == (409, "card_removed")
    assert ask(uuid.UUID(int=1), "unknown") == (404, "card_not_found")
    assert ask(active, "first")[0] == 202
    assert ask(other, "first") == (409, "idempotency_key_reused")


def test_where_ottu_has_no_list_the_code_says_so(make_app: Callable[..., Flask], bearer: Bearer) -> None:
    client = make_app(ottu_cards_api="unavailable").test_client()
    body = {"environment": "sandbox", "customer_id": "c"}
    response = client.post("/v1/reconciliations", json=body, headers=bearer())
    assert (response.status_code, response.json["code"]) == (409, "cards_api_unavailable")  # type: ignore[index]


def test_what_may_be_tried_again_says_when(make_app: Callable[..., Flask], engine: Engine, bearer: Bearer) -> None:
    headers = bearer()
    app = make_app()

    @app.get("/broken")
    def broken() -> str:
        raise errors.CallsPaused("paused")

    response = app.test_client().get("/broken", headers=headers)
    assert (response.status_code, response.json["code"]) == (HTTPStatus.SERVICE_UNAVAILABLE, "unavailable")  # type: ignore[index]
    assert int(response.headers["Retry-After"]) > 0
