"""The list of one agreement: one card, or none."""

from __future__ import annotations

import json

import pytest

from cardsync.errors import (
    BudgetSpent,
    InvalidAnswer,
)
from tests.ottu_client.lists import CUSTOMER, cards, page


def about_agreement(client, **more):
    return client.list_agreement("sandbox", CUSTOMER, "agreement-1", **more)


def test_the_list_of_one_agreement_is_asked_for_by_its_id_and_shows_one_card_or_none(ottu, client):
    ottu.answers(200, cards(1))
    ottu.answers(200, page([], 0))
    found = about_agreement(client)
    assert found is not None
    assert found.token.reveal() == "tok-fake-0001"
    assert about_agreement(client) is None
    asked = [json.loads(seen.body) for seen in ottu.seen]
    assert asked == [{"type": "sandbox", "customer_id": CUSTOMER, "agreement_id": "agreement-1"}] * 2


@pytest.mark.parametrize(
    "content",
    [cards(1, 2), page(cards(1), 2, "https://elsewhere/?offset=1"), {"detail": "x"}, None, "ok", [{"no": "card"}]],
)
def test_a_list_of_one_agreement_that_is_not_one_card_is_no_answer(ottu, client, content):
    ottu.answers(200, content)
    with pytest.raises(InvalidAnswer):
        about_agreement(client)


def test_the_budget_is_asked_before_a_list_of_one_agreement(ottu, client):
    def spent():
        raise BudgetSpent("nothing left")

    with pytest.raises(BudgetSpent):
        about_agreement(client, before_call=spent)
    assert ottu.seen == []
