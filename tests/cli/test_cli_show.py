"""A customer on the command line: cards in every state, notifications and deletions, found by id or by our number."""

from __future__ import annotations

import json

from tests.stories.shop import listed

TOKEN = "9999000000000001"
WHO = ("--customer", "sandbox")


def known(shop):
    (customer,) = shop.hint()
    shop.ottu.cards = listed(TOKEN)
    shop.reconcile(customer)
    row = shop.execute("SELECT environment, customer_id FROM cardsync.customers")[0]
    return customer, row.environment, row.customer_id


def test_a_customer_is_shown_by_its_id_and_by_our_number(cardsync, shop):
    number, environment, customer_id = known(shop)
    by_id = json.loads(cardsync("customers", "show", environment, customer_id, "--json").stdout)
    by_number = json.loads(cardsync("customers", "show", "--number", str(number), "--json").stdout)
    assert by_id == by_number
    assert (by_id["customer"]["id"], [card["status"] for card in by_id["cards"]]) == (number, ["active"])
    assert TOKEN not in json.dumps(by_id)
    assert cardsync("customers", "show", environment, customer_id).stdout.startswith("The last believed list is of ")
    assert cardsync("customers", "show", "--number", "12345").exit_code == 1
    assert cardsync("customers", "show", environment, "unknown").exit_code == 1
    assert cardsync("customers", "show").exit_code == 2


def test_cards_notifications_and_deletions_of_a_customer_are_listed(cardsync, shop):
    _, environment, customer_id = known(shop)
    whose = ("--customer", environment, customer_id)
    (card,) = json.loads(cardsync("cards", "list", *whose, "--json").stdout)
    (event,) = json.loads(cardsync("events", "list", *whose, "--json").stdout)
    assert event["customer_id"] == customer_id
    for given in (["--card", card["card_id"]], ["--session", event["session_id"]], ["--since", "2026-01-01"]):
        assert [e["event_id"] for e in json.loads(cardsync("events", "list", *given, "--json").stdout)] == [
            event["event_id"]
        ]
    assert json.loads(cardsync("events", "list", "--session", "another", "--json").stdout) == []
    assert json.loads(cardsync("deletions", "list", *whose, "--json").stdout) == []
    cardsync("deletions", "request", card["card_id"])
    (deletion,) = json.loads(cardsync("deletions", "list", *whose, "--json").stdout)
    assert deletion["card_id"] == card["card_id"]
    explained = cardsync("explain", card["card_id"]).stdout
    assert "waits for its call to Ottu" in explained
    assert "Deletions, newest first" in explained


def test_a_customer_is_explained_with_each_card(cardsync, shop):
    _, environment, customer_id = known(shop)
    explained = cardsync("explain", "--customer", environment, customer_id)
    assert "The last believed list is of " in explained.stdout
    assert "Active since " in explained.stdout
    assert json.loads(cardsync("explain", "--customer", environment, customer_id, "--json").stdout)["cards"]
    assert cardsync("explain").exit_code == 2


def test_an_empty_list_says_so(cardsync, shop):
    answer = cardsync("events", "list")
    assert "There is none." in answer.stderr
