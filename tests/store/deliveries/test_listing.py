"""What an operator sees of deliveries, and sends again."""

from __future__ import annotations

from cardsync.store.deliveries import endpoints, listing
from cardsync.stories.receive import store
from tests.store.deliveries.test_bodies import add, body_of, came
from tests.stories.shop import Shop


def test_only_what_is_asked_for_is_listed_and_what_failed_is_sent_again_while_its_body_is_kept(shop: Shop) -> None:
    add(shop.worker, "orders")
    add(shop.worker, "ledger")
    store(shop.ingest, [came(body_of(1)), came(body_of(2))])
    shop.execute(
        """UPDATE cardsync.deliveries AS d SET status = 'failed', finished_at = now() FROM cardsync.endpoints AS e
           WHERE e.endpoint_id = d.endpoint_id AND e.name = 'orders'"""
    )
    shop.execute(
        """UPDATE cardsync.kept_bodies SET body = NULL, customer_id = NULL, session_id = NULL
           WHERE event_id = (SELECT min(event_id::text)::uuid FROM cardsync.kept_bodies)"""
    )
    with shop.worker.begin() as connection:
        assert len(listing.listing(connection, endpoint=None, status=None, limit=10)) == 4
        failed = listing.listing(connection, endpoint="orders", status="failed", limit=10)
        assert sorted(row["body_is_kept"] for row in failed) == [False, True]
        assert listing.replay_failed(connection, "ledger") == 0
        assert listing.replay_failed(connection, "orders") == 1
        assert endpoints.show(connection, "orders").pending == 1
        assert listing.show(connection, 10**9) is None
