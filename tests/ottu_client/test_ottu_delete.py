"""Deleting: gone, refused for this card, or an error; the token stands in one escaped segment of the path."""

from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from cardsync.core.card_numbers import looks_like_full_number
from cardsync.core.cards import Token
from cardsync.errors import (
    BudgetSpent,
    CredentialsRefused,
    OttuFault,
    OttuRejected,
    OttuThrottled,
    UnreadableAnswer,
    UnusableCard,
)
from cardsync.ottu import DeleteAnswer

CUSTOMER = "shopper 1/ü%&"
TEXT = "9999000011112222"
TOKEN = Token(TEXT)


def delete(client, token=TOKEN, **more):
    return client.delete_card("production", CUSTOMER, token, **more)


@pytest.mark.parametrize("status", [200, 202, 204, 404])
def test_gone_is_gone_whatever_the_body(ottu, client, status):
    ottu.answers(status, None if status == 204 else b"<html>")
    answer = delete(client)
    assert answer == DeleteAnswer(status, None)
    assert answer.gone


def test_the_request_names_card_customer_and_environment(ottu, client):
    ottu.answers(204)
    ottu.answers(204)
    delete(client)
    client.delete_card("sandbox", CUSTOMER, TOKEN)
    seen = ottu.seen[0]
    assert (seen.method, urlsplit(seen.target).path) == ("DELETE", f"/b/pbl/v2/card/{TEXT}/")
    queries = [parse_qs(urlsplit(s.target).query) for s in ottu.seen]
    assert queries == [{"customer_id": [CUSTOMER], "type": [kind]} for kind in ("production", "sandbox")]
    assert seen.headers["authorization"] == "Api-Key key-fake-0001"


@pytest.mark.parametrize(
    "text",
    ["a b", "a/b", "ü€", "%2e%2e", "..%2f", "a?b=c#d", "a\r\nHost: x", "...", ".a", "a&b+c", "a\\b", "%"],
)
def test_any_token_is_one_segment_of_the_path(ottu, client, text):
    ottu.answers(204)
    delete(client, Token(text))
    path = urlsplit(ottu.seen[0].target).path
    prefix, _, rest = path.partition("/b/pbl/v2/card/")
    assert prefix == ""
    assert rest.count("/") == 1
    assert unquote(rest.removesuffix("/")) == text


@pytest.mark.parametrize("text", [".", "..", "../x", "x/..", "a/./b", "..\\x", "x\\."])
def test_a_token_that_would_name_another_path_is_refused(ottu, client, text):
    asked = []
    with pytest.raises(UnusableCard) as raised:
        delete(client, Token(text), before_call=lambda: asked.append(1))
    assert text not in str(raised.value)
    assert (asked, ottu.seen) == ([], [])


@pytest.mark.parametrize("status", [400, 402, 403, 409, 410, 422, 423, 451])
def test_a_refusal_of_this_card_is_an_answer(ottu, client, status):
    ottu.answers(status, {"detail": "The card is linked to an agreement."})
    answer = delete(client)
    assert answer == DeleteAnswer(status, None)
    assert not answer.gone


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, CredentialsRefused),
        (405, OttuRejected),
        (408, OttuFault),
        (415, OttuRejected),
        (429, OttuThrottled),
        (500, OttuFault),
        (503, OttuFault),
        (201, UnreadableAnswer),
        (206, UnreadableAnswer),
        (302, UnreadableAnswer),
        (304, UnreadableAnswer),
        (600, UnreadableAnswer),
    ],
)
def test_what_is_not_about_the_card_is_an_error(ottu, client, status, error):
    headers = {"Retry-After": "5"} | ({"Location": "/elsewhere"} if status == 302 else {})
    ottu.answers(status, None if status == 304 else {"detail": "x"}, headers)
    with pytest.raises(error) as raised:
        delete(client)
    assert type(raised.value) is error
    if status in (429, 503):
        assert raised.value.retry_after_seconds == 5
    assert len(ottu.seen) == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"customer_id": ["Wrong.", "Really."]}, "field=customer_id"),
        ({"token": ["Invalid."], "non_field_errors": ["No."]}, "field=token, field=non_field_errors"),
        (
            {"error": {"type": "permission", "code": "CARD_LOCKED", "message": "Of Joy Test", "field": "token"}},
            "type=permission, code=CARD_LOCKED, field=token",
        ),
        ({"code": 4031}, "code=4031"),
        ({"detail": "The card of Joy Test, joy@example.com, is tied to an agreement."}, None),
        ({"error": {"code": "Joy Test"}}, None),
        ({"error": {"code": "joy@example.com", "type": "4111111111111111"}}, None),
        ({"Joy Test": ["is refused"]}, None),
        (["Joy Test"], None),
        ("only words", None),
        ({}, None),
        ({"n": 5, "b": True, "z": None}, None),
        ({"a": {"b": {"c": {"d": {"code": "too_deep"}}}}}, None),
        ({"x" * 41: ["too long"]}, None),
        ({f"f{chr(97 + n // 26)}{chr(97 + n % 26)}": ["x"] for n in range(500)}, "field=faa"),
        (b"<html>refused</html>", None),
        (b"", None),
        (b"[" * 100_000, None),
    ],
)
def test_the_reason_is_type_code_and_fields_and_never_ottus_words(ottu, client, body, reason):
    ottu.answers(400, body)
    said = delete(client)
    if reason == "field=faa":
        assert said.reason.startswith(reason)
        assert len(said.reason) <= 300
    else:
        assert said == DeleteAnswer(400, reason)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TEXT, f"Card {TEXT} is locked"),
        (TEXT, "Card 9999 0000 1111 2222 is locked"),
        ("tok-fake-0001", "Card 4999-9999.9999_9999 is locked"),
        ("tok-fake-0001", "Card 4999,9999,9999,9999 is locked"),
        ("tok-fake-0001", "Card 4999:9999:9999:9999 is locked"),
        ("tok-fake-0001", "Card 4999–9999–9999–9999 is locked"),  # noqa: RUF001  # en dashes
        ("tok-fake-0001", "Card 4999\u200b9999\u200b9999\u200b9999 is locked"),
        ("tok-fake-0001", "Card ٤٩٩٩ ٩٩٩٩ ٩٩٩٩ ٩٩٩٩ is locked"),
        ("tok-fake-0001", "Card ⁴⁹⁹⁹ ⁹⁹⁹⁹ ⁹⁹⁹⁹ ⁹⁹⁹⁹ is locked"),
        ("tok-fake-0001", "Card TOK-Fake-0001 is locked"),
        ("tok fake/1", "No DELETE /b/pbl/v2/card/tok%20fake%2f1/ for you"),
        ("tok-fake-0001", "x" * 290 + " tok-fake-0001"),
        ("tok-fake-0001", "the key key-fake-0001 may not"),
        ("tokfake", "tokfake"),
    ],
)
def test_the_reason_shows_no_token_no_card_number_and_no_key(ottu, client, text, words):
    ottu.answers(403, {"detail": words, text: [words], "error": {"code": text, "type": "locked", "field": words}})
    reason = delete(client, Token(text)).reason
    assert reason == "type=locked"
    for secret in (text, "tok%20fake", "key-fake-0001", "tok-fak"):
        assert secret.lower() not in reason.lower()
    assert not looks_like_full_number(reason)


def test_the_budget_is_asked_once_and_what_it_raises_passes_through(ottu, client):
    asked = []
    ottu.answers(204)
    delete(client, before_call=lambda: asked.append(1))
    assert asked == [1]

    def refuse():
        raise BudgetSpent("none left")

    with pytest.raises(BudgetSpent):
        delete(client, before_call=refuse)
    assert len(ottu.seen) == 1


def test_an_empty_customer_is_refused_before_the_call(ottu, client):
    with pytest.raises(ValueError, match="customer id"):
        client.delete_card("sandbox", "", TOKEN)
    assert ottu.seen == []
