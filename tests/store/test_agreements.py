"""Agreements: one card each, and an older list never takes one from a newer list's card."""

from __future__ import annotations

import uuid

import pytest
from sqlalchemy import Engine

from cardsync.store import agreements
from cardsync.store.agreements import Claims
from tests.factories import CustomerFactory, make_card
from tests.store.rows import change, one


@pytest.fixture
def card_ids() -> tuple[uuid.UUID, uuid.UUID]:
    customer = CustomerFactory()
    return make_card(customer).card_id, make_card(customer).card_id


def apply(engine: Engine, claims: list[Claims], number: int, gone: tuple[uuid.UUID, ...] = ()) -> None:
    with engine.begin() as connection:
        agreements.apply(connection, "sandbox", claims, gone, number)


def holder(engine: Engine, agreement_id: str = "a") -> tuple[uuid.UUID, int]:
    card_id, since_no = one(
        engine, "SELECT card_id, since_no FROM cardsync.agreements WHERE agreement_id = :id", id=agreement_id
    )
    return card_id, since_no


def test_who_newly_claims_an_agreement_takes_it_over(engine: Engine, card_ids: tuple[uuid.UUID, uuid.UUID]) -> None:
    old, new = card_ids
    apply(engine, [Claims(old, ("a",), ())], 1)
    apply(engine, [Claims(old, ("a",), ("a",)), Claims(new, ("a",), ())], 2)
    assert holder(engine) == (new, 2)


def test_an_old_claim_fills_a_gap_and_takes_nothing(engine: Engine, card_ids: tuple[uuid.UUID, uuid.UUID]) -> None:
    first, second = card_ids
    apply(engine, [Claims(first, ("a",), ("a",))], 1)
    assert holder(engine) == (first, 1)
    apply(engine, [Claims(second, ("a",), ("a",))], 2)
    assert holder(engine) == (first, 1)


@pytest.mark.parametrize("number", [4, 5])
def test_a_list_that_is_not_newer_neither_takes_nor_lets_go(
    engine: Engine, card_ids: tuple[uuid.UUID, uuid.UUID], number: int
) -> None:
    first, second = card_ids
    apply(engine, [Claims(first, ("a",), ())], 5)
    apply(engine, [Claims(second, ("a",), ())], number)
    apply(engine, [Claims(first, (), ("a",))], number)
    apply(engine, [], number, gone=(first,))
    assert holder(engine) == (first, 5)


def test_a_card_that_is_gone_lets_go_of_all_and_another_keeps_its_own(
    engine: Engine, card_ids: tuple[uuid.UUID, uuid.UUID]
) -> None:
    gone, other = card_ids
    apply(engine, [Claims(gone, ("a", "b"), ()), Claims(other, ("c",), ())], 1)
    apply(engine, [], 2, gone=(gone,))
    assert one(engine, "SELECT array_agg(agreement_id) FROM cardsync.agreements")[0] == ["c"]


def test_the_same_agreement_in_the_other_environment_is_another(
    engine: Engine, card_ids: tuple[uuid.UUID, uuid.UUID]
) -> None:
    apply(engine, [Claims(card_ids[0], ("a",), ())], 1)
    change(
        engine,
        "INSERT INTO cardsync.agreements VALUES ('production', 'a', :card_id, 1)",
        card_id=card_ids[1],
    )
    apply(engine, [Claims(card_ids[0], (), ("a",))], 2)
    assert one(engine, "SELECT environment, card_id FROM cardsync.agreements") == ("production", card_ids[1])
