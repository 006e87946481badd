"""How long a notification waited for the list that settles it."""

from __future__ import annotations

from sqlalchemy import Engine, text

from cardsync.store import customers, hint_waits
from tests.stories.fake_ottu import DeletingShop
from tests.stories.test_gate import due


def test_the_oldest_notification_since_the_last_look_counts(
    engine: Engine, ingest_engine: Engine, web_engine: Engine, worker_engine: Engine
) -> None:
    shop = DeletingShop(engine, ingest_engine, web_engine, worker_engine)
    (customer,) = due(shop, "cust-1")
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.events SET received_at = received_at - interval '40 seconds'"))
        ticket = customers.take_ticket(connection, customer, lease_seconds=60)
        assert ticket is not None
        waited = hint_waits.seconds_since_oldest(connection, [ticket])()[ticket.number]
        assert waited is not None
        assert 40 <= waited < 400
        connection.execute(text("UPDATE cardsync.customers SET reconciled_at = clock_timestamp()"))
        assert hint_waits.seconds_since_oldest(connection, [ticket])()[ticket.number] is None
