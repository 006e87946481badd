"""One timeline of a customer: every source, the newest first, in pages that lose nothing."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import text

from cardsync.store.console import timeline
from cardsync.store.deletions import requests
from tests.factories import CustomerFactory, EventFactory, make_card

MOMENT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def read(engine, customer):
    """All pages, an entry each."""
    found, after = [], None
    with engine.connect() as connection:
        while True:
            page = timeline.page(connection, customer.id, customer.environment, customer.customer_id, after=after)
            found += page.entries
            after = page.after
            if after is None:
                return found


def test_every_source_is_there(engine):
    customer = CustomerFactory()
    card = make_card(customer)
    EventFactory(customer_id=customer.customer_id)
    with engine.begin() as connection:
        requests.request(connection, card_id=card.card_id, requested_by="test")
        connection.execute(
            text(
                "INSERT INTO cardsync.observations (observation_no, customer, lane, asked_at, outcome)"
                " VALUES (nextval('cardsync.observation_no'), :customer, 'hint', now(), 'unchanged')"
            ),
            {"customer": customer.id},
        )
        connection.execute(
            text(
                "SELECT cardsync.note_operator_action(NULL, 'Amal', 'look_now', 'customer', cast(:customer AS text), NULL, NULL,"
                " NULL, NULL, NULL)"
            ),
            {"customer": customer.id},
        )
    found = read(engine, customer)
    assert {entry.source for entry in found} == {"notification", "list", "change", "deletion", "action"}
    assert [entry.at for entry in found] == sorted((entry.at for entry in found), reverse=True)


def test_pages_lose_nothing_where_many_share_a_moment_or_came_late(engine, monkeypatch):
    monkeypatch.setattr(timeline, "PAGE", 7)
    customer, other = CustomerFactory(), CustomerFactory()
    for n in range(40):  # evidence is numbered in another order than that of the moments
        EventFactory(customer_id=customer.customer_id, received_at=MOMENT - dt.timedelta(minutes=(n * 7) % 5))
        EventFactory(customer_id=other.customer_id, received_at=MOMENT)
    found = read(engine, customer)
    assert len(found) == len({entry.ref for entry in found}) == 40
