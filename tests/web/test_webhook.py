"""The webhook: every answer of the contract, and what is left behind by it."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text
from werkzeug.test import Client

from cardsync import db, metrics
from cardsync.core.repeats import ROWS_A_SIGNATURE
from cardsync.web.ingest.body import THROWN_AWAY_BYTES
from cardsync.web.ingest.endpoint import PATH
from cardsync.web.rate_limits import LINES_A_SECOND, RateLimitedLog
from tests import payloads
from tests.web.conftest import NotingBells
from tests.web.rows import KILL_ALL

JSON = "application/json"


@pytest.fixture
def client(make_client: Callable[..., Client]) -> Client:
    """Each test of this file runs twice: through the dispatcher, and through the Flask route."""
    return make_client()


def send(client: Client, body: bytes, content_type: str | None = JSON, **kwargs: Any) -> Any:
    length = {"CONTENT_LENGTH": str(len(body))}  # which the test client leaves out when it is 0
    return client.post(PATH, data=body, content_type=content_type, environ_overrides=length, **kwargs)


def rows(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.execute(text("SELECT e::text FROM cardsync.events AS e ORDER BY evidence_no")).scalars())


@pytest.mark.parametrize("ack_status", [200, 201])
def test_a_saved_card_is_accepted_and_rung_for(
    make_client: Callable[..., Client], bells: NotingBells, engine: Engine, ack_status: int
) -> None:
    response = send(make_client(ack_status=ack_status), payloads.signed(payloads.save_card()))
    assert response.status_code == ack_status
    assert response.json is not None
    assert response.json["status"] == "accepted"
    assert bells.rung == 1
    assert len(rows(engine)) == 1


@pytest.mark.parametrize("scheme", ["standard", "subscription"])
def test_which_key_and_scheme_vouched_is_recorded(client: Client, engine: Engine, scheme: str) -> None:
    send(client, payloads.signed(payloads.save_card(), scheme=scheme))  # type: ignore[arg-type]
    with engine.connect() as connection:
        row = connection.execute(text("SELECT scheme, key_id FROM cardsync.events")).one()
    assert row.scheme == scheme
    assert payloads.KEY not in row.key_id
    assert len(row.key_id) == 12


def test_a_bound_key_vouches_for_its_environment_only(make_client: Callable[..., Client], engine: Engine) -> None:
    client = make_client(ottu_webhook_keys=f"production:{payloads.KEY}")
    other = send(client, payloads.signed(payloads.save_card(environment="sandbox"), scheme="subscription"))
    wrong = send(client, payloads.signed(payloads.save_card(), key="another-key"))
    own = send(client, payloads.signed(payloads.save_card(environment="production"), scheme="subscription"))
    assert (other.status_code, other.json["detail"]) == (wrong.status_code, wrong.json["detail"])
    assert (other.status_code, own.status_code, len(rows(engine))) == (401, 200, 1)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT vouched FROM cardsync.events")).scalars().all() == [True]


def test_nothing_personal_is_stored_answered_or_logged(
    client: Client, engine: Engine, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        answers = [send(client, payloads.signed(p)).text for p in (payloads.save_card(), payloads.operation())]
        refused = send(client, json.dumps(payloads.save_card()).encode()).text
    stored = rows(engine)
    assert len(stored) == 2
    written = "".join(capsys.readouterr()) + caplog.text
    payloads.assert_nothing_personal(*stored, *answers, refused, written)
    assert payloads.TOKEN not in written + refused


def test_a_card_number_in_place_of_a_mask_is_not_stored(client: Client, engine: Engine) -> None:
    fields = {"number": payloads.FULL_NUMBER, "name_on_card": payloads.FULL_NUMBER, "brand": payloads.FULL_NUMBER}
    assert send(client, payloads.signed(payloads.save_card(token_fields=fields))).status_code == 200
    assert payloads.FULL_NUMBER not in "".join(rows(engine))


@pytest.mark.parametrize("payload", [payloads.operation(), payloads.payment(token=None), {"amount": "1.000"}])
def test_what_is_of_no_interest_is_ignored_with_success(
    client: Client, bells: NotingBells, payload: payloads.Payload
) -> None:
    response = send(client, payloads.signed(payload))
    assert (response.status_code, response.json["status"]) == (200, "ignored")
    assert bells.rung == 0


def test_a_duplicate_is_recognised(client: Client, engine: Engine) -> None:
    body = payloads.signed(payloads.save_card())
    first, second = send(client, body), send(client, body)
    assert [first.json["status"], second.json["status"]] == ["accepted", "duplicate"]
    assert first.json["event_id"] == second.json["event_id"]
    assert second.status_code == 200
    assert len(rows(engine)) == 1


def test_a_duplicate_opens_an_event_again_whose_work_failed(client: Client, engine: Engine, bells: NotingBells) -> None:
    body = payloads.signed(payloads.save_card())
    send(client, body)
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.events SET status = 'failed', attempts = 10"))
    bells.rung = 0
    assert send(client, body).json["status"] == "duplicate"
    assert bells.rung == 1
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
def test_what_nobody_vouches_for_is_401_and_leaves_no_row(client: Client, engine: Engine, body: bytes) -> None:
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
        b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b'{"signature": "' + b"0" * 64 + b'"',
    ],
    ids=lambda body: repr(body[:12]),
)
def test_what_is_no_json_object_is_400(client: Client, engine: Engine, body: bytes) -> None:
    response = send(client, body)
    assert (response.status_code, response.content_type) == (400, "application/problem+json")
    assert rows(engine) == []


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "text/json", "application/jsonx", "+json"])
def test_what_is_declared_as_something_else_and_is_no_json_is_415(client: Client, content_type: str) -> None:
    assert send(client, b"<payment/>", content_type).status_code == 415
    assert send(client, json.dumps(payloads.save_card()).encode(), content_type).status_code == 401


@pytest.mark.parametrize(
    "content_type",
    [
        *("application/json; charset=utf-8", "Application/JSON", "application/vnd.ottu.v2+json"),
        *(None, "", "text/plain", "text/json", "application/x-www-form-urlencoded"),
    ],
)
def test_json_that_a_signature_vouches_for_is_taken_whatever_its_media_type_says(
    client: Client, content_type: str | None
) -> None:
    assert send(client, payloads.signed(payloads.save_card()), content_type).status_code == 200


def test_what_a_signature_vouches_for_is_taken_though_it_is_not_quite_json(client: Client, engine: Engine) -> None:
    payload = {**payloads.save_card(), "gateway_response": {"fee": float("nan"), "rate": float("-inf")}}
    assert send(client, b"\xef\xbb\xbf" + payloads.signed(payload)).json["status"] == "accepted"
    lines = payloads.signed({**payloads.save_card(), "gateway_response": {"text": "two;lines"}})
    assert send(client, lines.replace(b"two;lines", b"two\n\tlines")).json["status"] == "accepted"
    assert len(rows(engine)) == 2


def test_a_signed_value_that_is_no_number_is_vouched_for_by_nothing(client: Client, engine: Engine) -> None:
    body = payloads.signed(payloads.save_card()).replace(b'"amount": "', b'"amount": NaN, "was": "', 1)
    assert send(client, body).status_code == 401
    assert rows(engine) == []


@pytest.mark.parametrize("path", [f"{PATH}/", "/hooks/of-ours-3f9c"])
def test_it_is_taken_with_a_slash_at_the_end_and_at_a_path_of_ones_own(
    make_client: Callable[..., Client], path: str
) -> None:
    client, body = make_client(webhook_path="/hooks/of-ours-3f9c"), payloads.signed(payloads.save_card())
    assert client.post(path, data=body, content_type=JSON).json["status"] == "accepted"
    assert client.post(PATH, data=body, content_type=JSON).json["status"] == "duplicate"


@pytest.mark.parametrize("path", ["/webhooks", "/webhooks/", "/webhooks/otu", "/webhooks/ottu/x"])
def test_what_comes_to_a_path_beside_it_is_404_and_counted(client: Client, path: str) -> None:
    before = metrics.HINTS.labels("unknown_path")._value.get()
    assert client.post(path, data=payloads.signed(payloads.save_card()), content_type=JSON).status_code == 404
    assert metrics.HINTS.labels("unknown_path")._value.get() == before + 1


class _Endless(io.BytesIO):
    """A body that never ends: whoever wants all of it fails."""

    given = 0

    def read(self, size: int | None = -1) -> bytes:
        assert size is not None
        assert size > 0, "the whole body was asked for"
        self.given += size
        return b"x" * size


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
def test_the_length_decides_before_a_byte_is_read_and_some_of_the_rest_is_thrown_away(
    make_client: Callable[..., Client], environ: dict[str, str], status: int, way_in: str
) -> None:
    client, body = make_client(max_body_bytes=1_024), _Endless()
    response = client.post(PATH, environ_overrides={"wsgi.input": body, "CONTENT_TYPE": JSON, **environ})
    assert (response.status_code, response.content_type) == (status, "application/problem+json")
    if way_in == "served":  # a sender who still writes would see a reset in place of the answer
        assert THROWN_AWAY_BYTES < body.given < 2 * THROWN_AWAY_BYTES
    else:
        assert body.given == 0


def test_a_body_of_two_megabytes_is_413(client: Client) -> None:
    assert send(client, b'{"a": "' + b"x" * 2_000_000 + b'"}').status_code == 413


def test_a_body_shorter_than_announced_is_400(client: Client) -> None:
    body = payloads.signed(payloads.save_card())
    given = {"wsgi.input": io.BytesIO(body[:-10]), "CONTENT_LENGTH": str(len(body)), "CONTENT_TYPE": JSON}
    assert client.post(PATH, environ_overrides=given).status_code == 400


class _Broken(io.BytesIO):
    def read(self, *_: object) -> bytes:
        raise OSError("connection reset")


def test_a_connection_that_breaks_in_the_body_is_400(client: Client) -> None:
    given = {"wsgi.input": _Broken(), "CONTENT_LENGTH": "10", "CONTENT_TYPE": JSON}
    assert client.post(PATH, environ_overrides=given).status_code == 400


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_other_methods_are_405(client: Client, method: str) -> None:
    response = client.open(PATH, method=method)
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize("customer_id", ["a/b", "a'b\"c", "%2F%00", "  ", "مرحبا", "💳" * 64, "../..", "a\nb", "0"])
def test_odd_customer_ids_are_kept_exactly(client: Client, engine: Engine, customer_id: str) -> None:
    assert send(client, payloads.signed(payloads.save_card(customer_id=customer_id))).json["status"] == "accepted"
    with engine.connect() as connection:
        assert connection.execute(text("SELECT customer_id FROM cardsync.events")).scalar_one() == customer_id


@pytest.mark.parametrize("customer_id", ["", "x" * 65, "a\x00b", "\ud800", None, [], 7, True, {"a": 1}])
def test_impossible_customer_ids_are_never_an_error_of_ours(client: Client, customer_id: object) -> None:
    response = send(client, payloads.signed(payloads.save_card(customer_id=customer_id)))  # type: ignore[arg-type]
    assert response.status_code == 200


@pytest.mark.parametrize("value", [None, True, 7, 1.5, "x" * 10_000, "a\x00b", [1, [2]], {"a": {"b": []}}, "\ud800"])
@pytest.mark.parametrize(
    "name", ["is_sandbox", "session_id", "state", "payment_type", "agreement", "token", "operation"]
)
def test_odd_values_are_never_an_error_of_ours(client: Client, name: str, value: object) -> None:
    try:
        body = payloads.signed({**payloads.save_card(), name: value})
    except UnicodeEncodeError:  # what has no UTF-8 cannot be signed
        body = json.dumps({**payloads.save_card(), name: value, "signature": "0" * 64}).encode()
    assert send(client, body).status_code in (200, 401)


AWAY = "postgresql://nobody@127.0.0.1:1/none"


def without_database(make_client: Callable[..., Client]) -> Client:
    return make_client(ingest_engine=db.make_engine(AWAY, autocommit=True))


def test_without_the_database_it_is_kept_on_disk_under_the_id_of_the_row_to_come(
    make_client: Callable[..., Client], client: Client, bells: NotingBells
) -> None:
    away, body = without_database(make_client), payloads.signed(payloads.save_card())
    answers = [send(away, body), send(away, body)]
    assert [(a.status_code, a.json["status"]) for a in answers] == [(200, "accepted")] * 2
    assert send(away, payloads.signed(payloads.operation())).json["status"] == "ignored"
    assert bells.rung == 0  # the bell is for what makes the rows
    ids = {a.json["event_id"] for a in answers}
    assert ids == {send(client, body).json["event_id"]}


def test_what_is_not_authentic_does_not_reach_the_disk(make_client: Callable[..., Client], tmp_path: Path) -> None:
    away = without_database(make_client)
    assert send(away, json.dumps(payloads.save_card()).encode()).status_code == 401
    assert send(away, b"[]").status_code == 400
    assert list(tmp_path.rglob("spool")) == []


def test_what_the_database_refuses_for_its_content_is_kept_and_the_database_is_asked_on(
    make_client: Callable[..., Client], engine: Engine, tmp_path: Path
) -> None:
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE cardsync.events ADD CHECK (customer_id <> 'odd')"))
    client = make_client()
    assert send(client, payloads.signed(payloads.save_card("odd"))).json["status"] == "accepted"
    assert len(list(tmp_path.rglob("*.segment"))) == 1
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
    make_client: Callable[..., Client], engine: Engine, tmp_path: Path, statement: str
) -> None:
    with engine.begin() as connection:
        name = connection.execute(text("SELECT current_database()")).scalar_one()
        connection.execute(text(statement.replace("CURRENT", f'"{name}"')))
    assert send(make_client(), payloads.signed(payloads.save_card())).json["status"] == "accepted"
    assert len(list(tmp_path.rglob("*.segment"))) == 1


@pytest.mark.parametrize("bounds", [{"spool_max_files": 1}, {"spool_max_bytes": 4_096}])
def test_with_neither_database_nor_room_on_disk_it_is_503_and_may_be_tried_again(
    make_client: Callable[..., Client], bounds: dict[str, int]
) -> None:
    away = make_client(ingest_engine=db.make_engine(AWAY, autocommit=True), **bounds)
    assert send(away, payloads.signed(payloads.save_card("cust-1"))).status_code == 200
    response = send(away, payloads.signed(payloads.save_card("cust-2")))
    assert (response.status_code, response.content_type) == (503, "application/problem+json")
    assert int(response.headers["Retry-After"]) > 0
    figures = away.get("/metrics").text
    assert 'cardsync_hints_total{outcome="unavailable"}' in figures
    assert "cardsync_spool_files 1.0" in figures


def test_a_connection_that_died_unnoticed_costs_nothing(client: Client, engine: Engine) -> None:
    assert send(client, payloads.signed(payloads.save_card("cust-1"))).status_code == 200
    with engine.connect() as connection:
        connection.execute(KILL_ALL)
    assert send(client, payloads.signed(payloads.save_card("cust-2"))).status_code == 200


class _FullBells(NotingBells):
    """What the real bells do when the broker is frozen: drop, and return at once."""

    are_in_vain = False

    def ring(self) -> None:
        return


def test_bells_that_ring_for_nobody_delay_nothing(make_client: Callable[..., Client]) -> None:
    client = make_client(bells=_FullBells())
    send(client, payloads.signed(payloads.save_card("warm")))
    began = time.monotonic()
    assert send(client, payloads.signed(payloads.save_card("cust-1"))).status_code == 200
    assert time.monotonic() - began < 30


def test_a_request_id_is_kept_if_usable_and_made_up_otherwise(client: Client) -> None:
    body = payloads.signed(payloads.save_card())
    assert send(client, body, headers={"X-Request-ID": "abc-1.2_3"}).headers["X-Request-ID"] == "abc-1.2_3"
    for unusable in ("", "a b", "x" * 65, "<script>", "é"):
        made = send(client, body, headers={"X-Request-ID": unusable}).headers["X-Request-ID"]
        assert len(made) == 32
        assert made != unusable


# Bodies with one signature (``core.repeats``).


def _altered(genuine: bytes, n: int) -> bytes:
    return json.dumps(
        {**json.loads(genuine), "session_id": str(n), "token": payloads.card(customer_id=f"c-{n}")}
    ).encode()


def test_altered_bodies_are_answered_with_success_ring_no_bell_and_leave_ten_lines_a_second(
    make_client: Callable[..., Client],
    bells: NotingBells,
    engine: Engine,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    within_a_second = partial(RateLimitedLog, clock=lambda: 1.0)
    monkeypatch.setattr("cardsync.web.ingest.endpoint.RateLimitedLog", within_a_second)
    client, genuine = make_client(), payloads.signed(payloads.save_card())
    caplog.set_level(logging.INFO)
    counted = metrics.REPEATED_HINTS._value.get()
    send(client, genuine)
    answers = [send(client, _altered(genuine, n)) for n in range(60)]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json["status"] for answer in answers} == {"accepted", "duplicate"}
    assert bells.rung == 1
    assert metrics.REPEATED_HINTS._value.get() == counted + 60
    assert len(rows(engine)) == 1 + ROWS_A_SIGNATURE
    written = "".join(capsys.readouterr()) + caplog.text
    assert written.count("repeated_hint") == LINES_A_SECOND


@pytest.mark.parametrize("scheme", ["standard", "subscription"])
def test_a_list_in_a_signed_field_is_refused_before_any_hmac(
    client: Client, engine: Engine, scheme: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = payloads.signed(payloads.payment(order_no=["9"] * 200_000), scheme=scheme)

    def fail(*_: object) -> bytes:
        raise AssertionError("an HMAC was computed")

    monkeypatch.setattr("cardsync.core.signature._hmac", fail)
    assert send(client, body).status_code == 401
    assert rows(engine) == []
