"""Idempotency keys on every POST, looks that can be polled, and reads that tell whether anything changed."""

from __future__ import annotations

import datetime as dt
import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from werkzeug.test import TestResponse

from cardsync.core import deletion
from cardsync.store import customers
from cardsync.store.access import keys
from cardsync.store.deletions import requests, transitions
from tests.web.conftest import NotingBells
from tests.web.rows import add_card, fail_now, reconcile_now

Bearer = Callable[..., dict[str, str]]
WHO = {"environment": "sandbox", "customer_id": "cust-1"}
REPLAYED = "Idempotent-Replayed"


@pytest.fixture
def post(client: FlaskClient, bearer: Bearer) -> Callable[..., TestResponse]:
    """Send a POST with one API key."""
    headers = bearer()

    def send(path: str, body: dict[str, Any], key: str | None = None) -> TestResponse:
        return client.post(path, json=body, headers={**headers, **({} if key is None else {"Idempotency-Key": key})})

    return send


def customer_row(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT id FROM cardsync.customers")).scalar_one())


def test_a_look_is_asked_for_once_with_one_key_and_again_without(
    post: Callable[..., TestResponse], engine: Engine
) -> None:
    first, again = post("/v1/reconciliations", WHO, "k"), post("/v1/reconciliations", WHO, "k")
    assert (first.status_code, again.status_code) == (202, 202)
    assert (first.json, first.headers["Location"]) == (again.json, again.headers["Location"])
    assert REPLAYED not in first.headers
    assert again.headers[REPLAYED] == "true"
    other = post("/v1/reconciliations", WHO)
    assert other.json["reconciliation_id"] != first.json["reconciliation_id"]  # type: ignore[index]
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM cardsync.requested_looks")).scalar_one() == 2


def test_a_key_with_another_request_is_refused_and_of_another_owner_is_another_key(
    client: FlaskClient, post: Callable[..., TestResponse], engine: Engine
) -> None:
    first = post("/v1/reconciliations", WHO, "k")
    refused = post("/v1/reconciliations", {**WHO, "customer_id": "cust-2"}, "k")
    assert (refused.status_code, refused.json["code"]) == (409, "idempotency_key_reused")  # type: ignore[index]
    key = keys.new_key()
    with engine.begin() as connection:
        keys.create(connection, "somebody else", keys.key_hash(key), ["cards:reconcile"])
    headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": "k"}
    other = client.post("/v1/reconciliations", json=WHO, headers=headers)
    assert other.status_code == 202
    assert other.json["reconciliation_id"] != first.json["reconciliation_id"]  # type: ignore[index]


@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 256])
def test_a_malformed_key_is_refused_where_none_is_needed_too(post: Callable[..., TestResponse], key: str) -> None:
    response = post("/v1/reconciliations", WHO, key)
    assert response.status_code == 422
    assert response.json["errors"][0]["field"] == "Idempotency-Key"  # type: ignore[index]


def test_a_request_that_failed_takes_no_key(
    make_app: Callable[..., Flask], post: Callable[..., TestResponse], bearer: Bearer
) -> None:
    headers = {**bearer(), "Idempotency-Key": "k"}
    refused = (
        make_app(ottu_cards_api="unavailable").test_client().post("/v1/reconciliations", json=WHO, headers=headers)
    )
    assert refused.status_code == 409
    taken = post("/v1/reconciliations", WHO, "k")
    assert (taken.status_code, REPLAYED in taken.headers) == (202, False)


def test_of_two_requests_at_once_with_one_key_one_is_done(app: Flask, bearer: Bearer, engine: Engine) -> None:
    headers = {**bearer(), "Idempotency-Key": "k"}
    both = threading.Barrier(2)
    answers: list[TestResponse] = []

    def send() -> None:
        client = app.test_client()
        both.wait()
        answers.append(client.post("/v1/reconciliations", json=WHO, headers=headers))

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [202, 202]
    assert len({answer.json["reconciliation_id"] for answer in answers}) == 1  # type: ignore[index]
    assert [answer.headers.get(REPLAYED) for answer in answers].count("true") == 1
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM cardsync.requested_looks")).scalar_one() == 1


@pytest.mark.parametrize(("path", "body"), [("/v1/deletions", "card"), ("/v1/customers/erase", "customer")])
def test_a_deletion_and_an_erasure_say_that_they_were_asked_for_before(
    post: Callable[..., TestResponse], engine: Engine, path: str, body: str
) -> None:
    card_id = add_card(engine)
    wanted = {"card_id": str(card_id)} if body == "card" else {"customer_id": "cust-1"}
    first, again, other = (post(path, wanted, key) for key in ("k", "k", "another"))
    assert [r.status_code for r in (first, again, other)] == [202, 202, 202]
    assert first.json == again.json
    # Another key for what is under way joins it: that is no replay.
    assert [REPLAYED in r.headers for r in (first, again, other)] == [False, True, False]


def test_a_look_is_done_when_a_list_is_believed_that_was_asked_for_later(
    client: FlaskClient, post: Callable[..., TestResponse], engine: Engine, bearer: Bearer, bells: NotingBells
) -> None:
    add_card(engine)
    asked = post("/v1/reconciliations", WHO)
    where = asked.headers["Location"]
    assert bells.rung == 1
    assert asked.json["status"] == "queued"  # type: ignore[index]
    assert where == f"/v1/reconciliations/{asked.json['reconciliation_id']}"  # type: ignore[index]
    assert client.get(where, headers=bearer("cards:reconcile")).json == asked.json
    fail_now(engine, customer_row(engine))
    waiting = client.get(where, headers=bearer("cards:read")).json
    assert (waiting["status"], waiting["reconciled_at"], waiting["error"]) == ("queued", None, "no answer")  # type: ignore[index]
    with engine.begin() as connection:
        customers.mark_dirty(connection, customer_row(engine), evidence_no=None, lane="read")
        connection.execute(text("UPDATE cardsync.customers SET due_at = clock_timestamp()"))
    reconcile_now(engine, customer_row(engine))
    done = client.get(where, headers=bearer()).json
    assert (done["status"], done["error"]) == ("done", None)  # type: ignore[index]
    assert done["reconciled_at"] >= done["requested_at"]  # type: ignore[index]


def test_a_look_that_was_never_asked_for_is_not_found(client: FlaskClient, bearer: Bearer) -> None:
    response = client.get(f"/v1/reconciliations/{uuid.UUID(int=1)}", headers=bearer())
    assert (response.status_code, response.json["code"]) == (404, "reconciliation_not_found")  # type: ignore[index]


def test_a_customer_says_how_fresh_it_is(client: FlaskClient, engine: Engine, bearer: Bearer) -> None:
    unknown = client.get("/v1/customers", query_string=WHO, headers=bearer("cards:read"))
    assert (unknown.status_code, unknown.json["code"]) == (404, "customer_not_found")  # type: ignore[index]
    add_card(engine)
    found = client.get("/v1/customers", query_string=WHO, headers=bearer("cards:read")).json
    assert found is not None
    assert set(found) == {*WHO, "reconciled_at", "dirty_since", "last_error"}
    assert found["customer_id"] == "cust-1"


def test_a_customers_deletions_are_listed_the_newest_first(
    client: FlaskClient, post: Callable[..., TestResponse], engine: Engine, bearer: Bearer
) -> None:
    one, other = add_card(engine, token="tok-fake-0001"), add_card(engine, token="tok-fake-0002")
    elsewhere = add_card(engine, token="tok-fake-0003", customer_id="cust-2")
    for card_id in (one, other, elsewhere):
        post("/v1/deletions", {"card_id": str(card_id)}, f"k-{card_id}")

    def listed(**more: object) -> list[str]:
        answer = client.get("/v1/deletions", query_string={**WHO, **more}, headers=bearer("cards:read")).json
        return [d["card_id"] for d in answer["deletions"]]  # type: ignore[index]

    assert listed() == [str(other), str(one)]
    assert listed(limit=1) == [str(other)]
    assert listed(status="pending") == [str(other), str(one)]
    assert listed(status="done") == listed(environment="production") == listed(customer_id="nobody") == []


def test_a_deletion_that_does_not_go_on_says_why_in_a_code(
    client: FlaskClient, post: Callable[..., TestResponse], engine: Engine, bearer: Bearer
) -> None:
    codes: dict[str, str] = {}
    moves: dict[str, tuple[deletion.Phase, deletion.Event]] = {
        "blocked": ("refused", "listed"),
        "gave_up": ("asked", "gave_up"),
    }
    for number, how in enumerate(("blocked", "gave_up", "no_api", "cancelled", "held", "none")):
        card_id = add_card(engine, token=f"tok-fake-000{number}")
        asked = post("/v1/deletions", {"card_id": str(card_id)}, how).json
        assert asked is not None
        deletion_id = uuid.UUID(asked["deletion_id"])
        with engine.begin() as connection:
            if how == "blocked":
                connection.execute(
                    text("""
                        UPDATE cardsync.deletions SET phase = 'refused', called_at = now(), due_at = NULL, rung_at = NULL
                        WHERE deletion_id = :id
                    """),
                    {"id": deletion_id},
                )
            if how in moves:
                transitions.move(connection, deletion_id, *moves[how], error="no answer")
            elif how == "no_api":
                transitions.move(connection, deletion_id, "asked", "gave_up", error=requests.NO_API)
            elif how == "cancelled":
                requests.cancel(connection, deletion_id, by="an operator")
            elif how == "held":
                connection.execute(
                    text("UPDATE cardsync.deletions SET due_at = 'infinity', error = 'held' WHERE deletion_id = :id"),
                    {"id": deletion_id},
                )
        codes[how] = client.get(f"/v1/deletions/{deletion_id}", headers=bearer()).json["code"]  # type: ignore[index]
    assert codes == {
        "blocked": "card_locked",
        "gave_up": "gave_up",
        "no_api": "cards_api_unavailable",
        "cancelled": "cancelled",
        "held": "held",
        "none": None,
    }
    assert set(codes.values()) - {None} == set(requests.CODES)


def test_an_operators_program_sees_what_waits_and_what_failed(
    client: FlaskClient, post: Callable[..., TestResponse], engine: Engine, bearer: Bearer
) -> None:
    asked = [post("/v1/deletions", {"card_id": str(add_card(engine, f"c-{n}"))}, f"k-{n}").json for n in range(2)]
    with engine.begin() as connection:
        transitions.move(connection, uuid.UUID(asked[0]["deletion_id"]), "asked", "gave_up", error="no answer")  # type: ignore[index]
    headers = bearer("ops")
    status = client.get("/v1/ops/status", headers=headers).json
    assert (status["open_deletions"], status["calls_spent"], status["removal_brake_engaged"]) == (1, 0, False)  # type: ignore[index]
    failed = client.get("/v1/ops/deletions", query_string={"status": "failed"}, headers=headers).json
    assert [d["deletion_id"] for d in failed["deletions"]] == [asked[0]["deletion_id"]]  # type: ignore[index]
    for path in ("/v1/ops/status", "/v1/ops/deletions"):
        assert client.get(path, headers=bearer("cards:read", "cards:delete")).status_code == 403


def test_each_answer_says_how_many_requests_the_key_has_left(client: FlaskClient, engine: Engine) -> None:
    key = keys.new_key()
    with engine.begin() as connection:
        keys.create(connection, "slow", keys.key_hash(key), ["cards:read"], terms=keys.Terms(requests_per_second=2))
    answers = [client.get("/v1/cards", query_string=WHO, headers={"Authorization": f"Bearer {key}"}) for _ in range(40)]
    assert {answer.headers["RateLimit-Policy"] for answer in answers} == {'"requests";q=2;w=1'}
    assert answers[0].headers["RateLimit"] == '"requests";r=1;t=1'
    limited = [answer for answer in answers if answer.status_code == 429]
    assert limited
    assert {answer.headers["RateLimit"] for answer in limited} == {'"requests";r=0;t=1'}
    assert {answer.headers["Retry-After"] for answer in limited} == {"1"}
    assert "RateLimit" not in client.get("/v1/cards", query_string=WHO).headers


@pytest.mark.parametrize("path", ["/v1/cards", "/v1/customers", "/v1/deletions"])
def test_a_read_that_found_the_same_again_has_no_body(
    client: FlaskClient, engine: Engine, bearer: Bearer, path: str
) -> None:
    add_card(engine)
    headers = bearer()
    first = client.get(path, query_string=WHO, headers=headers)
    tag = first.headers["ETag"]
    same = client.get(path, query_string=WHO, headers={**headers, "If-None-Match": tag})
    assert (same.status_code, same.data, same.headers["ETag"]) == (304, b"", tag)
    assert same.headers["Cache-Control"] == "no-store"
    add_card(engine, token="tok-fake-0002")
    other = client.get(path, query_string=WHO, headers={**headers, "If-None-Match": '"another"'})
    assert other.status_code == 200
    if path == "/v1/cards":
        assert client.get(path, query_string=WHO, headers={**headers, "If-None-Match": tag}).status_code == 200


def test_an_answer_that_is_no_success_has_no_tag(client: FlaskClient, bearer: Bearer) -> None:
    assert "ETag" not in client.get("/v1/cards", headers=bearer()).headers
    assert "ETag" not in client.post("/v1/reconciliations", json=WHO, headers=bearer()).headers


def test_every_post_of_the_api_takes_a_key_and_says_when_its_answer_is_given_again(
    app: Flask, client: FlaskClient, engine: Engine, bearer: Bearer
) -> None:
    from tests.web.test_lifecycle import card_with_agreement

    card_with_agreement(engine)
    with engine.connect() as connection:
        card_id = str(connection.execute(text("SELECT card_id FROM registry.cards")).scalar_one())
    bodies: dict[str, dict[str, Any]] = {
        "/v1/charges": {"environment": "sandbox", "agreement_id": "A"},
        "/v1/reconciliations": WHO,
        "/v1/deletions": {"card_id": card_id},
        "/v1/customers/erase": {"customer_id": WHO["customer_id"]},
    }
    routes = {r.rule for r in app.url_map.iter_rules() if r.rule.startswith("/v1/") and "POST" in (r.methods or set())}
    assert routes == set(bodies), "a new POST needs a body here, and an idempotency key"
    headers = bearer("cards:reconcile", "cards:delete")
    for route, body in bodies.items():
        first, again = (client.post(route, json=body, headers={**headers, "Idempotency-Key": "k"}) for _ in range(2))
        assert first.status_code == again.status_code == 202, route
        assert first.json == again.json, route
        assert (first.headers.get(REPLAYED), again.headers.get(REPLAYED)) == (None, "true"), route
        other = client.post(
            route, json={**body, "environment": "production"}, headers={**headers, "Idempotency-Key": "k"}
        )
        assert other.status_code in (409, 422), route
        wrong = client.post(route, json=body, headers={**headers, "Idempotency-Key": "ü"})
        assert (wrong.status_code, wrong.json["errors"][0]["field"]) == (422, "Idempotency-Key"), route  # type: ignore[index]


def test_a_charge_that_is_told_twice_with_one_key_is_noted_once_and_rings_once(
    client: FlaskClient, engine: Engine, bearer: Bearer, bells: NotingBells
) -> None:
    from tests.web.test_lifecycle import card_with_agreement, tell

    card_with_agreement(engine)
    near = (dt.datetime.now(dt.UTC) + dt.timedelta(hours=2)).isoformat()
    headers = {**bearer("cards:reconcile"), "Idempotency-Key": "charge-1"}
    first, again = (tell(client, headers, next_charge_at=near) for _ in range(2))
    assert (first.status_code, first.json) == (again.status_code, again.json)
    assert again.headers[REPLAYED] == "true"
    assert bells.rung == 1
    other = tell(client, headers, charged_at=dt.datetime.now(dt.UTC).isoformat())
    assert (other.status_code, other.json["code"]) == (409, "idempotency_key_reused")  # type: ignore[index]
