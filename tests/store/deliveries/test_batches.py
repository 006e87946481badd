"""A batch keeps its end over a retry, and its ticket is the guard."""

from __future__ import annotations

import pytest

from cardsync.store.deliveries import batches
from cardsync.store.deliveries.batches import Batch
from cardsync.store.feed import Place
from cardsync.stories import endpoints as story
from cardsync.stories.endpoints import NewEndpoint
from tests.factories import RING, CustomerFactory, make_card
from tests.stories.shop import Shop


@pytest.fixture(autouse=True)
def feed(bound_factories: None, shop: Shop) -> None:
    for _ in range(3):
        make_card(CustomerFactory())
    story.add(shop.worker, NewEndpoint("feed", "https://feed.example.test", "changes", 0), RING)


def claim(shop: Shop) -> list[Batch]:
    with shop.worker.begin() as connection:
        return batches.claim(connection)


def test_a_retry_is_the_same_batch_and_an_older_ticket_moves_nothing(shop: Shop) -> None:
    (first,) = claim(shop)
    assert claim(shop) == []
    make_card(CustomerFactory())
    shop.execute("UPDATE cardsync.endpoints SET claimed_until = now() - interval '1 s'")
    (second,) = claim(shop)
    assert (second.message_id, second.last) == (first.message_id, 3)
    with shop.worker.begin() as connection:
        assert not batches.delivered(connection, first)
        assert not batches.failed(connection, first, wait_seconds=1, error="x")
        assert batches.delivered(connection, second)
        assert not batches.delivered(connection, second)
    (rest,) = claim(shop)
    assert [change["seq"] for change in rest.changes] == [4]


def test_changes_after_a_number_come_with_the_head(shop: Shop) -> None:
    with shop.web.begin() as connection:
        changes, place = batches.changes_after(connection, 1, limit=1)
        assert ([one["seq"] for one in changes], place.head) == ([2], 3)
        assert batches.changes_after(connection, 3, limit=10) == ([], Place(3, 1, 0, is_lost=False))
