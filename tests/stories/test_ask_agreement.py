"""Which card an agreement is charged to, where a list leaves that open: Ottu's answer about that agreement decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from sqlalchemy import Engine

from cardsync.core.cards import ListedCard
from cardsync.errors import InvalidAnswer, OttuUnavailable
from cardsync.stories.ask_agreement import Outcome, ask_agreements
from cardsync.stories.filtered_lists import FilteredListPolicy
from tests.factories import SECRET
from tests.stories.shop import Shop, listed
from tests.stories.test_known_agreements import first_payment

ONE, OTHER = "9999000000000001", "9999000000000002"


@dataclass
class AboutAgreements:
    """Answers each question about an agreement, after ``meanwhile``; raises ``error`` instead if there is one."""

    card: ListedCard | None = None
    error: Exception | None = None
    meanwhile: Callable[[], object] = lambda: None
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def list_agreement(
        self, environment: str, customer_id: str, agreement_id: str, *, before_call: Callable[[], None]
    ) -> ListedCard | None:
        before_call()
        self.asked.append((environment, customer_id, agreement_id))
        self.meanwhile()
        if self.error is not None:
            raise self.error
        return self.card


@pytest.fixture
def about() -> AboutAgreements:
    return AboutAgreements()


def ask(worker: Engine, about: AboutAgreements) -> list[Outcome]:
    policy = FilteredListPolicy(SECRET, daily_calls=1_000, call_seconds=10.0)
    return ask_agreements(worker, about, policy, jitter=0.5)  # type: ignore[arg-type]


def charged(shop: Shop) -> str | None:
    """The masked end of the card that the agreement is charged to."""
    rows = shop.execute(
        "SELECT c.fingerprint FROM registry.agreement_cards JOIN cardsync.cards AS c USING (card_id) WHERE agreement_id = 'A'"
    )
    names = {card.token.fingerprint(SECRET, "sandbox"): name for name in (ONE, OTHER) for card in listed(name)}
    return names[bytes(rows[0].fingerprint)] if rows else None


def two_claim(shop: Shop) -> int:
    """A customer with two cards that claim one agreement."""
    shop.ottu.cards = listed(ONE, OTHER, agreements=("A",))
    (customer,) = shop.hint()
    shop.reconcile(customer)
    return customer


@pytest.mark.parametrize("decides", [ONE, OTHER])
def test_of_two_cards_that_claim_an_agreement_ottus_answer_about_it_decides(
    shop: Shop, about: AboutAgreements, decides: str
) -> None:
    customer = two_claim(shop)
    (about.card,) = listed(decides, agreements=("A",))
    assert ask(shop.worker, about) == ["linked"]
    assert about.asked == [("sandbox", "cust-1", "A")]
    assert charged(shop) == decides
    shop.reconcile(customer, lane="sweep")  # the same list again: nothing is open any more
    assert (ask(shop.worker, about), charged(shop)) == ([], decides)
    assert shop.execute("SELECT sum(calls) AS calls FROM cardsync.call_minutes WHERE lane = 'retry'")[0].calls == 1


def test_the_answer_says_nothing_of_other_cards(shop: Shop, about: AboutAgreements) -> None:
    two_claim(shop)
    (about.card,) = listed(ONE)
    before = (shop.cards(), shop.feed(), shop.customer().reconciled_at)
    ask(shop.worker, about)
    assert (shop.cards(), shop.feed(), shop.customer().reconciled_at) == before


def test_a_third_claim_opens_it_again(shop: Shop, about: AboutAgreements) -> None:
    customer = two_claim(shop)
    (about.card,) = listed(ONE)
    ask(shop.worker, about)
    shop.ottu.cards = (*shop.ottu.cards, *listed("9999000000000003", agreements=("A",)))
    shop.reconcile(customer, lane="sweep")
    assert len(ask(shop.worker, about)) == 1


def test_an_agreement_that_a_payment_named_and_no_card_claims_is_asked_about_once(
    shop: Shop, about: AboutAgreements
) -> None:
    shop.ottu.cards = listed(ONE, OTHER)
    (customer,) = first_payment(shop)
    assert ask(shop.worker, about) == []  # a list comes first
    shop.reconcile(customer)
    (about.card,) = listed(OTHER)
    assert ask(shop.worker, about) == ["linked"]
    assert charged(shop) == OTHER
    shop.reconcile(customer, lane="sweep")  # the list still lacks the claim, and that is no word against it
    assert (ask(shop.worker, about), charged(shop)) == ([], OTHER)


@pytest.mark.parametrize("claimed", [False, True])
def test_a_payment_that_is_heard_after_the_list_that_answers_it_is_asked_about_too(
    shop: Shop, about: AboutAgreements, claimed: bool
) -> None:
    """The list was asked for after the payment's notification came, and believed before it was heard."""
    shop.ottu.cards = listed(ONE, agreements=("A",) if claimed else ())
    (customer,) = shop.hint(token=OTHER)
    late = shop.receive(token=ONE, agreement={"id": "A"}, session_id="b" * 40)
    shop.reconcile(customer)
    assert shop.process(late) == []  # the list answers it: no other is asked for
    (about.card,) = listed(ONE)
    assert ask(shop.worker, about) == ([] if claimed else ["linked"])
    assert charged(shop) == ONE


def test_where_ottu_has_no_card_for_it_the_agreement_has_none(shop: Shop, about: AboutAgreements) -> None:
    shop.ottu.cards = listed(ONE)
    (customer,) = first_payment(shop)
    shop.reconcile(customer)
    assert ask(shop.worker, about) == ["none"]
    shop.reconcile(customer, lane="sweep")
    assert (ask(shop.worker, about), charged(shop)) == ([], None)
    first_payment(shop, n=2)  # another payment names it: that is newer than the answer
    shop.reconcile(customer)
    assert len(ask(shop.worker, about)) == 1


def test_a_card_that_is_not_known_is_evidence_for_a_complete_list_and_is_not_served(
    shop: Shop, about: AboutAgreements
) -> None:
    customer = two_claim(shop)
    (about.card,) = listed("9999000000000003")
    before = charged(shop)
    assert ask(shop.worker, about) == ["unknown_card"]
    assert (charged(shop), len(shop.cards())) == (before, 2)
    assert shop.customer().due_at is not None
    shop.ottu.cards = listed(ONE, OTHER, "9999000000000003")
    shop.reconcile(customer)
    shop.execute("UPDATE cardsync.known_agreements SET due_at = clock_timestamp()")
    assert ask(shop.worker, about) == ["linked"]


def test_an_answer_older_than_a_list_is_not_believed(shop: Shop, about: AboutAgreements) -> None:
    customer = two_claim(shop)
    before = charged(shop)
    (about.card,) = listed(OTHER if before == ONE else ONE)
    about.meanwhile = lambda: shop.reconcile(customer, lane="read")
    assert ask(shop.worker, about) == ["older"]
    assert charged(shop) == before
    about.meanwhile = lambda: None
    shop.execute("UPDATE cardsync.known_agreements SET due_at = clock_timestamp()")
    assert ask(shop.worker, about) == ["linked"]


def test_a_process_that_was_away_for_too_long_changes_nothing(shop: Shop, about: AboutAgreements) -> None:
    two_claim(shop)
    before = charged(shop)
    (about.card,) = listed(OTHER if before == ONE else ONE)
    about.meanwhile = lambda: shop.execute("UPDATE cardsync.known_agreements SET lease_until = clock_timestamp()")
    assert ask(shop.worker, about)[0] == "superseded"
    assert charged(shop) == before


@pytest.mark.usefixtures("still_clock")
@pytest.mark.parametrize("error", [OttuUnavailable("away"), InvalidAnswer("more than one card")])
def test_a_failed_call_changes_nothing_and_is_made_again_later(
    shop: Shop, about: AboutAgreements, error: Exception
) -> None:
    two_claim(shop)
    before = charged(shop)
    about.error = error
    assert ask(shop.worker, about) == ["failed"]
    (row,) = shop.execute(
        "SELECT failures, last_error, due_at > clock_timestamp() AS later FROM cardsync.known_agreements"
    )
    assert (row.failures, row.later, row.last_error.startswith(type(error).__name__)) == (1, True, True)
    assert (charged(shop), ask(shop.worker, about)) == (before, [])
