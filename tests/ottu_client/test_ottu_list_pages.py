"""Pages: all of them or none, from our own address, each counted before it is asked for."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

import pytest

from cardsync.core.cards import Token
from cardsync.errors import (
    BudgetSpent,
    InvalidAnswer,
    OttuFault,
    OttuUnavailable,
)
from cardsync.ottu import CardList
from cardsync.ottu.listing import MAX_PAGES
from tests.ottu_client.lists import FIRST, card, cards, listed, page, tokens


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
    "bare tokens": page([{"token": "tok-fake-0001"}], 2),
    "an error": page(cards(2), 2, detail="Not now."),
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
