"""Looks that were asked for by API: what asks, when one is done, and that it goes with its customer."""

from __future__ import annotations

from sqlalchemy import Engine, text

from cardsync.store import customers, looks
from cardsync.store.access import keys
from cardsync.store.access.key_use import CallQuota
from tests.store.rows import one
from tests.web.rows import add_card


def test_a_look_at_an_unknown_customer_makes_it_known_on_probation(web_engine: Engine, engine: Engine) -> None:
    with web_engine.begin() as connection:
        asked = looks.request(connection, "sandbox", "new", asker="api:shop")
    assert asked is not None
    assert asked.is_due
    assert (asked.look.status, asked.look.reconciled_at, asked.look.error) == ("queued", None, None)
    assert one(engine, "SELECT probation_since IS NOT NULL FROM cardsync.customers") == (True,)


def test_without_calls_left_nothing_is_asked(web_engine: Engine, engine: Engine) -> None:
    with engine.begin() as connection:
        key_id = keys.create(connection, "shop", keys.key_hash(keys.new_key()), ["cards:reconcile"])
    with web_engine.connect() as connection:
        assert looks.request(connection, "sandbox", "new", asker="api:shop", quota=CallQuota(key_id, 0)) is None
        connection.rollback()
    assert one(engine, "SELECT count(*) FROM cardsync.customers") == (0,)


def test_a_look_that_is_being_done_says_so(engine: Engine) -> None:
    add_card(engine)
    with engine.begin() as connection:
        asked = looks.request(connection, "sandbox", "cust-1", asker="api:shop")
        again = looks.request(connection, "sandbox", "cust-1", asker="api:shop")
    assert asked is not None
    assert again is not None
    assert (asked.is_due, again.is_due) == (True, False)  # the bell for the first will do
    assert asked.look.reconciliation_id != again.look.reconciliation_id
    with engine.begin() as connection:
        assert customers.take_ticket(connection, asked.customer, lease_seconds=30) is not None
        look = looks.show(connection, asked.look.reconciliation_id)
    assert look is not None
    assert look.status == "in_progress"


def test_a_look_goes_with_its_customer(engine: Engine) -> None:
    with engine.begin() as connection:
        asked = looks.request(connection, "sandbox", "new", asker="api:shop")
        assert asked is not None
        connection.execute(text("DELETE FROM cardsync.customers"))
        assert looks.show(connection, asked.look.reconciliation_id) is None
