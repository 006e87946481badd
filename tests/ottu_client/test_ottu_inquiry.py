"""Inquiries: a payment's payload over HTTP, what each status means, and what is not taken for an answer."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from cardsync.errors import (
    BudgetSpent,
    CredentialsRefused,
    InvalidAnswer,
    OttuFault,
    OttuRejected,
    OttuThrottled,
)
from tests import payloads

SESSION = "0" * 36 + "feed"


def inquire(client, session=SESSION, **more):
    return client.inquire(session, **more)


def test_a_payment_is_read_as_its_notification_would_be(ottu, client):
    ottu.answers(200, payloads.auto_debit("shopper 1/ü%&", environment="production"))
    found = inquire(client)
    event = found.event
    assert (event.environment, event.customer_id, event.agreement_id) == ("production", "shopper 1/ü%&", "agreement-1")
    assert (event.card.token.reveal(), event.card.facts.agreements) == (payloads.TOKEN, ("agreement-1",))
    assert found.at == dt.datetime(2026, 11, 2, 10, tzinfo=dt.UTC)
    payloads.assert_nothing_personal(found)
    seen = ottu.seen[0]
    assert (seen.method, seen.target, json.loads(seen.body)) == ("POST", "/b/pbl/v2/inquiry/", {"session_id": SESSION})
    assert seen.headers["authorization"] == "Api-Key key-fake-0001"


def test_equal_answers_are_recognised_in_any_order_of_their_fields(ottu, client):
    payload = payloads.payment()
    for answer in (payload, dict(reversed(payload.items())), {**payload, "state": "authorized"}):
        ottu.answers(200, answer)
    first, again, other = (inquire(client).content_hash for _ in range(3))
    assert first == again != other


def test_a_payment_that_ottu_does_not_know_is_none(ottu, client):
    ottu.answers(404, {"detail": "Not found."})
    assert inquire(client) is None


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, CredentialsRefused),
        (403, OttuRejected),
        (400, OttuRejected),
        (405, OttuRejected),
        (429, OttuThrottled),
        (500, OttuFault),
        (503, OttuFault),
        (204, InvalidAnswer),
        (302, InvalidAnswer),
    ],
)
def test_every_other_status_is_an_error(ottu, client, status, error):
    ottu.answers(status, None if status == 204 else {"detail": "no"})
    with pytest.raises(error):
        inquire(client)


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>",
        b"null",
        b"[]",
        b'"ok"',
        b"{}",
        b'{"session_id": null}',
        b'{"session_id": "another", "result": "success"}',
        b'{"session_id": ["' + SESSION.encode() + b'"]}',
        b'{"a": ' + b"[" * 100 + b"]" * 100 + b', "session_id": "' + SESSION.encode() + b'"}',
    ],
)
def test_what_is_not_this_payment_is_no_answer(ottu, client, answer):
    ottu.answers(200, answer)
    with pytest.raises(InvalidAnswer):
        inquire(client)


@pytest.mark.parametrize("moment", [..., None, 7, "yesterday", "2026-13-01 00:00:00", "2026-11-02T10:00:00Z"])
def test_a_moment_that_cannot_be_read_is_none(ottu, client, moment):
    ottu.answers(200, payloads.payment(timestamp_utc=moment))
    assert inquire(client).at is None


def test_the_budget_is_asked_before_the_call(ottu, client):
    def spent():
        raise BudgetSpent("spent")

    with pytest.raises(BudgetSpent):
        inquire(client, before_call=spent)
    assert ottu.seen == []
