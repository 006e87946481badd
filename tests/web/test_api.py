"""The API: who may see what, what is refused and how, and how fresh it is."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from cardsync import db
from cardsync.store.access import keys, token_reads
from cardsync.store.access.keys import Scope
from tests.web.conftest import NotingBells
from tests.web.rows import KILL_ALL, add_card, remove_card

Bearer = Callable[..., dict[str, str]]
QUERY = {"environment": "sandbox", "customer_id": "cust-1"}
CARD_FIELDS = {
    *("card_id", "environment", "customer_id", "status", "pg_code", "pg_name", "brand", "number", "last4"),
    *("expiry_month", "expiry_year", "expires_on", "is_expired", "is_preferred", "cvv_required", "auto_debit"),
    *("agreements", "name_on_card", "first_seen_at", "confirmed_at", "removed_at", "removed_because"),
}


def test_a_card_has_exactly_the_fields_of_the_contract(client: FlaskClient, engine: Engine, bearer: Bearer) -> None:
    card_id = add_card(engine, brand="VISA", expiry_month="01", expiry_year="39", cvv_required=False)
    answer = client.get("/v1/cards", query_string=QUERY, headers=bearer("cards:read")).json
    assert answer is not None
    assert set(answer) == {"cards", "reconciled_at", "stale"}
    assert (answer["reconciled_at"], answer["stale"]) == (None, False)
    (card,) = answer["cards"]
    assert set(card) == CARD_FIELDS
    assert card["card_id"] == str(card_id)
    assert (card["expires_on"], card["auto_debit"], card["last4"]) == ("2039-01-31", True, "0001")
    assert card["first_seen_at"].endswith("Z")


def test_a_customer_nothing_is_known_of_has_no_cards(client: FlaskClient, bearer: Bearer) -> None:
    response = client.get("/v1/cards", query_string=QUERY, headers=bearer("cards:read"))
    assert (response.status_code, response.json) == (200, {"cards": [], "reconciled_at": None, "stale": False})


def test_the_preferred_card_comes_first_then_the_newest(client: FlaskClient, engine: Engine, bearer: Bearer) -> None:
    old, preferred, new = (add_card(engine, token=f"tok-fake-000{i}", is_preferred=i == 2) for i in (1, 2, 3))
    answer = client.get("/v1/cards", query_string=QUERY, headers=bearer("cards:read")).json
    assert [c["card_id"] for c in answer["cards"]] == [str(preferred), str(new), str(old)]  # type: ignore[index]


def test_only_what_is_asked_for_is_shown(client: FlaskClient, engine: Engine, bearer: Bearer) -> None:
    headers = bearer("cards:read", "tokens:read")
    active = add_card(engine, token="tok-fake-0001", pg_code="a")
    removed = add_card(engine, token="tok-fake-0002", pg_code="b")
    remove_card(engine, removed)
    add_card(engine, token="tok-fake-0003", environment="production")

    def shown(**more: object) -> set[str]:
        answer = client.get("/v1/cards", query_string={**QUERY, **more}, headers=headers).json
        return {c["card_id"] for c in answer["cards"]}  # type: ignore[index]

    assert shown() == {str(active)}
    assert shown(status="removed") == {str(removed)}
    assert shown(status=["removed", "active"]) == shown(status="all") == {str(active), str(removed)}
    assert shown(pg_code="a") == {str(active)}
    assert shown(status="all", pg_code="b") == {str(removed)}
    assert shown(pg_code="c") == set()


def test_tokens_need_their_scope_and_an_active_card(client: FlaskClient, engine: Engine, bearer: Bearer) -> None:
    active = add_card(engine, token="tok-fake-0001", agreement_ids=("agr-1",))
    removed = add_card(engine, token="tok-fake-0002")
    remove_card(engine, removed)
    agreement = {"environment": "sandbox", "agreement_id": "agr-1"}
    for headers, expected in ((bearer("cards:read", "tokens:read"), "tok-fake-0001"), (bearer("cards:read"), None)):
        listed = client.get("/v1/cards", query_string={**QUERY, "status": "all"}, headers=headers)
        by_id = {c["card_id"]: c for c in listed.json["cards"]}  # type: ignore[index]
        one = client.get(f"/v1/cards/{active}", headers=headers).json
        charged = client.get("/v1/agreements/card", query_string=agreement, headers=headers).json
        gone = client.get(f"/v1/cards/{removed}", headers=headers).json
        for card in (by_id[str(active)], one, charged):
            assert card.get("token") == expected  # type: ignore[union-attr]
            assert ("token" in card) is (expected is not None)  # type: ignore[operator]
        for card in (by_id[str(removed)], gone):
            assert card.get("token") is None  # type: ignore[union-attr]
        assert gone["status"] == "removed"  # type: ignore[index]


def test_each_token_that_is_given_leaves_a_record_and_nothing_else_does(
    client: FlaskClient, engine: Engine, bearer: Bearer
) -> None:
    card_id, other = add_card(engine, agreement_ids=("A",)), add_card(engine, token="9999000000000002")
    remove_card(engine, other)
    paths = (f"/v1/cards/{card_id}", f"/v1/cards/{other}", "/v1/agreements/card?environment=sandbox&agreement_id=A")
    for headers in (bearer("cards:read", "tokens:read"), bearer("cards:read")):
        client.get("/v1/cards", query_string={**QUERY, "status": "removed"}, headers=headers)
        client.get("/v1/cards", query_string=QUERY, headers=headers)
        for path in paths:
            client.get(path, headers=headers)
    with engine.connect() as connection:
        found = token_reads.listing(connection, card_id=None, key_id=None, limit=99)
    assert [read.card_id for read in found] == [card_id] * 3
    assert len({read.key_id for read in found}) == 1


def test_a_token_whose_record_cannot_be_written_is_not_given(
    client: FlaskClient, engine: Engine, bearer: Bearer
) -> None:
    card_id = add_card(engine)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE cardsync.token_reads ADD CHECK (false) NOT VALID"))
    answer = client.get(f"/v1/cards/{card_id}", headers=bearer("cards:read", "tokens:read"))
    assert answer.status_code >= 500
    assert "9999000000000001" not in answer.text
    assert client.get(f"/v1/cards/{card_id}", headers=bearer("cards:read")).status_code == 200


def test_tokens_alone_open_nothing(client: FlaskClient, bearer: Bearer) -> None:
    assert client.get("/v1/cards", query_string=QUERY, headers=bearer("tokens:read")).status_code == 403


@pytest.mark.parametrize("path", ["/v1/cards/{0}", "/v1/cards/{0}/", "/v1/nothing"])
def test_what_is_not_there_is_404(client: FlaskClient, bearer: Bearer, path: str) -> None:
    response = client.get(path.format(uuid.uuid4()), headers=bearer())
    assert (response.status_code, response.content_type) == (404, "application/problem+json")


def test_an_agreement_without_a_card_is_404(client: FlaskClient, bearer: Bearer) -> None:
    query = {"environment": "sandbox", "agreement_id": "agr-1"}
    assert client.get("/v1/agreements/card", query_string=query, headers=bearer()).status_code == 404


CALLS: list[tuple[str, str, Scope, int]] = [
    ("GET", "/v1/cards?environment=sandbox&customer_id=c", "cards:read", 200),
    ("GET", f"/v1/cards/{uuid.UUID(int=1)}", "cards:read", 404),
    ("GET", "/v1/agreements/card?environment=sandbox&agreement_id=a", "cards:read", 404),
    ("POST", "/v1/reconciliations", "cards:reconcile", 202),
]


@pytest.mark.parametrize("held", keys.SCOPES)
@pytest.mark.parametrize(("method", "path", "needed", "status"), CALLS)
def test_each_call_needs_its_scope(
    client: FlaskClient, bearer: Bearer, method: str, path: str, needed: Scope, status: int, held: Scope
) -> None:
    body = {"environment": "sandbox", "customer_id": "c"} if method == "POST" else None
    response = client.open(path, method=method, json=body, headers=bearer(held))
    if held == needed:
        assert response.status_code == status
    else:
        assert response.status_code == 403
        assert response.json["scope"] == needed  # type: ignore[index]
        assert needed in response.headers["WWW-Authenticate"]


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Bearer nonsense", "Basic {0}", "{0}", "Bearer {0}x", "Bearer csk_" + "A" * 43],
)
@pytest.mark.parametrize(("method", "path", "needed", "status"), CALLS)
def test_without_a_valid_key_it_is_401(
    client: FlaskClient, method: str, path: str, needed: Scope, status: int, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization.format(keys.new_key())}
    response = client.open(path, method=method, headers=headers)
    assert (response.status_code, response.content_type) == (401, "application/problem+json")
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_revoked_key_opens_nothing(client: FlaskClient, engine: Engine, bearer: Bearer) -> None:
    headers = bearer("cards:read")
    assert client.get("/v1/cards", query_string=QUERY, headers=headers).status_code == 200
    with engine.begin() as connection:
        (listed,) = keys.listing(connection)
        assert keys.revoke(connection, listed.key_id)
        assert not keys.revoke(connection, listed.key_id)
    assert client.get("/v1/cards", query_string=QUERY, headers=headers).status_code == 401


def test_of_a_key_only_a_hash_is_kept(engine: Engine, bearer: Bearer) -> None:
    key = bearer()["Authorization"].removeprefix("Bearer ")
    with engine.connect() as connection:
        row = connection.execute(text("SELECT k::text FROM cardsync.api_keys AS k")).scalar_one()
    assert key not in row
    assert key.removeprefix("cs_live_") not in row


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("customer_id=c", "environment"),
        ("environment=sandbox", "customer_id"),
        ("environment=test&customer_id=c", "environment"),
        ("environment=sandbox&customer_id=", "customer_id"),
        ("environment=sandbox&customer_id=" + "x" * 65, "customer_id"),
        ("environment=sandbox&customer_id=a%00b", "customer_id"),
        ("environment=sandbox&customer_id=%ED%A0%80", ""),
        ("environment=sandbox&customer_id=%FF", ""),
        ("environment=sandbox&customer_id=c&customer_id=d", "customer_id"),
        ("environment=sandbox&customer_id=c&status=gone", "status"),
        ("environment=sandbox&customer_id=c&status=", "status"),
        ("environment=sandbox&customer_id=c&pg_code=", "pg_code"),
        *(
            (f"environment=sandbox&customer_id=c&max_age={age}", "max_age")
            for age in ("-1", "1.5", "x", "", "1e3", "9" * 20, "%D9%A1")
        ),
        ("environment=sandbox&customer_id=c&maxage=5", "maxage"),
        ("environment=sandbox&customer_id=c&9999000000000001=5", ""),
        ("&".join(f"a{i}=1" for i in range(60)), ""),
    ],
)
def test_a_bad_query_is_422_and_names_the_field_alone(
    client: FlaskClient, bearer: Bearer, query: str, field: str
) -> None:
    response = client.get(f"/v1/cards?{query}", headers=bearer())
    assert (response.status_code, response.content_type) == (422, "application/problem+json")
    assert field in [e["field"] for e in response.json["errors"]]  # type: ignore[index]
    assert "9999000000000001" not in response.text


@pytest.mark.parametrize("customer_id", ["a/b", "a&b=c", "%2F", "مرحبا", "a+b c", "'; --", "💳" * 64])
def test_any_customer_id_can_be_asked_for(
    client: FlaskClient, engine: Engine, bearer: Bearer, customer_id: str
) -> None:
    card_id = add_card(engine, customer_id=customer_id)
    answer = client.get("/v1/cards", query_string={**QUERY, "customer_id": customer_id}, headers=bearer()).json
    assert [(c["card_id"], c["customer_id"]) for c in answer["cards"]] == [(str(card_id), customer_id)]  # type: ignore[index]


def test_a_reconciliation_is_queued_and_rung_for(
    client: FlaskClient, engine: Engine, bearer: Bearer, bells: NotingBells
) -> None:
    response = client.post("/v1/reconciliations", json=QUERY, headers=bearer("cards:reconcile"))
    assert response.status_code == 202
    assert {name: response.json[name] for name in (*QUERY, "status")} == {**QUERY, "status": "queued"}  # type: ignore[index]
    with engine.connect() as connection:
        row = connection.execute(text("SELECT id, dirty_since, lane FROM cardsync.customers")).one()
    assert row.dirty_since is not None
    assert (row.lane, bells.rung) == ("read", 1)  # within the share of API keys


def test_without_a_list_there_is_nothing_to_reconcile_with(make_app: Callable[..., Flask], bearer: Bearer) -> None:
    client = make_app(ottu_cards_api="unavailable").test_client()
    assert client.post("/v1/reconciliations", json=QUERY, headers=bearer()).status_code == 409
    answer = client.get("/v1/cards", query_string={**QUERY, "max_age": 0}, headers=bearer())
    assert (answer.status_code, answer.json["stale"]) == (200, True)  # type: ignore[index]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"", "application/json", 400),
        (b"not json", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"[" * 50_000, "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"{}", "application/json", 422),
        (b'{"environment": "sandbox"}', "application/json", 422),
        (b'{"environment": "sandbox", "customer_id": ""}', "application/json", 422),
        (b'{"environment": "sandbox", "customer_id": 5}', "application/json", 422),
        (b'{"environment": "sandbox", "customer_id": null}', "application/json", 422),
        (b'{"environment": "sandbox", "customer_id": "a\\u0000"}', "application/json", 422),
        (b'{"environment": "sandbox", "customer_id": "\\ud800"}', "application/json", 422),
        (b'{"environment": "sandbox", "customer_id": "' + b"x" * 65 + b'"}', "application/json", 422),
        (b'{"environment": "sandbox", "customer_id": "c", "more": 1}', "application/json", 422),
        (b'{"environment": ["sandbox"], "customer_id": "c"}', "application/json", 422),
        (b" " * 70_000, "application/json", 413),
    ],
)
def test_a_bad_body_is_refused(
    client: FlaskClient, bearer: Bearer, body: bytes, content_type: str, status: int
) -> None:
    length = {"CONTENT_LENGTH": str(len(body))}  # which the test client leaves out when it is 0
    response = client.post(
        "/v1/reconciliations", data=body, content_type=content_type, headers=bearer(), environ_overrides=length
    )
    assert (response.status_code, response.content_type) == (status, "application/problem+json")


def test_without_the_database_it_is_503(make_app: Callable[..., Flask], bearer: Bearer) -> None:
    away = db.make_engine("postgresql://nobody@127.0.0.1:1/none")
    response = make_app(engine=away).test_client().get("/v1/cards", query_string=QUERY, headers=bearer())
    assert (response.status_code, response.content_type) == (503, "application/problem+json")
    assert "Retry-After" in response.headers


def test_a_restart_of_the_database_costs_a_reader_nothing(client: FlaskClient, engine: Engine, bearer: Bearer) -> None:
    headers = bearer()
    assert client.get("/v1/cards", query_string=QUERY, headers=headers).status_code == 200
    with engine.connect() as connection:
        connection.execute(KILL_ALL)
    assert client.get("/v1/cards", query_string=QUERY, headers=headers).status_code == 200
