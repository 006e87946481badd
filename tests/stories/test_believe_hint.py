"""Hints where there is no list: what makes a card active, in which order hints count, and where agreements stay."""

from __future__ import annotations

import itertools
import uuid
from typing import Any

import pytest
from sqlalchemy import Engine

from cardsync.stories.receive import WebhookKeys
from tests import payloads
from tests.factories import RING
from tests.stories.no_list import NoListShop, altered, signed

A, B, C = "9999000000000001", "9999000000000002", "tok-fake-3"


@pytest.fixture
def shop(engine: Engine, ingest_engine: Engine, worker_engine: Engine) -> NoListShop:
    """A deployment without lists."""
    return NoListShop(engine, ingest_engine, worker_engine)


def test_a_signed_hint_of_a_bound_key_makes_its_card_active(shop: NoListShop) -> None:
    shop.hear(signed(shop.ottu.pay("cust/1 é", A, agreement_id="agreement")))
    (card,) = shop.execute("SELECT * FROM registry.cards")
    assert (card.status, card.environment, card.customer_id) == ("active", "production", "cust/1 é")
    assert (card.pg_code, card.number, card.expiry_year, list(card.agreements)) == (
        "fake-pg",
        "**** 0001",
        "39",
        ["agreement"],
    )
    assert (card.is_preferred, card.cvv_required, card.auto_debit) == (False, None, False)
    assert shop.charged() == {"agreement": A}
    assert shop.settle() == []


def test_a_second_signed_hint_of_the_same_card_changes_nothing(shop: NoListShop) -> None:
    shop.hear(signed(shop.ottu.pay("c", A)))
    shop.hear(signed(shop.ottu.pay("c", A)))
    assert [r.change for r in shop.execute("SELECT change FROM registry.card_changes")] == ["added"]


def test_the_inquirys_answer_is_believed_wholly(shop: NoListShop) -> None:
    flags = {"is_preferred": True, "cvv_required": False, "agreements": ["X"]}
    shop.hear(signed(shop.ottu.pay("c", A, token_fields=flags), "standard"))
    assert shop.cards("unconfirmed") == {("production", "c", A)}
    shop.settle()
    (card,) = shop.execute("SELECT * FROM registry.cards")
    assert (card.status, card.is_preferred, card.auto_debit, list(card.agreements)) == ("active", True, True, ["X"])
    assert shop.charged() == {"X": A}


def test_an_unconfirmed_cards_own_words_do_not_survive_its_confirmation(shop: NoListShop) -> None:
    payment = shop.ottu.pay("c", A)
    forged = {"is_preferred": True, "cvv_required": False, "agreements": ["X"], "name_on_card": "FORGED"}
    shop.hear(altered(signed(payment, "standard"), token_fields=forged))
    shop.hear(signed(shop.ottu.pay("c", A, token_fields={"name_on_card": ...})))
    (card,) = shop.execute("SELECT * FROM registry.cards")
    assert (card.is_preferred, card.cvv_required, list(card.agreements), card.name_on_card) == (False, None, [], None)


def test_an_agreement_that_comes_back_to_its_first_card_is_there(shop: NoListShop) -> None:
    for minutes, token in enumerate((A, B, A, C, A, B)):
        shop.hear(signed(shop.ottu.pay("c", token, agreement_id="X")), minutes)
        claims = shop.claims()
        assert (shop.charged(), claims.pop(token), set(map(tuple, claims.values()))) == (
            {"X": token},
            ["X"],
            {()} if claims else set(),
        )


def test_an_agreement_moves_between_customers_too_and_both_cards_say_so(shop: NoListShop) -> None:
    shop.hear(signed(shop.ottu.pay("one", A, agreement_id="X")))
    shop.hear(signed(shop.ottu.pay("another", B, agreement_id="X")))
    assert (shop.charged(), shop.claims()) == ({"X": B}, {A: [], B: ["X"]})
    changes = shop.execute("SELECT customer_id, change, fields FROM registry.card_changes ORDER BY seq")
    assert ("one", "updated", ["agreements"]) in [tuple(c) for c in changes]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("together", [True, False])
def test_hints_count_by_arrival_in_whichever_order_they_are_stored_and_processed(
    shop: NoListShop, order: tuple[int, ...], together: bool
) -> None:
    """Direct ones first, then what waited on disk: the spool is drained after them."""
    hints = [
        (signed(shop.ottu.pay("c", A, agreement_id="X", token_fields={"expiry_year": "30"})), 1),
        (signed(shop.ottu.pay("c", B, agreement_id="X", token_fields={"expiry_year": "31"})), 2),
        (signed(shop.ottu.pay("c", A, token_fields={"expiry_year": "32"})), 3),
    ]
    received = [shop.receive(*hints[n]) for n in order]
    for events in [received] if together else [[one] for one in received]:
        shop.process(*events)
    assert (shop.charged(), shop.claims()) == ({"X": B}, {A: [], B: ["X"]})
    assert (shop.card(A).expiry_year, shop.card(B).expiry_year) == ("32", "31")


def test_equal_moments_count_by_the_number_of_their_rows(shop: NoListShop) -> None:
    first = shop.receive(signed(shop.ottu.pay("c", A, agreement_id="X")), 1)
    second = shop.receive(signed(shop.ottu.pay("c", B, agreement_id="X")), 1)
    shop.process(second, first)
    assert shop.charged() == {"X": B}


def test_a_card_comes_back_by_a_later_hint_and_not_by_an_earlier_one(shop: NoListShop) -> None:
    shop.hear(signed(shop.ottu.pay("c", A, agreement_id="X")), 1)
    shop.execute(
        """UPDATE cardsync.cards SET status = 'removed', token = NULL, removed_at = '2026-03-01T12:10Z',
               removed_because = 'requested', cause = 'deletion'"""
    )
    shop.execute("DELETE FROM cardsync.agreements")
    shop.hear(signed(shop.ottu.pay("c", A, agreement_id="X")), 5)
    assert (shop.cards(), shop.charged()) == (set(), {})
    shop.hear(signed(shop.ottu.pay("c", A)), 11)
    assert (shop.cards(), shop.claims()) == ({("production", "c", A)}, {A: []})


def fail_for_good(shop: NoListShop, event_id: uuid.UUID) -> None:
    shop.execute(
        "UPDATE cardsync.events SET facts = '{\"agreements\": 7}', attempts = 9 WHERE event_id = :id", id=event_id
    )
    assert shop.process(event_id) == []


def test_a_hint_that_failed_for_good_leaves_nobody_due_and_its_payment_to_be_asked_about(shop: NoListShop) -> None:
    payment = shop.ottu.pay("c", A)
    fail_for_good(shop, shop.receive(signed(payment)))
    assert shop.execute("SELECT 1 FROM cardsync.customers WHERE due_at IS NOT NULL OR dirty_since IS NOT NULL") == []
    assert shop.settle() == [payment["session_id"]]
    assert shop.cards() == {("production", "c", A)}


@pytest.mark.parametrize(
    ("keys", "made_by", "active"),
    [
        ([f"production:{payloads.KEY}"], payloads.KEY, True),
        ([payloads.KEY], payloads.KEY, False),
        (["production:an-older-key", f"production:{payloads.KEY}"], payloads.KEY, True),
    ],
)
def test_only_a_bound_key_makes_a_card_active(shop: NoListShop, keys: list[str], made_by: str, active: bool) -> None:
    body: dict[str, Any] = signed(shop.ottu.pay("c", A), key=made_by)
    shop.process(shop.receive(body, keys=WebhookKeys.of(keys, RING)))
    assert (shop.cards() != set()) is active
