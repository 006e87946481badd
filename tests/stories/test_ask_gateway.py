"""One payment gateway's cards, for a reader: Ottu's filtered list confirms what is known, and changes no card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from cardsync.core.cards import ListedCard
from cardsync.errors import OttuUnavailable
from cardsync.ottu import CardList
from cardsync.store import gateway_asks
from cardsync.stories.ask_gateway import Outcome, ask_gateway, claim_gateways
from cardsync.stories.filtered_lists import FilteredListPolicy
from tests.factories import SECRET
from tests.stories.shop import Shop, listed

ONE, OTHER, NEW = "9999000000000001", "9999000000000002", "9999000000000003"
OURS, THEIRS = listed(ONE, pg_code="one"), listed(OTHER, pg_code="other")


@dataclass
class AboutGateways:
    """Answers each question about a gateway, after ``meanwhile``; raises ``error`` instead if there is one."""

    cards: tuple[ListedCard, ...] = ()
    error: Exception | None = None
    meanwhile: Callable[[], object] = lambda: None
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def list_gateway(
        self,
        environment: str,
        customer_id: str,
        pg_code: str,
        *,
        deadline_seconds: float,
        before_call: Callable[[], None],
    ) -> CardList:
        before_call()
        self.asked.append((environment, customer_id, pg_code))
        self.meanwhile()
        if self.error is not None:
            raise self.error
        return CardList(self.cards, calls=1)


@pytest.fixture
def about() -> AboutGateways:
    return AboutGateways(OURS)


@pytest.fixture
def customer(shop: Shop) -> int:
    """A customer with a card of each of two gateways, listed an hour ago."""
    shop.ottu.cards = (*OURS, *THEIRS)
    (found,) = shop.hint(token=ONE, token_fields={"pg_code": "one"})
    shop.reconcile(found)
    shop.execute("UPDATE cardsync.customers SET reconciled_at = reconciled_at - interval '1 hour'")
    return found


def ask(shop: Shop, about: AboutGateways, customer: int, pg_code: str = "one") -> list[Outcome]:
    """A reader asks, and a worker calls."""
    since = shop.execute("SELECT clock_timestamp() AS now")[0].now
    with shop.web.begin() as connection:
        assert gateway_asks.want(connection, customer, pg_code, since=since) == "asked"
    policy = FilteredListPolicy(SECRET, daily_calls=1_000, call_seconds=10.0)
    tickets = claim_gateways(shop.worker, policy, limit=5)
    return [ask_gateway(shop.worker, about, ticket, policy, jitter=0.5) for ticket in tickets]  # type: ignore[arg-type]


def row(shop: Shop) -> Any:
    return shop.execute("SELECT * FROM cardsync.gateway_asks")[0]


def is_dirty(shop: Shop) -> bool:
    return shop.customer().dirty_since is not None


def all_that_is_shown(shop: Shop) -> tuple[object, ...]:
    return (shop.cards(), shop.feed(), shop.customer().reconciled_at, shop.customer().applied_no)


def test_an_answer_that_agrees_makes_the_gateway_fresh_and_writes_nothing_else(
    shop: Shop, about: AboutGateways, customer: int
) -> None:
    before = all_that_is_shown(shop)
    assert ask(shop, about, customer) == ["agrees"]
    assert about.asked == [("sandbox", "cust-1", "one")]
    assert all_that_is_shown(shop) == before
    assert (row(shop).answered_at > before[2], row(shop).due_at, is_dirty(shop)) == (True, None, False)
    assert shop.execute("SELECT sum(calls) AS calls FROM cardsync.call_minutes WHERE lane = 'read'")[0].calls == 1


@pytest.mark.parametrize(
    "answer",
    [(), listed(ONE, pg_code="one", brand="AMEX"), (*OURS, *listed(NEW, pg_code="one"))],
    ids=["its card is absent", "its card is another", "a card is new"],
)
def test_an_answer_that_differs_removes_and_adds_nothing_and_asks_for_the_complete_list(
    shop: Shop, about: AboutGateways, customer: int, answer: tuple[ListedCard, ...]
) -> None:
    before = all_that_is_shown(shop)
    about.cards = answer
    assert ask(shop, about, customer) == ["differs"]
    assert all_that_is_shown(shop) == before
    assert (row(shop).answered_at, is_dirty(shop), shop.customer().lane) == (None, True, "read")
    shop.ottu.cards = (*answer, *THEIRS)
    shop.reconcile(customer)
    active = {token for token, status in shop.cards().items() if status == "active"}
    assert len(active) == len(shop.ottu.cards)  # it says what is true


def test_an_answer_older_than_a_complete_list_says_nothing(shop: Shop, about: AboutGateways, customer: int) -> None:
    def a_list_meanwhile() -> None:
        shop.ottu.cards = (*OURS, *listed(NEW, pg_code="one"), *THEIRS)
        shop.reconcile(customer, lane="read")

    about.meanwhile = a_list_meanwhile
    assert ask(shop, about, customer) == ["older"]
    assert (row(shop).answered_at, row(shop).due_at, is_dirty(shop)) == (None, None, False)


def test_a_process_that_was_away_for_too_long_says_nothing(shop: Shop, about: AboutGateways, customer: int) -> None:
    about.cards = ()
    about.meanwhile = lambda: shop.execute("UPDATE cardsync.gateway_asks SET lease_until = clock_timestamp()")
    assert ask(shop, about, customer) == ["superseded"]
    assert (row(shop).answered_at, is_dirty(shop)) == (None, False)


def test_a_failed_call_says_nothing_and_is_made_again_for_the_next_reader_only(
    shop: Shop, about: AboutGateways, customer: int
) -> None:
    about.error = OttuUnavailable("away")
    assert ask(shop, about, customer) == ["failed"]
    assert (row(shop).failures, row(shop).answered_at, row(shop).due_at, is_dirty(shop)) == (1, None, None, False)
    assert row(shop).last_error.startswith("OttuUnavailable")


def test_while_calls_are_paused_none_is_made(shop: Shop, about: AboutGateways, customer: int) -> None:
    shop.execute("UPDATE cardsync.gate SET paused_until = clock_timestamp() + interval '1 hour'")
    assert ask(shop, about, customer) == ["failed"]
    assert about.asked == []
    assert row(shop).last_error.startswith("CallsPaused")
