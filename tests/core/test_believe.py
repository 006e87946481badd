"""What is believed of a hint where there is no list: a table of doubts, and properties of the plan."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardsync.core.believe import HintPlan, KnownCard, Order, Said, doubt, named, plan
from cardsync.core.cards import CardFacts
from cardsync.core.inquiry_limits import may_be_asked_at

BEGAN = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


def order(minute: float, number: int = 1) -> Order:
    return Order(BEGAN + dt.timedelta(minutes=minute), number)


def said(minute: float = 1, **given_: Any) -> Said:
    facts = {
        "order": order(minute),
        "source": "subscription",
        "vouched": True,
        "alone": True,
        "result": "success",
        "agreement_id": None,
        "facts": CardFacts(brand="VISA"),
    }
    return Said(**{**facts, **given_})


def known(minute: float = 0, **given_: Any) -> KnownCard:
    facts = {"status": "active", "facts": CardFacts(brand="MADA", agreements=()), "applied": order(minute)}
    return KnownCard(**{**facts, **given_})


def planned(*args: Any) -> HintPlan:
    made = plan(*args)
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("changes", "because"),
    [
        ({}, None),
        ({"alone": False}, "repeated_signature"),
        ({"vouched": False}, "not_bound"),
        ({"source": "standard"}, "standard_scheme"),
        ({"source": "standard", "vouched": True}, "standard_scheme"),
        *(({"result": r}, "no_success") for r in ("failed", "canceled", "error", "pending", "cod", None, "SUCCESS ")),
        ({"source": "inquiry", "vouched": False}, None),
        ({"source": "inquiry", "result": "failed"}, "no_success"),
    ],
)
def test_a_hint_is_believed_only_if_somebody_vouched_for_all_of_it(
    changes: dict[str, Any], because: str | None
) -> None:
    assert doubt(said(**changes)) == because


def test_unsigned_flags_and_agreements_are_not_believed_of_a_signed_hint_and_are_of_ottus_answer() -> None:
    flags = CardFacts(is_preferred=True, cvv_required=False, is_expired=True, agreements=("X",), brand="VISA")
    hint = planned(None, said(facts=flags, agreement_id="S"), {})
    assert hint.facts == CardFacts(brand="VISA", agreements=("S",))
    answer = planned(None, said(facts=flags, agreement_id="S", source="inquiry"), {})
    assert answer.facts == replace(flags, agreements=("S", "X"))


def test_an_older_hint_says_only_what_nothing_else_did() -> None:
    late = planned(known(5), said(1, facts=CardFacts(brand="VISA", name_on_card="FAKE")), {})
    assert (late.facts.brand, late.facts.name_on_card, late.newest) == ("MADA", "FAKE", False)


def test_nothing_that_an_unconfirmed_card_was_said_to_be_is_kept() -> None:
    card = known(5, status="unconfirmed", facts=CardFacts(is_preferred=True, agreements=("X",), name_on_card="FORGED"))
    made = planned(card, said(1), {"X": order(0)})
    assert (made.facts, made.revive) == (CardFacts(brand="VISA", agreements=()), True)


@pytest.mark.parametrize(("removed", "back"), [(0, True), (1, False), (2, False)])
def test_a_removed_card_comes_back_by_a_hint_that_arrived_later(removed: float, back: bool) -> None:
    card = known(0, status="removed", removed_at=order(removed).at)
    assert (plan(card, said(1), {}) is not None) is back


def test_ottus_answer_lets_no_agreement_go_and_takes_over_only_what_is_older() -> None:
    card = known(0, facts=CardFacts(agreements=("HAS",)))
    answer = said(5, source="inquiry", facts=CardFacts(agreements=("NEW", "OLD")))
    made = planned(card, answer, {"HAS": order(0), "OLD": order(0), "NEW": order(9)})
    assert (made.takes, made.facts.agreements) == (("OLD",), ("HAS", "OLD"))


HINTS = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from((None, "X", "Y")), st.sampled_from(("30", "31", "32"))), max_size=8
)


@given(hints=HINTS, draws=st.randoms())
def test_in_whichever_order_hints_are_taken_the_end_is_that_of_their_arrival(hints: list[Any], draws: Any) -> None:
    arrived = [(number, *hint) for number, hint in enumerate(hints, start=1)]
    shuffled = list(arrived)
    draws.shuffle(shuffled)
    assert taken(shuffled) == taken(arrived)


def taken(hints: list[Any]) -> Any:
    """The cards and links in the end, with the stories' own bookkeeping."""
    cards: dict[str, KnownCard] = {}
    links: dict[str, tuple[str, Order]] = {}
    for number, token, agreement_id, year in hints:
        hint = said(number, agreement_id=agreement_id, facts=CardFacts(expiry_year=year))
        card = cards.get(token)
        seen = {a: links[a][1] for a in named(hint) if a in links}
        made = planned(card, hint, seen)
        applied = hint.order if made.newest or card is None else card.applied
        cards[token] = KnownCard(status="active", facts=made.facts, applied=applied)
        for a in made.takes:
            loser = links.get(a, (token, hint.order))[0]
            links[a] = (token, hint.order)
            if loser != token:
                left = tuple(x for x in cards[loser].facts.agreements or () if x != a)
                cards[loser] = replace(cards[loser], facts=replace(cards[loser].facts, agreements=left))
    for a, (token, _) in links.items():
        assert [t for t, c in cards.items() if a in (c.facts.agreements or ())] == [token]
    return {t: c.facts for t, c in cards.items()}, {a: link[0] for a, link in links.items()}


@pytest.mark.parametrize(
    ("asked", "heard", "minute"),
    [
        ([], None, None),
        ([], 0, 10),
        ([20], 0, 50),
        ([20, 60], 0, 90),
        ([20, 60, 100], 0, 20 + 24 * 60),
        ([20, 60, 24 * 60 + 21], None, 24 * 60 + 51),
    ],
)
def test_a_payment_is_asked_about_at_ottus_pace(asked: list[float], heard: float | None, minute: float | None) -> None:
    earliest = may_be_asked_at([order(m).at for m in asked], None if heard is None else order(heard).at)
    if minute is None:
        assert earliest is None
    else:
        assert earliest is not None
        assert dt.timedelta(0) <= earliest - order(minute).at <= dt.timedelta(seconds=5)
