"""Listing: one complete, believable list of one customer's cards, or an error; never empty by mistake."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cardsync.errors import (
    InvalidAnswer,
)
from cardsync.ottu import CardList
from cardsync.ottu.entries import FIELDS
from cardsync.ottu.handler import MAX_ANSWER_BYTES
from cardsync.ottu.listing import MAX_CARDS, Listing
from tests.ottu_client.lists import CUSTOMER, FIRST, card, cards, listed, page, tokens

SPEC = Path(__file__).parents[1] / "data" / "ottu-openapi.yaml"


def test_an_array_is_a_list(ottu, client):
    ottu.answers(200, cards(1, 2), {"Content-Type": "text/plain"})
    found = listed(client)
    assert tokens(found) == ["tok-fake-0001", "tok-fake-0002"]
    assert found.calls == 1
    assert found.cards[0].facts.number == "**** 0008"


def test_an_empty_array_is_an_empty_list(ottu, client):
    ottu.answers(200, [])
    assert listed(client) == CardList((), 1)


def test_one_card_object_is_a_list_of_one(ottu, client):
    ottu.answers(200, card(unknown_field={"a": [1]}))
    assert tokens(listed(client)) == ["tok-fake-0001"]


@pytest.mark.parametrize(("environment", "kind"), [("sandbox", "sandbox"), ("production", "production")])
def test_the_request_names_environment_and_customer_and_no_filter(ottu, client, environment, kind):
    ottu.answers(200, [])
    client.list_cards(environment, CUSTOMER, deadline_seconds=60)
    (seen,) = ottu.seen
    assert (seen.method, seen.target) == ("POST", "/b/pbl/v2/card/")
    assert json.loads(seen.body) == {"type": kind, "customer_id": CUSTOMER}
    assert seen.headers["authorization"] == "Api-Key key-fake-0001"


def test_basic_credentials_are_used_where_there_is_no_key(ottu, make_client):
    ottu.answers(200, [])
    listed(make_client(ottu_api_key=None, ottu_username="u", ottu_password="p"))
    assert ottu.seen[0].headers["authorization"] == "Basic dTpw"


def test_an_owner_that_is_a_number_is_its_text(ottu, client):
    ottu.answers(200, [card(customer_id=77)])
    found = client.list_cards("sandbox", "77", deadline_seconds=60)
    assert (len(found.cards), found.oddities) == (1, ())


def test_the_same_card_twice_is_one_card(ottu, client):
    ottu.answers(200, [card(), card(), card("tok-fake-0002")])
    assert tokens(listed(client)) == ["tok-fake-0001", "tok-fake-0002"]


UNBELIEVABLE = {
    "no body": b"",
    "null": b"null",
    "a string": b'"[]"',
    "a number": b"0",
    "an empty object": b"{}",
    "an error text": b'{"detail": "Not found."}',
    "an array of null": b"[null]",
    "a nested array": b"[[]]",
    "no token": json.dumps([{"customer_id": CUSTOMER}]).encode(),
    "an authentication answer": json.dumps({"token": "a" * 40, "expires_in": 3600}).encode(),
    "an authentication answer with a user": json.dumps({"token": "a" * 40, "customer_id": CUSTOMER}).encode(),
    "authentication answers in an array": json.dumps([{"token": "a" * 40, "expires_in": 3600}]).encode(),
    "a bare token": json.dumps([{"token": "abc123"}]).encode(),
    "bare tokens in a page": json.dumps(page([{"token": "abc123"}], 1)).encode(),
    "a token and a name": json.dumps([{"token": "abc123", "customer_id": CUSTOMER}]).encode(),
    "a token and a gateway": json.dumps([{"token": "abc123", "pg_code": "fake-pg"}]).encode(),
    "a card that is an error": json.dumps({**card(), "detail": "Not now."}).encode(),
    "a card with a failed status": json.dumps({**card(), "status": "failed"}).encode(),
    "an error beside a card": json.dumps([card(), {"error": "timed out"}]).encode(),
    "errors in an array": json.dumps([{"detail": "Not found."}]).encode(),
    "an envelope": b'{"data": []}',
    "an envelope of an envelope": b'{"data": {"count": 0, "next": null, "results": []}}',
    "cards under another name": json.dumps({"cards": [], "status": "ok"}).encode(),
    "results in an object": json.dumps({"count": 0, "results": {"items": []}}).encode(),
    "another's card in other case and another script": json.dumps([card(customer_id="ANOTHER")]).encode(),
    "an owner that is an object": json.dumps([card(customer_id={"id": CUSTOMER})]).encode(),
    "a null token object": json.dumps({"token": None}).encode(),
    "another's card": json.dumps([card(), card("tok-fake-0002", customer_id="another")]).encode(),
    "HTML": b"<html>maintenance</html>",
    "cut JSON": json.dumps([card()]).encode()[:-1],
    "NaN": b'[{"token": "tok-fake-0001", "x": NaN}]',
    "Infinity": b'[{"token": "tok-fake-0001", "x": -Infinity}]',
    "a number of 5000 digits": b'[{"token": "tok-fake-0001", "x": ' + b"9" * 5000 + b"}]",
    "deep nesting": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "not UTF-8": b'[{"token": "tok-\xff"}]',
    "UTF-16": json.dumps([card()]).encode("utf-16"),
    "too many cards": json.dumps(cards(*range(MAX_CARDS + 1))).encode(),
    "a page without a count": json.dumps({"results": []}).encode(),
    "a page with a null count": json.dumps(page([], None)).encode(),
    "a page with a true count": json.dumps(page(cards(1), True)).encode(),
    "a page with a word for a count": json.dumps(page(cards(1), "one")).encode(),
    "a page with a fraction for a count": json.dumps(page(cards(1), 1.0)).encode(),
    "a page with a negative count": json.dumps(page([], -1)).encode(),
    "a page with a huge count": json.dumps(page(cards(1), MAX_CARDS + 1)).encode(),
    "a page with null results": json.dumps(page(None, 0)).encode(),
    "a page with an object": json.dumps(page({}, 0)).encode(),
    "a page with too few": json.dumps(page(cards(1), 2)).encode(),
    "a page with too many": json.dumps(page(cards(1, 2), 1)).encode(),
    "a next that is no link": json.dumps(page(cards(1), 2, 7)).encode(),
    "a next without a place": json.dumps(page(cards(1), 2, "http://x/?cursor=abc")).encode(),
    "a next without a query": json.dumps(page(cards(1), 2, "http://x/")).encode(),
    "no next, and more promised": json.dumps(page(cards(1), 2, "")).encode(),
    "a next that is no URL": json.dumps(page(cards(1), 2, "http://[x/?offset=1")).encode(),
    "a next with a text": json.dumps(page(cards(1), 2, "?offset=last")).encode(),
    "a next with a sign": json.dumps(page(cards(1), 2, "?offset=-1")).encode(),
    "a next with two places": json.dumps(page(cards(1), 2, "?offset=1&offset=2")).encode(),
    "a next of 7 digits": json.dumps(page(cards(1), 2, "?offset=1000000")).encode(),
    "a next to the first": json.dumps(page(cards(1), 2, "?offset=0")).encode(),
    "a next to the first page": json.dumps(page(cards(1), 2, "?page=1")).encode(),
    "a next behind nothing": json.dumps(page([], 1, "?offset=10")).encode(),
}


@pytest.mark.parametrize("body", UNBELIEVABLE.values(), ids=UNBELIEVABLE.keys())
def test_what_is_not_wholly_believable_is_an_invalid_answer(ottu, client, body):
    ottu.answers(200, body)
    with pytest.raises(InvalidAnswer):
        listed(client)
    assert len(ottu.seen) == 1


ERRORS_IN_A_PAGE = [
    {"errors": ["x"]},
    {"errors": {"field": ["x"]}},
    {"error": "x"},
    {"error": {"type": "t", "code": "c", "message": "m"}},
    {"detail": "x"},
    {"message": "x"},
    {"Error_Description": "x"},
    {"exception": "x"},
    {"error": True},
    {"errors": 1},
    {"success": False},
    {"success": "false"},
    {"success": 0},
    {"ok": False},
    {"status": "error"},
    {"status": "pending"},
    {"status": 500},
    {"code": "throttled"},
    {"status_code": 401},
    {"statusCode": 401},
    {"http_status": 503},
    {"err": "x"},
    {"failed": True},
    {"isSuccess": False},
    {"success": []},
    {"result": "failure"},
    {"meta": {"errors": ["x"]}},
    {"token": "x", "status": 500},
]


@pytest.mark.parametrize("marker", ERRORS_IN_A_PAGE, ids=json.dumps)
@pytest.mark.parametrize("results", [[], cards(1)], ids=["empty", "with a card"])
def test_a_page_that_reports_an_error_is_a_failed_call(ottu, client, marker, results):
    ottu.answers(200, page(results, len(results), **marker))
    with pytest.raises(InvalidAnswer, match="error"):
        listed(client)


@pytest.mark.parametrize(
    "nothing",
    [
        {"errors": []},
        {"errors": None, "error": "", "detail": None, "message": {}},
        {"success": True, "error": False, "errors": 0, "code": 0},
        {"success": "true", "status": "success", "message": "OK"},
        {"status": "ok", "code": 200},
        {"warnings": ["slow"]},
        {"default_currency": "KWD", "meta": {"status": "active", "page": 1}, "success": None},
        {"responseCode": "00", "result": "2 cards"},
    ],
    ids=json.dumps,
)
def test_a_page_that_reports_no_error_is_a_list(ottu, client, nothing):
    ottu.answers(200, page([], 0, **nothing))
    assert listed(client) == CardList((), 1)


def test_a_cards_own_status_is_no_error(ottu, client):
    ottu.answers(200, {**card(), "status": "active"})
    assert tokens(listed(client)) == [FIRST]
    ottu.answers(200, [{**card(), "status": "expired", "message": "x"}])
    assert tokens(listed(client)) == [FIRST]


ODD = {
    "one token, two facts": ([card(), card(brand="MC")], [FIRST], ["listed_twice"]),
    "one token, twice in a page": (page(cards(1, 1), 2), [FIRST], ["listed_twice"]),
    "a number of sixteen digits": ([card(9999000000000001)], ["9999000000000001"], ["number_token"]),
    "a short number": ([card(42)], ["42"], ["short_number_token"]),
    "a fraction": ([card(), card(1.5)], [FIRST], ["unreadable_token"]),
    "a number of 5000 digits": ([card(), card("NUMBER")], [FIRST], ["unreadable_token"]),
    "a token with blanks around it": ([card(f" {FIRST}\n")], [FIRST], ["padded_token"]),
    "a negative number": ([card(), card(-9999000000000001)], [FIRST], ["unreadable_token"]),
    "a truth value": ([card(), card(True)], [FIRST], ["unreadable_token"]),
    "a list with the token": ([card(), card([FIRST])], [FIRST], ["unreadable_token"]),
    "a gateway that is a container": ([card(pg_code={"code": "x"})], [FIRST], ["incomplete"]),
    "a token of 64": ([card(), card("t" * 64)], [FIRST], ["long_token"]),
    "a token of 64 alone": ([card("t" * 64)], [], ["long_token"]),
    "a padded token": ([card(), card("tok-fake-0002" + " " * 60)], [FIRST], ["unreadable_token"]),
    "a null token": ([card(), card(None)], [FIRST], ["unreadable_token"]),
    "a null token alone": ([card(None)], [], ["unreadable_token"]),
    "no token": ([card(), card(...)], [FIRST], ["unreadable_token"]),
    "an empty token": ([card(), card("")], [FIRST], ["unreadable_token"]),
    "a token with NUL": ([card(), card("tok\x00")], [FIRST], ["unreadable_token"]),
    "a true token": ([card(), card(True)], [FIRST], ["unreadable_token"]),
    "a list of tokens": ([card(), card(["tok-fake-0002"])], [FIRST], ["unreadable_token"]),
    "null": ([card(), None], [FIRST], ["not_a_card"]),
    "a string": ([card(), "tok"], [FIRST], ["not_a_card"]),
    "an array": ([card(), []], [FIRST], ["not_a_card"]),
    "a bare token beside a card": ([card(), {"token": "tok-fake-0002"}], [FIRST, "tok-fake-0002"], ["not_a_card"]),
    "no gateway": ([card(pg_code=...)], [FIRST], ["incomplete"]),
    "a null gateway": ([card(pg_code=None)], [FIRST], ["incomplete"]),
    "neither number nor brand": ([card(number=..., brand=...)], [FIRST], ["incomplete"]),
    "null number and brand": ([card(number=None, brand=None)], [FIRST], []),
    "no other field": ([card(agreements=..., brand=...)], [FIRST], []),
    "no owner": ([card(customer_id=...)], [FIRST], ["owner_absent"]),
    "a null owner": ([card(customer_id=None)], [FIRST], ["owner_absent"]),
    "an empty owner": ([card(customer_id="")], [FIRST], ["owner_absent"]),
    "an owner with blanks": ([card(customer_id=f" {CUSTOMER}  ")], [FIRST], ["owner_spelling"]),
    "an owner in form D": ([card(customer_id="shopper 1/u\u0308%&")], [FIRST], ["owner_spelling"]),
    "an owner in other case": ([card(customer_id=CUSTOMER.upper())], [FIRST], ["owner_case"]),
    "one card for a list": (card(), [FIRST], ["single_object"]),
}


@pytest.mark.parametrize(("answer", "believed", "oddities"), ODD.values(), ids=ODD.keys())
def test_an_odd_entry_does_not_spoil_the_list_and_is_named(ottu, client, answer, believed, oddities):
    ottu.answers(200, json.dumps(answer).encode().replace(b'"NUMBER"', b"9" * 5000))
    found = listed(client)
    assert tokens(found) == believed
    assert list(found.oddities) == oddities


@pytest.mark.parametrize(
    ("entry", "confirms_only"),
    [
        (card(), False),
        (card(pg_code=...), False),
        (card(customer_id=f"{CUSTOMER} "), False),
        (card(customer_id=CUSTOMER.upper()), True),
        (card(customer_id=...), True),
        ({"token": FIRST}, True),
    ],
)
def test_only_an_entry_that_surely_names_this_customer_adds_a_card(ottu, client, entry, confirms_only):
    ottu.answers(200, [entry, card("tok-fake-0002")])
    assert listed(client).cards[0].only_if_known is confirms_only


def test_what_two_entries_of_a_card_say_differently_is_not_said(ottu, client):
    ottu.answers(200, [card(expiry_month="01"), card(brand="MC", expiry_month="01", agreements=[])])
    (found,) = listed(client).cards
    assert found.facts.number == "**** 0008"
    assert found.facts.expiry_month == "01"
    assert (found.facts.brand, found.facts.agreements) == (None, None)
    assert {"brand", "agreements"} <= found.unsaid


def test_a_field_that_an_entry_lacks_is_not_said_and_a_null_is(ottu, client):
    ottu.answers(200, [card(brand=None, agreements=..., is_expired="maybe")])
    (found,) = listed(client).cards
    assert "brand" not in found.unsaid
    assert {"agreements", "is_expired", "name_on_card"} <= found.unsaid


PACKED = {
    "gzip": (gzip.compress, {"Content-Encoding": "gzip"}),
    "gzip, in capitals": (gzip.compress, {"Content-Encoding": "GZIP"}),
    "gzip without a word": (gzip.compress, {}),
    "gzip in two members": (
        lambda body: gzip.compress(body[:5]) + gzip.compress(body[5:]),
        {"Content-Encoding": "x-gzip"},
    ),
    "gzip that was unpacked": (bytes, {"Content-Encoding": "gzip"}),
    "deflate": (zlib.compress, {"Content-Encoding": "deflate"}),
    "identity": (bytes, {"Content-Encoding": "Identity"}),
    "identity and gzip": (gzip.compress, {"Content-Encoding": "identity, gzip"}),
    "a byte order mark": (lambda body: b"\xef\xbb\xbf" + body, {}),
    "a byte order mark in gzip": (lambda body: gzip.compress(b"\xef\xbb\xbf" + body), {"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize(("pack", "headers"), PACKED.values(), ids=PACKED.keys())
def test_a_list_is_read_however_it_is_packed(ottu, client, pack, headers):
    ottu.answers(200, pack(json.dumps([card()]).encode()), headers)
    assert tokens(listed(client)) == [FIRST]
    assert ottu.seen[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (gzip.compress(b"[]")[:-3], {"Content-Encoding": "gzip"}),
        (gzip.compress(b"[]") + b"x", {"Content-Encoding": "gzip"}),
        (b"\x1f\x8b", {}),
        (b"[]", {"Content-Encoding": "deflate"}),
        (b"[]", {"Content-Encoding": "br"}),
        (gzip.compress(gzip.compress(b"[]")), {"Content-Encoding": "gzip, gzip"}),
        (gzip.compress(b"[" + b" " * MAX_ANSWER_BYTES + b"]"), {"Content-Encoding": "gzip"}),
        (zlib.compress(b"[" + b" " * MAX_ANSWER_BYTES + b"]"), {"Content-Encoding": "deflate"}),
    ],
    ids=["cut", "with a tail", "two bytes", "no deflate", "brotli", "twice", "a gzip bomb", "a deflate bomb"],
)
def test_what_cannot_be_unpacked_within_bounds_is_an_invalid_answer(ottu, client, body, headers):
    ottu.answers(200, body, headers)
    with pytest.raises(InvalidAnswer):
        listed(client)


def test_a_page_may_count_in_text_and_end_with_an_empty_link(ottu, client):
    ottu.answers(200, page(cards(1), "2", "?offset=1"))
    ottu.answers(200, page(cards(2), " 2", " "))
    assert listed(client).calls == 2
    ottu.answers(200, page([], "0", ""))
    assert listed(client) == CardList((), 1)


def test_a_card_that_changes_between_two_pages_is_named_as_odd(ottu, client):
    ottu.answers(200, page(cards(1), 2, "?offset=1"))
    ottu.answers(200, page([card(brand="MC"), *cards(2)], 2))
    found = listed(client)
    assert tokens(found) == ["tok-fake-0001", "tok-fake-0002"]
    assert found.oddities == ("listed_twice",)


def test_two_lists_are_united_with_the_oddities_of_both(ottu, client):
    ottu.answers(200, [card(), card(None)])
    ottu.answers(200, [card(brand="MC"), card("tok-fake-0002"), 7])
    both = listed(client).united_with(listed(client))
    assert tokens(both) == ["tok-fake-0001", "tok-fake-0002"]
    assert both.cards[0].facts.brand == "MC"
    assert (both.calls, both.oddities) == (2, ("unreadable_token", "not_a_card"))


@given(
    entries=st.lists(st.sampled_from([value for value, _, _ in ODD.values() if isinstance(value, list)]), max_size=4)
)
def test_however_odd_a_list_is_each_entry_is_counted_and_no_card_is_lost(entries):
    listing = Listing(CUSTOMER)
    listing.take([card("tok-fake-0009"), *(entry for group in entries for entry in group)])
    found = {c.token.reveal() for c in listing.complete()}
    assert "tok-fake-0009" in found
    for group in entries:
        readable = [e["token"] for e in group if isinstance(e, dict) and isinstance(e.get("token"), str)]
        assert {t.strip() for t in readable if 0 < len(t) <= 50 and "\0" not in t} - {""} <= found


def test_every_required_field_of_ottus_description_stands_in_the_table():
    described = yaml.safe_load(SPEC.read_text())["components"]["schemas"]["Card"]
    assert set(FIELDS) == set(described["required"])
