"""Agreements cost a fixed number of statements, however many a customer has."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import event

from tests.stories.shop import Shop, listed

CARDS, EACH = 40, 5


def card_list(cards: int, each: int) -> tuple[object, ...]:
    return tuple(
        card
        for n in range(cards)
        for card in listed(f"9999{n:012}", agreements=tuple(f"agreement-{n}-{m}" for m in range(each)))
    )


@pytest.fixture
def statements(shop: Shop) -> Callable[[int], int]:
    """How many statements one look at a customer takes."""
    sent: list[str] = []
    event.listen(shop.worker, "before_cursor_execute", lambda _c, _cursor, statement, *_: sent.append(statement))

    def count(customer: int) -> int:
        sent.clear()
        assert shop.reconcile(customer, lane="read").outcome in ("changed", "unchanged")
        return len(sent)

    return count


def test_an_unchanged_list_takes_as_many_statements_for_many_agreements_as_for_one(
    shop: Shop, statements: Callable[[int], int]
) -> None:
    counts = {}
    for customer_id, cards, each in (("few", 1, 1), ("many", CARDS, EACH)):
        shop.ottu.cards = card_list(cards, each)  # type: ignore[assignment]
        (customer,) = shop.hint(customer_id)
        shop.reconcile(customer)
        counts[customer_id] = statements(customer)
    assert counts["many"] == counts["few"]
    assert shop.execute("SELECT count(*) FROM cardsync.agreements")[0][0] == CARDS * EACH  # the few are among the many


def test_many_agreements_that_move_at_once_follow_their_cards(shop: Shop, statements: Callable[[int], int]) -> None:
    names = [f"agreement-{n}" for n in range(20)]
    one, other = "9999000000000001", "9999000000000002"
    shop.ottu.cards = (*listed(one, agreements=tuple(names)), *listed(other))
    (customer,) = shop.hint()
    shop.reconcile(customer)
    shop.ottu.cards = (*listed(one, agreements=tuple(names[:5])), *listed(other, agreements=tuple(names[5:])))
    statements(customer)
    linked = shop.execute(
        "SELECT token, count(*) FROM registry.agreement_cards JOIN registry.card_tokens USING (card_id) GROUP BY 1 ORDER BY 1"
    )
    assert [tuple(row) for row in linked] == [(one, 5), (other, 15)]
