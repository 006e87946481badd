"""Deletions and erasures over HTTP: who may ask, what a repeated request gets, what is refused, and what is never shown."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from werkzeug.test import TestResponse

from cardsync.store.access import keys
from tests.factories import fingerprint_with
from tests.web.conftest import SECRET, NotingBells
from tests.web.rows import add_card, remove_card

Bearer = Callable[..., dict[str, str]]
TOKEN = "9999000000000001"
FIELDS = {
    *("deletion_id", "card_id", "environment", "customer_id", "status", "requested_by", "reason", "requested_at"),
    *("attempts", "next_attempt_at", "finished_at", "error", "code", "when_unlocked"),
}
ERASURE_FIELDS = {
    *("erasure_id", "customer_id", "status", "requested_by", "reason", "requested_at", "finished_at", "error"),
    "deletions",
}


@pytest.fixture
def ask(client: FlaskClient, bearer: Bearer) -> Callable[..., TestResponse]:
    """Ask for a deletion (or what ``path`` says) with one API key."""
    headers = bearer("cards:delete")

    def post(body: dict[str, Any], key: str | None = "key-1", path: str = "/v1/deletions", **more: Any) -> TestResponse:
        given = {**headers, **({} if key is None else {"Idempotency-Key": key}), **more}
        return client.post(path, json=body, headers=given)

    return post


def status_of(engine: Engine, card_id: uuid.UUID) -> str:
    with engine.connect() as connection:
        found = text("SELECT status FROM registry.cards WHERE card_id = :card_id")
        return str(connection.execute(found, {"card_id": card_id}).scalar_one())


def test_a_deletion_is_noted_rung_for_and_found_where_the_answer_says(
    client: FlaskClient, engine: Engine, bells: NotingBells, ask: Callable[..., TestResponse], bearer: Bearer
) -> None:
    card_id = add_card(engine)
    response = ask({"card_id": str(card_id), "reason": "the customer asked"})
    assert response.status_code == 202
    deletion = response.json
    assert deletion is not None
    assert set(deletion) == FIELDS
    assert (deletion["card_id"], deletion["status"]) == (str(card_id), "pending")
    assert (deletion["requested_by"], deletion["reason"]) == ("test", "the customer asked")
    assert (deletion["environment"], deletion["customer_id"]) == ("sandbox", "cust-1")
    assert response.headers["Location"] == f"/v1/deletions/{deletion['deletion_id']}"
    assert status_of(engine, card_id) == "deleting"
    assert bells.rung == 1
    for scope in ("cards:delete", "cards:read"):
        shown = client.get(response.headers["Location"], headers=bearer(scope)).json
        assert set(shown) == FIELDS | {"steps"}  # type: ignore[arg-type]
        (asked,) = shown["steps"]  # type: ignore[index]
        assert set(asked) == {"step_no", "at", "step", "detail", "hash"}
        assert asked["step"] == "asked"
        assert asked["at"].endswith("Z")
        assert len(asked["hash"]) == 64
        assert asked["detail"]["requested_by"] == "test"


def test_a_card_is_found_by_its_token_which_is_kept_nowhere(
    engine: Engine, ask: Callable[..., TestResponse], caplog: pytest.LogCaptureFixture
) -> None:
    fingerprint_with(engine, SECRET.encode())
    card_id = add_card(engine, customer_id="cust/1 é", token=TOKEN, key=SECRET.encode())
    body = {"environment": "sandbox", "customer_id": "cust/1 é", "token": TOKEN}
    first, again = ask(body), ask(body)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json["card_id"] == str(card_id)  # type: ignore[index]
    assert first.json == again.json
    assert TOKEN not in first.text + caplog.text
    for absent in ({"token": "9999000000000002"}, {"customer_id": "cust-2"}, {"environment": "production"}):
        response = ask({**body, **absent}, key="key-2")
        assert response.status_code == 404
        assert "99990000" not in response.text
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT to_jsonb(d)::text FROM cardsync.deletions AS d")).scalars()
        steps = connection.execute(text("SELECT to_jsonb(s)::text FROM cardsync.deletion_steps AS s")).scalars()
        assert not any(TOKEN in row for row in [*rows, *steps])


def test_the_same_key_gives_the_same_deletion_and_another_body_is_refused(
    engine: Engine, bells: NotingBells, ask: Callable[..., TestResponse]
) -> None:
    one, other = add_card(engine, token="tok-fake-0001"), add_card(engine, token="tok-fake-0002")
    first = ask({"card_id": str(one), "when_unlocked": False})
    assert ask({"reason": None, "card_id": str(one).upper()}).json == first.json  # the same wish, written otherwise
    assert bells.rung == 1
    for body in (
        {"card_id": str(other)},
        {"card_id": str(one), "reason": "x"},
        {"card_id": str(one), "when_unlocked": True},
    ):
        response = ask(body)
        assert (response.status_code, response.content_type) == (409, "application/problem+json")
    assert status_of(engine, other) == "active"


def test_the_same_key_from_another_api_key_of_the_owner_is_the_same_request(
    client: FlaskClient, engine: Engine, ask: Callable[..., TestResponse], bearer: Bearer
) -> None:
    body = {"card_id": str(add_card(engine))}
    first = ask(body)
    assert first.status_code == 202
    other = {**bearer("cards:delete"), "Idempotency-Key": "key-1"}
    again = client.post("/v1/deletions", json=body, headers=other)
    assert (again.status_code, again.json) == (202, first.json)


def test_a_card_that_is_being_deleted_has_one_deletion(engine: Engine, ask: Callable[..., TestResponse]) -> None:
    body = {"card_id": str(add_card(engine))}
    first, second = ask(body, key="key-1"), ask(body, key="key-2")
    assert (second.status_code, second.json) == (202, first.json)


@pytest.mark.parametrize("key", [None, "", "with space", "é", "k" * 256])
@pytest.mark.parametrize("path", ["/v1/deletions", "/v1/customers/erase"])
def test_a_missing_or_malformed_key_is_unprocessable(
    engine: Engine, ask: Callable[..., TestResponse], key: str | None, path: str
) -> None:
    card_id = add_card(engine)
    body = {"customer_id": "cust-1"} if "erase" in path else {"card_id": str(card_id)}
    response = ask(body, key=key, path=path)
    assert response.status_code == 422
    assert response.json["errors"][0]["field"] == "Idempotency-Key"  # type: ignore[index]
    assert status_of(engine, card_id) == "active"


def test_the_longest_key_is_taken(engine: Engine, ask: Callable[..., TestResponse]) -> None:
    assert ask({"card_id": str(add_card(engine))}, key="~" * 255).status_code == 202


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"card_id": "no-uuid"}, "card_id"),
        ({"card_id": 7}, "card_id"),
        ({"reason": "x" * 201}, "reason"),
        ({"reason": "4111 1111-1111/1111"}, "reason"),
        ({"reason": "a\0b"}, "reason"),
        ({"when_unlocked": "yes"}, "when_unlocked"),
        ({"when_unlocked": 1}, "when_unlocked"),
        ({"token": "tok-fake-0001"}, "token"),
        ({"card": "x"}, "card"),
        ({"4111111111111111": "x"}, ""),
    ],
)
def test_a_wrong_field_is_named_and_its_value_is_not_repeated(
    engine: Engine, ask: Callable[..., TestResponse], change: dict[str, Any], field: str
) -> None:
    card_id = add_card(engine)
    response = ask({"card_id": str(card_id), **change})
    assert response.status_code == 422
    assert [e["field"] for e in response.json["errors"]] == [field]  # type: ignore[index]
    assert "1111-1111" not in response.text
    assert status_of(engine, card_id) == "active"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"environment": "sandbox", "customer_id": "cust-1"},
        {"environment": "test", "customer_id": "cust-1", "token": TOKEN},
        {"environment": "sandbox", "customer_id": "cust-1", "token": TOKEN * 4},
        {"environment": "sandbox", "customer_id": "cust-1", "token": ""},
        {"environment": "sandbox", "customer_id": "cust-1", "token": 9999},
        {"customer_id": "cust-1", "token": TOKEN},
    ],
)
def test_a_body_that_names_no_card_is_unprocessable(ask: Callable[..., TestResponse], body: dict[str, Any]) -> None:
    response = ask(body)
    assert response.status_code == 422
    assert "99990000" not in response.text


def test_what_is_no_object_or_too_large_is_refused_as_everywhere(client: FlaskClient, bearer: Bearer) -> None:
    headers = {**bearer("cards:delete"), "Idempotency-Key": "k", "Content-Type": "application/json"}
    assert client.post("/v1/deletions", data="[]", headers=headers).status_code == 400
    assert client.post("/v1/deletions", data="x" * 70_000, headers=headers).status_code == 413


def test_an_unknown_card_is_not_found_and_a_removed_one_is_a_conflict(
    engine: Engine, bells: NotingBells, ask: Callable[..., TestResponse]
) -> None:
    removed = add_card(engine)
    remove_card(engine, removed)
    assert ask({"card_id": str(uuid.uuid4())}).status_code == 404
    response = ask({"card_id": str(removed)}, key="key-2")
    assert (response.status_code, response.json["code"]) == (409, "card_removed")  # type: ignore[index]
    assert bells.rung == 0


@pytest.mark.parametrize("path", ["/v1/deletions/{}", "/v1/customers/erasures/{}"])
def test_what_was_never_asked_for_is_not_found(client: FlaskClient, bearer: Bearer, path: str) -> None:
    assert client.get(path.format(uuid.uuid4()), headers=bearer()).status_code == 404
    assert client.get(path.format("x"), headers=bearer()).status_code == 422


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/deletions"),
        ("GET", f"/v1/deletions/{uuid.UUID(int=1)}"),
        ("POST", "/v1/customers/erase"),
        ("GET", f"/v1/customers/erasures/{uuid.UUID(int=1)}"),
    ],
)
def test_a_key_without_the_scope_is_told_which_and_learns_nothing_else(
    client: FlaskClient, bearer: Bearer, method: str, path: str
) -> None:
    assert client.open(path, method=method).status_code == 401
    scopes = [
        s for s in keys.SCOPES if s not in (("cards:delete",) if method == "POST" else ("cards:delete", "cards:read"))
    ]
    response = client.open(path, method=method, headers=bearer(*scopes))
    assert response.status_code == 403
    assert "cards:delete" in response.json["scope"]  # type: ignore[index]


@pytest.mark.parametrize("path", ["/v1/deletions", "/v1/customers/erase"])
def test_where_ottu_offers_no_cards_api_nothing_is_promised(
    make_app: Callable[..., Flask], engine: Engine, bearer: Bearer, path: str
) -> None:
    card_id = add_card(engine)
    body = {"customer_id": "cust-1"} if "erase" in path else {"card_id": str(card_id)}
    client = make_app(ottu_cards_api="unavailable").test_client()
    response = client.post(path, json=body, headers={**bearer(), "Idempotency-Key": "k"})
    assert response.status_code == 409
    assert status_of(engine, card_id) == "active"


def test_an_erasure_takes_all_cards_of_both_environments_out_of_use(
    client: FlaskClient, engine: Engine, bells: NotingBells, ask: Callable[..., TestResponse], bearer: Bearer
) -> None:
    whose = "cust/1 é"
    cards = [
        add_card(engine, whose, "tok-fake-0001"),
        add_card(engine, whose, "tok-fake-0002"),
        add_card(engine, whose, "tok-fake-0003", "production"),
    ]
    bystander = add_card(engine, "cust-2", "tok-fake-0004")
    response = ask({"customer_id": whose, "reason": "ticket 1"}, path="/v1/customers/erase")
    assert response.status_code == 202
    erasure = response.json
    assert erasure is not None
    assert set(erasure) == ERASURE_FIELDS
    assert (erasure["customer_id"], erasure["status"], erasure["reason"]) == (whose, "pending", "ticket 1")
    assert {d["card_id"] for d in erasure["deletions"]} == {str(c) for c in cards}
    assert all(set(d) == FIELDS and d["requested_by"] == "test" for d in erasure["deletions"])
    assert {status_of(engine, c) for c in cards} == {"deleting"}
    assert status_of(engine, bystander) == "active"
    assert bells.rung == 1
    assert response.headers["Location"] == f"/v1/customers/erasures/{erasure['erasure_id']}"
    assert client.get(response.headers["Location"], headers=bearer("cards:read")).json == erasure


def test_a_repeated_erasure_is_the_same_one_and_a_key_stands_for_one_person(
    engine: Engine, ask: Callable[..., TestResponse]
) -> None:
    add_card(engine)
    first = ask({"customer_id": "cust-1"}, path="/v1/customers/erase")
    assert ask({"customer_id": "cust-1"}, path="/v1/customers/erase").json == first.json
    assert ask({"customer_id": "cust-1"}, key="key-2", path="/v1/customers/erase").json == first.json
    for key in ("key-1", "key-2"):  # also of the key that joined what was under way
        response = ask({"customer_id": "cust-2"}, key=key, path="/v1/customers/erase")
        assert response.status_code == 409
    with engine.connect() as connection:
        known = connection.execute(text("SELECT customer_id FROM cardsync.customers")).scalars().all()
    assert set(known) == {"cust-1"}  # a refused request leaves nothing


def test_a_customer_nobody_knows_is_asked_for_too(engine: Engine, ask: Callable[..., TestResponse]) -> None:
    response = ask({"customer_id": "nobody"}, path="/v1/customers/erase")
    assert (response.status_code, response.json["deletions"]) == (202, [])  # type: ignore[index]
    with engine.connect() as connection:
        due = connection.execute(text("SELECT environment FROM cardsync.customers WHERE due_at IS NOT NULL")).scalars()
        assert set(due) == {"sandbox", "production"}


@pytest.mark.parametrize("body", [{}, {"customer_id": ""}, {"customer_id": "x" * 65}, {"customer_id": 1}])
def test_an_erasure_without_a_customer_is_unprocessable(ask: Callable[..., TestResponse], body: dict[str, Any]) -> None:
    assert ask(body, path="/v1/customers/erase").status_code == 422
