"""The list of one payment gateway's cards."""

from __future__ import annotations

import json

import pytest

from cardsync.errors import BudgetSpent, InvalidAnswer
from tests.ottu_client.lists import CUSTOMER, cards, page


def about_gateway(client, pg_code="one", **more):
    return client.list_gateway("sandbox", CUSTOMER, pg_code, deadline_seconds=60, **more)


def test_each_page_of_a_gateways_list_is_asked_for_by_its_code(ottu, client):
    ottu.answers(200, page(cards(1, 2), 3, "http://evil.invalid/other/path?limit=2&offset=2&pg_codes=other"))
    ottu.answers(200, page(cards(3), 3))
    counted = []
    found = about_gateway(client, before_call=lambda: counted.append(1))
    assert (len(found.cards), found.calls, len(counted)) == (3, 2, 2)
    asked = [json.loads(seen.body) for seen in ottu.seen]
    assert asked == [{"type": "sandbox", "customer_id": CUSTOMER, "pg_codes": ["one"]}] * 2
    assert all("pg_codes" not in seen.target for seen in ottu.seen)


def test_a_gateway_without_cards_has_an_empty_list(ottu, client):
    ottu.answers(200, [])
    assert about_gateway(client).cards == ()


@pytest.mark.parametrize("content", [{"detail": "x"}, None, "ok"])
def test_what_is_no_list_is_no_answer_about_a_gateway(ottu, client, content):
    ottu.answers(200, content)
    with pytest.raises(InvalidAnswer):
        about_gateway(client)


def test_a_gateway_without_a_code_is_not_asked_about(ottu, client):
    with pytest.raises(ValueError, match="code"):
        about_gateway(client, "")
    assert ottu.seen == []


def test_the_budget_is_asked_before_a_gateways_list(ottu, client):
    def spent():
        raise BudgetSpent("nothing left")

    with pytest.raises(BudgetSpent):
        about_gateway(client, before_call=spent)
    assert ottu.seen == []
