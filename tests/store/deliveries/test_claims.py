"""A claim is one attempt's: it counts, it runs out, and no late end of it changes anything."""

from __future__ import annotations

from cardsync.core.delivery import UNDER_WAY
from cardsync.store.deliveries import claims
from cardsync.store.deliveries.claims import Claimed, Ended
from cardsync.stories.receive import store
from tests.store.deliveries.test_bodies import add, body_of, came
from tests.stories.shop import Shop


def claim(shop: Shop) -> list[Claimed]:
    with shop.worker.begin() as connection:
        return claims.claim(connection)


def settle(shop: Shop, one: Claimed, attempt: int | None = None) -> set[int]:
    ended = Ended(one.delivery_id, one.endpoint_id, attempt or one.attempt, "done", 0.0, 200, None)
    with shop.worker.begin() as connection:
        return claims.settle(connection, [ended])


def test_no_more_than_eight_are_claimed_for_an_endpoint_and_the_oldest_first(shop: Shop) -> None:
    add(shop.worker)
    for number in range(UNDER_WAY + 3):
        store(shop.ingest, [came(body_of(number))])
    first = claim(shop)
    assert [one.delivery_id for one in first] == sorted(one.delivery_id for one in first)
    assert (len(first), claim(shop)) == (UNDER_WAY, [])
    settle(shop, first[0])
    assert len(claim(shop)) == 1


def test_a_late_end_of_an_earlier_attempt_changes_nothing(shop: Shop) -> None:
    add(shop.worker)
    store(shop.ingest, [came(body_of(1))])
    (first,) = claim(shop)
    shop.execute(
        "UPDATE cardsync.deliveries SET due_at = now() - interval '1 s', claimed_until = now() - interval '1 s'"
    )
    (second,) = claim(shop)
    assert second.attempt == first.attempt + 1
    assert settle(shop, first) == set()
    assert settle(shop, second) == {second.delivery_id}
    assert settle(shop, second) == set()


def test_two_workers_share_the_places_of_an_endpoint(shop: Shop) -> None:
    add(shop.worker)
    store(shop.ingest, [came(body_of(number)) for number in range(20)])
    with shop.worker.begin() as one, shop.worker.begin() as other:
        assert len(claims.claim(one)) == UNDER_WAY
        assert claims.claim(other) == []  # the endpoint is being looked at
    assert claim(shop) == []
