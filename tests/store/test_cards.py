"""Cards: what a hint may write, and that a plan writes under a guard on the state that it was made from."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pytest
from sqlalchemy import Engine

from cardsync.core.cards import CardFacts, Token
from cardsync.core.diff import Plan, RemoteCard, Shown
from cardsync.store import cards
from tests.factories import RING, SECRET, CustomerFactory, make_card
from tests.store.rows import change, one

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
TOKEN = "9999000000000001"


def remote(token: str = TOKEN, **facts: Any) -> RemoteCard:
    given = Token(token)
    return RemoteCard(
        given.fingerprint(SECRET, "sandbox"), given, CardFacts(**{"agreements": (), "brand": "VISA", **facts})
    )


def hint(
    engine: Engine, customer: int, card: RemoteCard, evidence_no: int, received_at: dt.datetime = NOW
) -> uuid.UUID:
    with engine.begin() as connection:
        made = cards.keep_unconfirmed(
            connection, customer, card, ring=RING, evidence_no=evidence_no, received_at=received_at
        )
        if made is not None:
            return made
        known = cards.find(connection, customer, card.fingerprint)
        assert known is not None
        cards.await_again(connection, known.card_id, evidence_no=evidence_no, received_at=received_at)
        return known.card_id


def apply(engine: Engine, customer: int, plan: Plan) -> dict[bytes, uuid.UUID]:
    with engine.begin() as connection:
        return cards.apply(connection, customer, plan, ring=RING, confirmed_at=NOW, cause="sweep")


def row(engine: Engine, card_id: uuid.UUID) -> Any:
    return one(engine, "SELECT * FROM cardsync.cards WHERE card_id = :id", id=card_id)


def shown(card_id: uuid.UUID, was: Any, **given: Any) -> Plan:
    facts = {"remote": remote(), "revive": False, "changed": True, "answered": False, **given}
    return Plan(shown=(Shown(card_id=card_id, was=was, **facts),))


def test_a_hint_makes_an_unknown_card_unconfirmed_and_leaves_a_known_one_as_it_is(engine: Engine) -> None:
    customer = CustomerFactory()
    unknown = hint(engine, customer.id, remote(), 5)
    assert (row(engine, unknown).status, row(engine, unknown).awaited_no) == ("unconfirmed", 5)
    known = make_card(customer, brand="MASTERCARD")
    named = remote(known.token)
    assert hint(engine, customer.id, named, 6) == known.card_id
    after = row(engine, known.card_id)
    assert (after.status, after.brand, after.awaited_no) == ("active", "MASTERCARD", 6)


def test_hints_processed_in_any_order_leave_the_newest_awaited(engine: Engine) -> None:
    customer = CustomerFactory()
    card_id = hint(engine, customer.id, remote(), 9, NOW + dt.timedelta(minutes=1))
    hint(engine, customer.id, remote(), 4, NOW)
    with engine.begin() as connection:
        cards.await_again(connection, card_id, evidence_no=7, received_at=NOW)
    assert (row(engine, card_id).awaited_no, row(engine, card_id).awaited_at) == (9, NOW + dt.timedelta(minutes=1))


def test_a_removed_card_that_a_hint_names_stays_removed_and_without_its_token(engine: Engine) -> None:
    customer = CustomerFactory()
    removed = make_card(customer)
    named = remote(removed.token)
    apply(engine, customer.id, Plan(removed=(removed.card_id,)))
    hint(engine, customer.id, named, 12)
    after = row(engine, removed.card_id)
    assert (after.status, after.token, after.awaited_no) == ("removed", None, 12)


def test_a_removal_erases_the_token_and_says_why(engine: Engine) -> None:
    customer = CustomerFactory()
    absent, proved = make_card(customer), make_card(customer, status="deleting")
    apply(engine, customer.id, Plan(removed=(absent.card_id,), proved=(proved.card_id,)))
    for card_id, because, cause in ((absent.card_id, "absent", "sweep"), (proved.card_id, "requested", "deletion")):
        after = row(engine, card_id)
        assert (after.status, after.token, after.removed_because, after.cause) == ("removed", None, because, cause)


@pytest.mark.parametrize(("kind", "status"), [("removed", "deleting"), ("proved", "active"), ("dropped", "active")])
def test_a_plan_made_from_another_state_removes_nothing(engine: Engine, kind: str, status: str) -> None:
    customer = CustomerFactory()
    card = make_card(customer, status=status)
    apply(engine, customer.id, Plan(**{kind: (card.card_id,)}))
    assert row(engine, card.card_id).status == status
    assert row(engine, card.card_id).token is not None


def test_a_card_that_changed_its_state_since_is_not_updated(engine: Engine) -> None:
    customer = CustomerFactory()
    card = make_card(customer, status="deleting", brand="AMEX")
    apply(engine, customer.id, shown(card.card_id, "active", revive=True))
    assert (row(engine, card.card_id).status, row(engine, card.card_id).brand) == ("deleting", "AMEX")


def test_a_card_that_comes_back_is_the_same_card_in_its_next_life(engine: Engine) -> None:
    customer = CustomerFactory()
    card = make_card(customer, token=TOKEN)
    apply(engine, customer.id, Plan(removed=(card.card_id,)))
    apply(engine, customer.id, shown(card.card_id, "removed", revive=True))
    after = row(engine, card.card_id)
    assert (after.status, after.life, after.token, after.removed_at, after.removed_because) == (
        "active",
        2,
        TOKEN,
        None,
        None,
    )


def test_a_card_that_is_shown_unchanged_writes_nothing_but_the_answer_to_its_hint(engine: Engine) -> None:
    customer = CustomerFactory()
    card = make_card(customer, awaited_no=3, awaited_at=NOW)
    before = one(engine, "SELECT count(*) FROM cardsync.card_changes")[0]
    apply(engine, customer.id, shown(card.card_id, "active", changed=False, answered=True))
    assert row(engine, card.card_id).awaited_no is None
    assert one(engine, "SELECT count(*) FROM cardsync.card_changes")[0] == before


def test_a_list_can_say_nothing_of_a_removed_card_that_it_does_not_show(engine: Engine) -> None:
    customer, other = CustomerFactory(), CustomerFactory()
    active, removed, awaited = make_card(customer), make_card(customer, token=TOKEN), make_card(customer)
    make_card(other)
    apply(engine, customer.id, Plan(removed=(removed.card_id, awaited.card_id)))
    change(
        engine, "UPDATE cardsync.cards SET awaited_no = 1, awaited_at = now() WHERE card_id = :id", id=awaited.card_id
    )
    with engine.connect() as connection:
        plain = {c.card_id for c in cards.of_customer(connection, customer.id, [])()}
        listed = {c.card_id for c in cards.of_customer(connection, customer.id, [remote().fingerprint])()}
    assert plain == {active.card_id, awaited.card_id}
    assert listed == {active.card_id, awaited.card_id, removed.card_id}


@pytest.mark.parametrize(("status", "elsewhere"), [("active", True), ("deleting", True), ("unconfirmed", False)])
def test_a_token_that_is_another_customers_card_is_noticed(engine: Engine, status: str, elsewhere: bool) -> None:
    here = make_card(CustomerFactory(), token=TOKEN, status="unconfirmed", awaited_no=1, awaited_at=NOW)
    make_card(CustomerFactory(), token=TOKEN, status=status, awaited_no=1, awaited_at=NOW)
    with engine.connect() as connection:
        assert cards.known_elsewhere(connection, [here.card_id]) is elsewhere
