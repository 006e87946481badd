"""Folding: any number of hints become what is awaited of their cards and customers, in one statement."""

from __future__ import annotations

import datetime as dt
import uuid

from sqlalchemy import Engine, text

from cardsync.core.call_budget import Lane
from cardsync.core.repeats import NO_PATIENCE
from cardsync.store import claims
from cardsync.store.folding import Heard, fold
from tests.factories import RING, SECRET, CardFactory, CustomerFactory, EventFactory
from tests.store.rows import one

NOW = dt.datetime.now(dt.UTC)


def folded(engine: Engine, *, repeated: bool = False) -> set[uuid.UUID]:
    """Claim what waits, and fold it."""
    with engine.begin() as connection:
        heard = [
            Heard(c.hint, c.customer, c.hint.token.fingerprint(SECRET, c.hint.environment), repeated=repeated)
            for c in claims.hints(connection, RING)()
        ]
        assert heard
        return fold(connection, heard, RING)()


def test_hints_of_one_card_become_one_awaited_card_and_one_due_customer(engine: Engine) -> None:
    events = [EventFactory(customer_id="c", token="9999000000000001").event_id for _ in range(3)]
    assert folded(engine) == set()
    card = one(engine, "SELECT * FROM cardsync.cards")
    customer = one(engine, "SELECT * FROM cardsync.customers")
    newest = one(engine, "SELECT max(evidence_no) AS no FROM cardsync.events").no
    assert (card.status, card.awaited_no, card.cause) == ("unconfirmed", newest, "hint")
    assert (customer.dirty_no, customer.lane, customer.due_at is not None) == (newest, "hint", True)
    with engine.connect() as connection:
        settled = connection.execute(text("SELECT status, token, facts, card_id FROM cardsync.events")).all()
    assert settled == [("done", None, None, card.card_id)] * len(events)


def test_a_hint_that_a_later_list_has_shown_is_answered_and_asks_for_nothing(engine: Engine) -> None:
    event = EventFactory(customer_id="c").event_id
    with engine.begin() as connection:
        claimed = claims.hints(connection, RING)()
        fingerprint = claimed[0].hint.token.fingerprint(SECRET, claimed[0].hint.environment)
    customer = one(engine, "SELECT id FROM cardsync.customers").id
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.customers SET applied_no = 1000000"))
    made = CardFactory(customer=customer, fingerprint=fingerprint)
    assert folded(engine) == {event}
    assert one(engine, "SELECT due_at FROM cardsync.customers").due_at is None
    assert one(engine, "SELECT card_id FROM cardsync.events").card_id == made.card_id


def test_a_repeat_waits_for_no_list_and_marks_no_customer(engine: Engine) -> None:
    EventFactory(customer_id="c")
    folded(engine, repeated=True)
    assert one(engine, "SELECT awaited_at FROM cardsync.cards").awaited_at == NO_PATIENCE
    assert one(engine, "SELECT due_at FROM cardsync.customers").due_at is None


def test_a_customer_whose_lists_fail_keeps_its_back_off_but_is_tried_within_half_a_minute(engine: Engine) -> None:
    CustomerFactory(customer_id="c", failures=3, due_at=NOW + dt.timedelta(hours=1), lane="retry")
    EventFactory(customer_id="c")
    folded(engine)
    row = one(engine, "SELECT lane, due_at - clock_timestamp() AS wait FROM cardsync.customers")
    lane: Lane = row.lane
    assert (lane, dt.timedelta(seconds=20) < row.wait <= dt.timedelta(seconds=30)) == ("retry", True)


def test_folding_nothing_is_no_statement(engine: Engine) -> None:
    with engine.begin() as connection:
        assert fold(connection, [], RING)() == set()
