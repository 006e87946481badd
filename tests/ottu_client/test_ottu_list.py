"""Listing: one complete, believable list of one customer's cards, or an error; never empty by mistake."""

from __future__ import annotations

import datetime as dt
import json
from email.utils import format_datetime
from urllib.parse import parse_qs, urlsplit

import pytest

from cardsync.core.cards import Token
from cardsync.errors import (
    BudgetSpent,
    CredentialsRefused,
    InvalidAnswer,
    OttuFault,
    OttuRejected,
    OttuThrottled,
    OttuUnavailable,
)
from cardsync.ottu import CardList
from cardsync.ottu.listing import MAX_CARDS, MAX_PAGES

CUSTOMER = "shopper 1/ü%&"
FIRST = "tok-fake-0001"


def card(token=FIRST, **more):
    return {"token": token, "customer_id": CUSTOMER, "brand": "VISA", "number": "**** 0008", **more}


def cards(*numbers):
    return [card(f"tok-fake-{n:04}") for n in numbers]


def page(results, count, following=None, **more):
    return {"count": count, "next": following, "previous": None, "results": results, **more}


def listed(client, **more):
    return client.list_cards("sandbox", CUSTOMER, **{"deadline_seconds": 10, **more})


def tokens(found: CardList):
    return [c.token.reveal() for c in found.cards]


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
    client.list_cards(environment, CUSTOMER, deadline_seconds=10)
    (seen,) = ottu.seen
    assert (seen.method, seen.target) == ("POST", "/b/pbl/v2/card/")
    assert json.loads(seen.body) == {"type": kind, "customer_id": CUSTOMER}
    assert seen.headers["authorization"] == "Api-Key key-fake-0001"


def test_basic_credentials_are_used_where_there_is_no_key(ottu, make_client):
    ottu.answers(200, [])
    listed(make_client(ottu_api_key=None, ottu_username="u", ottu_password="p"))
    assert ottu.seen[0].headers["authorization"] == "Basic dTpw"


def test_an_owner_that_is_absent_or_null_or_a_number_is_tolerated(ottu, client):
    ottu.answers(200, [{"token": "tok-fake-0001"}, card("tok-fake-0002", customer_id=None)])
    assert len(listed(client).cards) == 2
    ottu.answers(200, [card(customer_id=77)])
    assert len(client.list_cards("sandbox", "77", deadline_seconds=10).cards) == 1


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
    "one good, one string": json.dumps([card(), "tok"]).encode(),
    "no token": json.dumps([{"customer_id": CUSTOMER}]).encode(),
    "an empty token": json.dumps([card("")]).encode(),
    "a number for a token": json.dumps([card(9999)]).encode(),
    "a token of 51": json.dumps([card("t" * 51)]).encode(),
    "a token with NUL": json.dumps([card("tok\x00")]).encode(),
    "a null token object": json.dumps({"token": None}).encode(),
    "another's card": json.dumps([card(), card("tok-fake-0002", customer_id="another")]).encode(),
    "one token, two facts": json.dumps([card(), card(brand="MC")]).encode(),
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
    "a page with a text count": json.dumps(page(cards(1), "1")).encode(),
    "a page with a negative count": json.dumps(page([], -1)).encode(),
    "a page with a huge count": json.dumps(page(cards(1), MAX_CARDS + 1)).encode(),
    "a page with null results": json.dumps(page(None, 0)).encode(),
    "a page with an object": json.dumps(page({}, 0)).encode(),
    "a page with too few": json.dumps(page(cards(1), 2)).encode(),
    "a page with too many": json.dumps(page(cards(1, 2), 1)).encode(),
    "a page with one twice": json.dumps(page(cards(1, 1), 2)).encode(),
    "a next that is no link": json.dumps(page(cards(1), 2, 7)).encode(),
    "a next without a place": json.dumps(page(cards(1), 2, "http://x/?cursor=abc")).encode(),
    "a next without a query": json.dumps(page(cards(1), 2, "")).encode(),
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


def test_a_compressed_answer_is_not_unpacked(ottu, client):
    ottu.answers(200, b"[]", {"Content-Encoding": "gzip"})
    with pytest.raises(InvalidAnswer):
        listed(client)
    assert ottu.seen[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", [201, 202, 203, 204, 206, 300, 304, 600, 999])
def test_another_status_than_200_is_no_list(ottu, client, status):
    ottu.answers(status, None if status in (204, 304) else [])
    with pytest.raises(InvalidAnswer):
        listed(client)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(ottu, client, status):
    ottu.answers(status, [], {"Location": "/elsewhere"})
    with pytest.raises(InvalidAnswer):
        listed(client)
    assert len(ottu.seen) == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, OttuRejected),
        (401, CredentialsRefused),
        (403, CredentialsRefused),
        (404, OttuRejected),
        (405, OttuRejected),
        (408, OttuFault),
        (415, OttuRejected),
        (422, OttuRejected),
        (429, OttuThrottled),
        (500, OttuFault),
        (502, OttuFault),
        (503, OttuFault),
        (599, OttuFault),
    ],
)
def test_each_status_has_its_error(ottu, client, status, error):
    ottu.answers(status, [])  # even with a body that would be a list
    with pytest.raises(error) as raised:
        listed(client)
    assert type(raised.value) is error
    if error is OttuRejected:
        assert raised.value.status_code == status


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("7", 7.0),
        ("0", 0.0),
        (" 12 ", 12.0),
        ("86400", 3600.0),
        ("9" * 5000, 3600.0),
        ("-1", None),
        ("1.5", None),
        ("1e3", None),
        ("soon", None),
        ("", None),
        ("٣", None),
        ("Wed, 99 Foo 2020 00:00:00 GMT", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600.0),
    ],
)
def test_a_wish_to_wait_is_kept_within_bounds(ottu, client, status, header, expected):
    ottu.answers(status, None, {"Retry-After": header.encode().decode("latin-1")})
    with pytest.raises((OttuThrottled, OttuFault)) as raised:
        listed(client)
    assert raised.value.retry_after_seconds == expected


def test_a_wish_to_wait_may_be_a_date(ottu, client):
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=120)
    ottu.answers(429, None, {"Retry-After": format_datetime(soon, usegmt=True)})
    with pytest.raises(OttuThrottled) as raised:
        listed(client)
    assert 100 < raised.value.retry_after_seconds <= 120


def test_no_wish_to_wait_is_none(ottu, client):
    ottu.answers(429)
    with pytest.raises(OttuThrottled) as raised:
        listed(client)
    assert raised.value.retry_after_seconds is None


def test_all_pages_are_read_from_our_own_address(ottu, client):
    ottu.answers(200, page(cards(1, 2), 5, "http://evil.invalid/other/path?limit=2&offset=2&token=x&pg_codes=y"))
    ottu.answers(200, page(cards(3, 4), 5, "//evil.invalid/?offset=4&limit=2"))
    ottu.answers(200, page(cards(5), 5))
    found = listed(client)
    assert tokens(found) == [f"tok-fake-{n:04}" for n in range(1, 6)]
    assert found.calls == 3
    assert [urlsplit(s.target).path for s in ottu.seen] == ["/b/pbl/v2/card/"] * 3
    assert [parse_qs(urlsplit(s.target).query) for s in ottu.seen] == [
        {},
        {"limit": ["2"], "offset": ["2"]},
        {"limit": ["2"], "offset": ["4"]},
    ]
    assert len({(s.method, s.body, s.headers["authorization"]) for s in ottu.seen}) == 1


def test_pages_may_be_numbered(ottu, client):
    ottu.answers(200, page(cards(1), 2, "https://acme.invalid/b/pbl/v2/card/?page=2"))
    ottu.answers(200, page(cards(2), 2))
    assert listed(client).calls == 2
    assert ottu.seen[1].target == "/b/pbl/v2/card/?page=2"


def test_an_empty_page_is_an_empty_list(ottu, client):
    ottu.answers(200, page([], 0))
    assert listed(client) == CardList((), 1)


SECOND_PAGES = {
    "another count": page(cards(2), 3),
    "the first again": page(cards(1), 2),
    "the same place again": page(cards(2), 2, "?offset=1"),
    "back": page(cards(2), 2, "?offset=0"),
    "another way to count": page(cards(2), 2, "?page=2"),
    "an array": cards(2),
    "one card": card("tok-fake-0002"),
    "nothing": page([], 2),
    "another's card": page([card("tok-fake-0002", customer_id="another")], 2),
    "a changed card": page([card(brand="MC"), *cards(2)], 2),
}


@pytest.mark.parametrize("second", SECOND_PAGES.values(), ids=SECOND_PAGES.keys())
def test_pages_that_do_not_fit_together_are_an_invalid_answer(ottu, client, second):
    ottu.answers(200, page(cards(1), 2, "?offset=1"))
    ottu.answers(200, second)
    with pytest.raises(InvalidAnswer):
        listed(client)
    assert len(ottu.seen) == 2


def test_a_failed_page_fails_the_list(ottu, client):
    ottu.answers(200, page(cards(1), 2, "?offset=1"))
    ottu.answers(503, None, {"Retry-After": "9"})
    with pytest.raises(OttuFault) as raised:
        listed(client)
    assert raised.value.retry_after_seconds == 9


def test_pages_without_end_are_cut_off(ottu, client):
    def endless(talk):
        n = len(ottu.seen)
        talk.send(200, json.dumps(page(cards(n), 1000, f"?offset={n}")).encode())

    ottu.always = endless
    with pytest.raises(InvalidAnswer):
        listed(client)
    assert len(ottu.seen) == MAX_PAGES


def test_the_budget_is_asked_before_every_page(ottu, client):
    asked = []
    ottu.answers(200, page(cards(1), 2, "?offset=1"))
    ottu.answers(200, page(cards(2), 2))
    listed(client, before_call=lambda: asked.append(len(ottu.seen)))
    assert asked == [0, 1]


@pytest.mark.parametrize("error", [BudgetSpent("none left"), OSError("the database is away"), KeyError("x")])
def test_what_the_budget_raises_passes_through_and_nothing_is_called(ottu, client, error):
    def refuse():
        raise error

    with pytest.raises(type(error)) as raised:
        listed(client, before_call=refuse)
    assert raised.value is error
    assert ottu.seen == []


def test_what_was_counted_too_long_ago_is_not_called(ottu, make_client, monkeypatch):
    monkeypatch.setattr("cardsync.ottu.client.COMMIT_SECONDS", -10.0)  # as after a process was stopped while it counted
    client, asked = make_client(ottu_timeout_s=10), []
    for call in (
        lambda: listed(client, before_call=lambda: asked.append(1)),
        lambda: client.delete_card("sandbox", "c-1", Token(FIRST), before_call=lambda: asked.append(1)),
    ):
        with pytest.raises(OttuUnavailable, match="before the call"):
            call()
    assert (asked, ottu.seen) == ([1, 1], [])


@pytest.mark.parametrize("seconds", [0, -1])
def test_without_time_neither_budget_nor_ottu_is_asked(ottu, client, seconds):
    asked = []
    with pytest.raises(OttuUnavailable):
        listed(client, deadline_seconds=seconds, before_call=lambda: asked.append(1))
    assert (asked, ottu.seen) == ([], [])


@pytest.mark.parametrize("customer_id", ["", "x" * 65, "a\x00b", "\ud800"])
def test_an_impossible_customer_is_refused_before_the_call(ottu, client, customer_id):
    with pytest.raises(ValueError, match="customer id"):
        client.list_cards("sandbox", customer_id, deadline_seconds=10)
    assert ottu.seen == []
