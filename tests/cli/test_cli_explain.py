"""``cardsync explain``: the story of a card from its evidence, without a token."""

from __future__ import annotations

import json

from cardsync.settings import Settings
from cardsync.stories.forget import ForgetPolicy, forget
from tests import factories
from tests.stories.shop import listed

TOKEN = "9999000000000001"


def card_id(shop):
    return str(shop.execute("SELECT card_id FROM cardsync.cards")[0].card_id)


def test_explain_tells_the_story_of_a_card_from_hint_to_removal(cardsync, shop):
    (customer,) = shop.hint()
    explained = cardsync("explain", card_id(shop))
    assert explained.stdout.startswith("Unconfirmed: a hint of ")
    shop.ottu.cards = listed(TOKEN)
    shop.reconcile(customer)
    explained = json.loads(cardsync("explain", card_id(shop), "--json").stdout)
    assert explained["verdict"].startswith("Active since ")
    assert [change["change"] for change in explained["changes"]] == ["added"]
    assert [hint["status"] for hint in explained["hints"]] == ["done"]
    assert explained["observations"][0]["outcome"] == "changed"
    shop.ottu.cards = ()
    shop.reconcile(customer, lane="hint")
    removed = cardsync("explain", card_id(shop))
    assert removed.stdout.startswith("Removed at ")
    assert "a complete list no longer had it" in removed.stdout


def test_explain_never_shows_a_token(cardsync, shop):
    factories.fingerprint_with(shop.engine)
    (customer,) = shop.hint()
    shop.ottu.cards = listed(TOKEN)
    shop.reconcile(customer)
    shop.receive(result="failed")
    for arguments in (["explain", card_id(shop)], ["explain", card_id(shop), "--json"]):
        output = cardsync(*arguments).output
        assert TOKEN not in output
        assert "fingerprint" not in output
        assert "1 hints are still open" in output


def test_what_has_shed_its_content_is_shown_as_such_and_explains_no_card_any_more(cardsync, shop):
    (customer,) = shop.hint()
    shop.ottu.cards = listed(TOKEN)
    shop.reconcile(customer)
    shop.execute("UPDATE cardsync.events SET received_at = received_at - interval '31 days'")
    forget(shop.engine, ForgetPolicy.of(Settings()))
    (event,) = json.loads(cardsync("events", "list", "--json").stdout)
    assert event["shed_at"] is not None
    assert event["customer_id"] is event["session_id"] is event["card_id"] is None
    assert "shed_at" in cardsync("events", "show", event["event_id"]).stdout
    explained = cardsync("explain", card_id(shop))
    assert explained.stdout.startswith("Active since ")
    assert "Hints that named it, newest first: none" in explained.stdout
    assert "Hints are shown for 30 days" in explained.stderr


def test_explain_knows_a_card_that_was_hinted_at_and_dropped(cardsync, shop):
    (customer,) = shop.hint()
    dropped = card_id(shop)
    shop.age_hints(1_000)
    shop.reconcile(customer)
    assert shop.cards() == {}
    assert cardsync("explain", dropped).stdout.startswith("Dropped: ")
