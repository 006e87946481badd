"""What a list filtered by one payment gateway says of what is known."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from cardsync.core.cards import CardFacts, CardStatus, Token
from cardsync.core.diff import LocalCard, RemoteCard
from cardsync.core.gateway_list import agrees
from cardsync.core.oddities import ODDITIES, Oddity

ONE, OTHER = CardFacts(pg_code="one", brand="VISA"), CardFacts(pg_code="other")


def known(name: str, facts: CardFacts, status: CardStatus = "active", *, stale: bool = False) -> LocalCard:
    return LocalCard(
        card_id=uuid.uuid5(uuid.NAMESPACE_OID, name),
        fingerprint=name.encode(),
        status=status,
        facts=facts,
        last4_is_stale=stale,
    )


def listed(name: str, facts: CardFacts) -> RemoteCard:
    return RemoteCard(name.encode(), Token(name), facts)


KNOWN = [known("a", ONE), known("b", OTHER)]


def test_a_list_that_shows_this_gateways_cards_as_they_are_known_agrees() -> None:
    assert agrees(KNOWN, [listed("a", ONE)], "one")
    assert agrees([known("b", OTHER)], [], "one")  # no card, known or listed


def test_cards_of_other_gateways_say_nothing_listed_or_not() -> None:
    changed = replace(OTHER, brand="AMEX")
    assert agrees(KNOWN, [listed("a", ONE), listed("b", changed), listed("new", OTHER)], "one")


@pytest.mark.parametrize(
    "shown",
    [
        [],
        [listed("b", OTHER)],
        [listed("a", replace(ONE, brand="AMEX"))],
        [listed("a", OTHER)],
        [listed("a", ONE), listed("new", ONE)],
        [listed("a", ONE), listed("new", CardFacts())],
        [listed("a", ONE), listed("b", ONE)],
    ],
    ids=[
        "none",
        "not ours",
        "another brand",
        "another gateway",
        "a new card",
        "one of no gateway",
        "one that moved here",
    ],
)
def test_a_list_that_shows_anything_else_of_this_gateway_does_not_agree(shown: list[RemoteCard]) -> None:
    assert not agrees(KNOWN, shown, "one")


@pytest.mark.parametrize("status", ["unconfirmed", "removed"])
def test_a_listed_card_that_is_not_active_asks_for_the_complete_list(status: CardStatus) -> None:
    assert not agrees([known("a", ONE, status)], [listed("a", ONE)], "one")
    assert agrees([known("a", ONE, status)], [], "one")


@pytest.mark.parametrize("shown", [[], [listed("a", ONE)]], ids=["absent", "listed"])
def test_a_card_that_is_being_deleted_may_be_listed_or_not(shown: list[RemoteCard]) -> None:
    assert agrees([known("a", ONE, "deleting")], shown, "one")


def test_last_digits_to_be_put_right_ask_for_the_complete_list() -> None:
    assert not agrees([known("a", ONE, stale=True)], [listed("a", ONE)], "one")


@pytest.mark.parametrize("oddity", ODDITIES)
def test_an_odd_list_proves_nothing_but_for_one_object_in_its_place(oddity: Oddity) -> None:
    assert agrees(KNOWN, [listed("a", ONE)], "one", [oddity]) == (oddity == "single_object")
