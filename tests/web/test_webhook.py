"""The webhook: every answer of the contract, and what is left behind by it."""

from __future__ import annotations

import io
import json
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from cardsync import db
from cardsync.web.webhook import PATH
from tests import payloads
from tests.web.conftest import NotingBells
from tests.web.registry_rows import KILL_ALL

JSON = "application/json"


def send(client: FlaskClient, body: bytes, content_type: str | None = JSON, **kwargs: Any) -> Any:
    length = {"CONTENT_LENGTH": str(len(body))}  # which the test client leaves out when it is 0
    return client.post(PATH, data=body, content_type=content_type, environ_overrides=length, **kwargs)


def rows(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.execute(text("SELECT e::text FROM cardsync.events AS e ORDER BY evidence_no")).scalars())


@pytest.mark.parametrize("ack_status", [200, 201])
def test_a_saved_card_is_accepted_and_rung_for(
    make_app: Callable[..., Flask], bells: NotingBells, engine: Engine, ack_status: int
) -> None:
    response = send(make_app(ack_status=ack_status).test_client(), payloads.signed(payloads.save_card()))
    assert response.status_code == ack_status
    assert response.json is not None
    assert response.json["status"] == "accepted"
    assert bells.events == [uuid.UUID(response.json["event_id"])]
    assert len(rows(engine)) == 1


@pytest.mark.parametrize("scheme", ["standard", "subscription"])
def test_which_key_and_scheme_vouched_is_recorded(client: FlaskClient, engine: Engine, scheme: str) -> None:
    send(client, payloads.signed(payloads.save_card(), scheme=scheme))  # type: ignore[arg-type]
    with engine.connect() as connection:
        row = connection.execute(text("SELECT scheme, key_id FROM cardsync.events")).one()
    assert row.scheme == scheme
    assert payloads.KEY not in row.key_id
    assert len(row.key_id) == 12


def test_nothing_personal_is_stored_answered_or_logged(
    client: FlaskClient, engine: Engine, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        answers = [send(client, payloads.signed(p)).text for p in (payloads.save_card(), payloads.operation())]
        refused = send(client, json.dumps(payloads.save_card()).encode()).text
    stored = rows(engine)
    assert len(stored) == 2
    written = "".join(capsys.readouterr()) + caplog.text
    payloads.assert_nothing_personal(*stored, *answers, refused, written)
    assert payloads.TOKEN not in written + refused


def test_a_card_number_in_place_of_a_mask_is_not_stored(client: FlaskClient, engine: Engine) -> None:
    fields = {"number": payloads.FULL_NUMBER, "name_on_card": payloads.FULL_NUMBER, "brand": payloads.FULL_NUMBER}
    assert send(client, payloads.signed(payloads.save_card(token_fields=fields))).status_code == 200
    assert payloads.FULL_NUMBER not in "".join(rows(engine))


@pytest.mark.parametrize("payload", [payloads.operation(), payloads.payment(token=None), {"amount": "1.000"}])
def test_what_is_of_no_interest_is_ignored_with_success(
    client: FlaskClient, bells: NotingBells, payload: payloads.Payload
) -> None:
    response = send(client, payloads.signed(payload))
    assert (response.status_code, response.json["status"]) == (200, "ignored")
    assert bells.events == []


def test_a_duplicate_is_recognised(client: FlaskClient, engine: Engine) -> None:
    body = payloads.signed(payloads.save_card())
    first, second = send(client, body), send(client, body)
    assert [first.json["status"], second.json["status"]] == ["accepted", "duplicate"]
    assert first.json["event_id"] == second.json["event_id"]
    assert second.status_code == 200
    assert len(rows(engine)) == 1


def test_a_duplicate_opens_an_event_again_whose_work_failed(
    client: FlaskClient, engine: Engine, bells: NotingBells
) -> None:
    body = payloads.signed(payloads.save_card())
    event_id = uuid.UUID(send(client, body).json["event_id"])
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.events SET status = 'failed', attempts = 10"))
    bells.events.clear()
    assert send(client, body).json["status"] == "duplicate"
    assert bells.events == [event_id]
    with engine.connect() as connection:
        assert connection.execute(text("SELECT status, attempts FROM cardsync.events")).one() == ("pending", 0)


def _with_signature(signature: object) -> bytes:
    return json.dumps({**payloads.save_card(), "signature": signature}).encode()


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(payloads.save_card()).encode(),
        _with_signature("0" * 64),
        _with_signature("\u0663" * 64),
        _with_signature("\ud800"),
        _with_signature(""),
        _with_signature(None),
        _with_signature(7),
        _with_signature(["0" * 64]),
        payloads.signed(payloads.save_card(), key="another-key"),
        payloads.signed(payloads.save_card()).upper().replace(b"SIGNATURE", b"signature"),
        payloads.signed({"token": payloads.card()}),
        b"{}",
    ],
)
def test_what_nobody_vouches_for_is_401_and_leaves_no_row(client: FlaskClient, engine: Engine, body: bytes) -> None:
    response = send(client, body)
    assert response.status_code in (400, 401)
    assert response.content_type == "application/problem+json"
    assert rows(engine) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b'"text"',
        b"null",
        b"\xff\xfe",
        b'{"a": NaN}',
        b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b'{"signature": "' + b"0" * 64 + b'"',
    ],
    ids=lambda body: repr(body[:12]),
)
def test_what_is_no_json_object_is_400(client: FlaskClient, engine: Engine, body: bytes) -> None:
    response = send(client, body)
    assert (response.status_code, response.content_type) == (400, "application/problem+json")
    assert rows(engine) == []


@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "application/xml", "text/json", "application/jsonx", "+json", "x/y+json"]
)
def test_another_media_type_is_415(client: FlaskClient, content_type: str | None) -> None:
    assert send(client, payloads.signed(payloads.save_card()), content_type).status_code == 415


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.ottu.v2+json"]
)
def test_json_under_any_of_its_names_is_taken(client: FlaskClient, content_type: str) -> None:
    assert send(client, payloads.signed(payloads.save_card()), content_type).status_code == 200


class _Unreadable(io.BytesIO):
    def read(self, *_: object) -> bytes:
        raise AssertionError("the body was read")


@pytest.mark.parametrize(
    ("environ", "status"),
    [
        ({"CONTENT_LENGTH": ""}, 411),
        ({"CONTENT_LENGTH": "-1"}, 411),
        ({"CONTENT_LENGTH": "1e3"}, 411),
        ({"CONTENT_LENGTH": "\u0661"}, 411),
        ({"CONTENT_LENGTH": "10", "HTTP_TRANSFER_ENCODING": "chunked"}, 411),
        ({"CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked"}, 411),
        ({"CONTENT_LENGTH": "1025"}, 413),
        ({"CONTENT_LENGTH": "9" * 5_000}, 413),
    ],
)
def test_the_length_decides_before_a_byte_is_read(
    make_app: Callable[..., Flask], environ: dict[str, str], status: int
) -> None:
    client = make_app(max_body_bytes=1_024).test_client()
    given = {"wsgi.input": _Unreadable(), "CONTENT_TYPE": JSON, **environ}
    response = client.post(PATH, environ_overrides=given)
    assert (response.status_code, response.content_type) == (status, "application/problem+json")


def test_a_body_of_two_megabytes_is_413(client: FlaskClient) -> None:
    assert send(client, b'{"a": "' + b"x" * 2_000_000 + b'"}').status_code == 413


def test_a_body_shorter_than_announced_is_400(client: FlaskClient) -> None:
    body = payloads.signed(payloads.save_card())
    given = {"wsgi.input": io.BytesIO(body[:-10]), "CONTENT_LENGTH": str(len(body)), "CONTENT_TYPE": JSON}
    assert client.post(PATH, environ_overrides=given).status_code == 400


class _Broken(io.BytesIO):
    def read(self, *_: object) -> bytes:
        raise OSError("connection reset")


def test_a_connection_that_breaks_in_the_body_is_400(client: FlaskClient) -> None:
    given = {"wsgi.input": _Broken(), "CONTENT_LENGTH": "10", "CONTENT_TYPE": JSON}
    assert client.post(PATH, environ_overrides=given).status_code == 400


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_other_methods_are_405(client: FlaskClient, method: str) -> None:
    response = client.open(PATH, method=method)
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize("customer_id", ["a/b", "a'b\"c", "%2F%00", "  ", "مرحبا", "💳" * 64, "../..", "a\nb", "0"])
def test_odd_customer_ids_are_kept_exactly(client: FlaskClient, engine: Engine, customer_id: str) -> None:
    assert send(client, payloads.signed(payloads.save_card(customer_id=customer_id))).json["status"] == "accepted"
    with engine.connect() as connection:
        assert connection.execute(text("SELECT customer_id FROM cardsync.events")).scalar_one() == customer_id


@pytest.mark.parametrize("customer_id", ["", "x" * 65, "a\x00b", "\ud800", None, [], 7, True, {"a": 1}])
def test_impossible_customer_ids_are_never_an_error_of_ours(client: FlaskClient, customer_id: object) -> None:
    response = send(client, payloads.signed(payloads.save_card(customer_id=customer_id)))  # type: ignore[arg-type]
    assert response.status_code == 200


@pytest.mark.parametrize("value", [None, True, 7, 1.5, "x" * 10_000, "a\x00b", [1, [2]], {"a": {"b": []}}, "\ud800"])
@pytest.mark.parametrize(
    "name", ["is_sandbox", "session_id", "state", "payment_type", "agreement", "token", "operation"]
)
def test_odd_values_are_never_an_error_of_ours(client: FlaskClient, name: str, value: object) -> None:
    try:
        body = payloads.signed({**payloads.save_card(), name: value})
    except UnicodeEncodeError:  # what has no UTF-8 cannot be signed
        body = json.dumps({**payloads.save_card(), name: value, "signature": "0" * 64}).encode()
    assert send(client, body).status_code in (200, 401)


AWAY = "postgresql://nobody@127.0.0.1:1/none"


def without_database(make_app: Callable[..., Flask]) -> FlaskClient:
    return make_app(ingest_engine=db.make_engine(AWAY, autocommit=True)).test_client()


def test_without_the_database_it_is_kept_on_disk_under_the_id_of_the_row_to_come(
    make_app: Callable[..., Flask], client: FlaskClient, bells: NotingBells
) -> None:
    away, body = without_database(make_app), payloads.signed(payloads.save_card())
    answers = [send(away, body), send(away, body)]
    assert [(a.status_code, a.json["status"]) for a in answers] == [(200, "accepted")] * 2
    assert send(away, payloads.signed(payloads.operation())).json["status"] == "ignored"
    assert bells.events == []  # whoever makes the rows rings
    ids = {a.json["event_id"] for a in answers}
    assert ids == {send(client, body).json["event_id"]}


def test_what_is_not_authentic_does_not_reach_the_disk(make_app: Callable[..., Flask], tmp_path: Path) -> None:
    away = without_database(make_app)
    assert send(away, json.dumps(payloads.save_card()).encode()).status_code == 401
    assert send(away, b"[]").status_code == 400
    assert list(tmp_path.rglob("spool")) == []


def test_what_the_database_refuses_for_its_content_is_kept_and_the_database_is_asked_on(
    make_app: Callable[..., Flask], engine: Engine, tmp_path: Path
) -> None:
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE cardsync.events ADD CHECK (customer_id <> 'odd')"))
    client = make_app().test_client()
    assert send(client, payloads.signed(payloads.save_card("odd"))).json["status"] == "accepted"
    assert len(list(tmp_path.rglob("*.hint"))) == 1
    assert send(client, payloads.signed(payloads.save_card("cust-1"))).json["status"] == "accepted"
    assert len(rows(engine)) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER DATABASE CURRENT SET default_transaction_read_only = on",
        "ALTER TABLE cardsync.events RENAME TO elsewhere",
    ],
)
def test_a_database_that_answers_but_takes_no_hint_is_one_that_is_away(
    make_app: Callable[..., Flask], engine: Engine, tmp_path: Path, statement: str
) -> None:
    with engine.begin() as connection:
        name = connection.execute(text("SELECT current_database()")).scalar_one()
        connection.execute(text(statement.replace("CURRENT", f'"{name}"')))
    assert send(make_app().test_client(), payloads.signed(payloads.save_card())).json["status"] == "accepted"
    assert len(list(tmp_path.rglob("*.hint"))) == 1


@pytest.mark.parametrize("bounds", [{"spool_max_files": 1}, {"spool_max_bytes": 4_096}])
def test_with_neither_database_nor_room_on_disk_it_is_503_and_may_be_tried_again(
    make_app: Callable[..., Flask], bounds: dict[str, int]
) -> None:
    away = make_app(ingest_engine=db.make_engine(AWAY, autocommit=True), **bounds).test_client()
    assert send(away, payloads.signed(payloads.save_card("cust-1"))).status_code == 200
    response = send(away, payloads.signed(payloads.save_card("cust-2")))
    assert (response.status_code, response.content_type) == (503, "application/problem+json")
    assert int(response.headers["Retry-After"]) > 0
    figures = away.get("/metrics").text
    assert 'cardsync_hints_total{outcome="unavailable"}' in figures
    assert "cardsync_spool_files 1.0" in figures


def test_a_connection_that_died_unnoticed_costs_nothing(client: FlaskClient, engine: Engine) -> None:
    assert send(client, payloads.signed(payloads.save_card("cust-1"))).status_code == 200
    with engine.connect() as connection:
        connection.execute(KILL_ALL)
    assert send(client, payloads.signed(payloads.save_card("cust-2"))).status_code == 200


class _FullBells(NotingBells):
    """What the real bells do when the broker is frozen: drop, and return at once."""

    def ring_events(self, event_ids: Sequence[uuid.UUID]) -> None:
        return


def test_bells_that_ring_for_nobody_delay_nothing(make_app: Callable[..., Flask]) -> None:
    client = make_app(bells=_FullBells()).test_client()
    send(client, payloads.signed(payloads.save_card("warm")))
    began = time.monotonic()
    assert send(client, payloads.signed(payloads.save_card("cust-1"))).status_code == 200
    assert time.monotonic() - began < 1.0


def test_a_request_id_is_kept_if_usable_and_made_up_otherwise(client: FlaskClient) -> None:
    body = payloads.signed(payloads.save_card())
    assert send(client, body, headers={"X-Request-ID": "abc-1.2_3"}).headers["X-Request-ID"] == "abc-1.2_3"
    for unusable in ("", "a b", "x" * 65, "<script>", "é"):
        made = send(client, body, headers={"X-Request-ID": unusable}).headers["X-Request-ID"]
        assert len(made) == 32
        assert made != unusable
