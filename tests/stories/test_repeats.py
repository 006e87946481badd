"""One genuine signature under many altered bodies: what that may cost, and what it may not slow down."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cardsync.core.call_budget import Lane
from cardsync.core.repeats import APART_SECONDS, STRANGERS_A_SIGNATURE, STRANGERS_SECONDS
from cardsync.errors import BudgetSpent, OttuFault
from cardsync.store.calls import budget
from cardsync.stories.receive import Receipt
from tests import payloads
from tests.stories.shop import KEYS, Shop, listed, receive

TOKEN = payloads.TOKEN
GENUINE = json.loads(payloads.signed(payloads.payment("victim")))


def replay(shop: Shop, customer_id: str, token: str = TOKEN, *, genuine: dict[str, Any] = GENUINE) -> Receipt:
    """The genuine body with another customer, card and session: the same signature, which still holds."""
    altered = {**genuine, "session_id": uuid.uuid4().hex, "token": payloads.card(token, customer_id)}
    return receive(shop.ingest, json.dumps(altered).encode(), KEYS)


def later(shop: Shop, seconds: float) -> None:
    """Let time pass."""
    for statement in (
        """UPDATE cardsync.customers SET due_at = due_at - make_interval(secs => :s),
               reconciled_at = reconciled_at - make_interval(secs => :s)""",
        "UPDATE cardsync.cards SET awaited_at = awaited_at - make_interval(secs => :s)",
        "UPDATE cardsync.repeated_signatures SET counted_since = counted_since - make_interval(secs => :s)",
    ):
        shop.execute(statement, s=seconds)


def _discard(_: object) -> None:
    """For what is done in between."""


def due(shop: Shop, customer_id: str) -> Any:
    return shop.execute(
        """SELECT due_at <= clock_timestamp() AS now, lane,
                  extract(epoch FROM due_at - reconciled_at)::float8 AS after_last_look
           FROM cardsync.customers WHERE customer_id = :id""",
        id=customer_id,
    )[0]


def believed(shop: Shop) -> int:
    """The genuine notification arrives and is looked at; the customer."""
    shop.ottu.cards = listed(TOKEN)
    (customer,) = shop.process(receive(shop.ingest, json.dumps(GENUINE).encode(), KEYS))
    assert due(shop, "victim").lane == "hint"
    assert shop.reconcile(customer).outcome == "changed"
    return customer


def test_a_repeat_is_looked_at_a_minute_after_the_last_look_in_a_lane_of_its_own(shop: Shop) -> None:
    customer = believed(shop)
    assert shop.process(replay(shop, "victim"), replay(shop, "victim", "9999000000000002")) == []
    assert due(shop, "victim").after_last_look == APART_SECONDS
    assert due(shop, "victim").lane == "repeat"
    assert shop.reconcile(customer).outcome == "not_due"
    later(shop, APART_SECONDS)
    assert shop.reconcile(customer).outcome == "unchanged"
    assert due(shop, "victim").now is None
    assert shop.ottu.calls == 2


def test_all_bodies_with_one_signature_keep_the_order_that_they_name(shop: Shop) -> None:
    believed(shop)
    for number in range(3):  # the first repeat has a row of its own, and each later one takes its place
        replay(shop, "victim", f"999900000000000{number + 2}")
    rows = shop.execute("SELECT order_no, repeated FROM cardsync.events ORDER BY repeated")
    assert [tuple(row) for row in rows] == [(GENUINE["order_no"], False), (GENUINE["order_no"], True)]


def test_a_repeat_during_a_call_causes_no_second_one_at_once(shop: Shop) -> None:
    customer = believed(shop)
    later(shop, APART_SECONDS)
    shop.process(replay(shop, "victim"))
    shop.ottu.meanwhile = lambda: _discard(shop.process(replay(shop, "victim")))
    result = shop.reconcile(customer)
    assert (result.again, due(shop, "victim").lane) == (False, "repeat")
    assert due(shop, "victim").after_last_look == APART_SECONDS


def test_a_fresh_hint_is_as_fast_as_ever_in_a_flood_of_repeats(shop: Shop) -> None:
    customer = believed(shop)
    shop.process(replay(shop, "victim"))
    assert shop.hint("victim", order_no="order-2", token="9999000000000002") == [customer]
    assert (due(shop, "victim").now, due(shop, "victim").lane) == (True, "hint")


def test_a_repeat_takes_no_place_from_a_look_that_is_due_anyway(shop: Shop) -> None:
    shop.ottu.cards = ()  # the list lags: the hinted card is asked for again
    (customer,) = shop.process(receive(shop.ingest, json.dumps(GENUINE).encode(), KEYS))
    shop.reconcile(customer)
    before = due(shop, "victim")
    shop.process(replay(shop, "victim"))
    assert due(shop, "victim") == before
    assert before.lane == "hint"


def test_an_altered_card_is_answered_by_the_first_list(shop: Shop) -> None:
    believed(shop)
    shop.ottu.cards = ()
    (forger,) = shop.process(replay(shop, "forger"))
    shop.reconcile(forger)
    assert (shop.cards("forger"), due(shop, "forger").now) == ({}, None)
    assert shop.execute("SELECT sum(suspicious)::int FROM cardsync.observations") == [(1,)]


def test_a_card_that_a_list_shows_is_active_though_its_hint_was_a_repeat(shop: Shop) -> None:
    believed(shop)
    (other,) = shop.process(replay(shop, "other"))
    shop.reconcile(other)
    assert shop.cards("other") == {TOKEN: "active"}


def test_a_body_without_its_card_sent_ahead_makes_no_repeat_of_the_one_with_it(shop: Shop) -> None:
    without = {name: value for name, value in GENUINE.items() if name != "token"}
    assert receive(shop.ingest, json.dumps(without).encode(), KEYS).status == "ignored"
    believed(shop)


def test_repeats_never_keep_a_removed_card(shop: Shop) -> None:
    customer = believed(shop)
    shop.ottu.cards = ()
    replay(shop, "victim")  # received, and still to be processed when the card goes; another comes during the call
    shop.ottu.meanwhile = lambda: _discard(replay(shop, "victim"))
    shop.reconcile(customer, lane="sweep")
    assert shop.cards("victim") == {"(erased)": "removed"}
    assert due(shop, "victim").lane == "repeat"


def test_a_signature_makes_few_strangers_known_and_the_rest_are_given_up_with_all_that_they_say(shop: Shop) -> None:
    believed(shop)
    receipts = [replay(shop, f"stranger-{n}") for n in range(STRANGERS_A_SIGNATURE + 5)]
    assert len(shop.process(*receipts)) == STRANGERS_A_SIGNATURE
    given_up = shop.execute(
        """SELECT status, ignored_because, count(*), count(coalesce(token, customer_id, session_id)), count(facts), count(shed_at)
           FROM cardsync.events WHERE repeated AND status <> 'done' GROUP BY 1, 2"""
    )
    assert given_up == [("ignored", "given_up", 5, 0, 0, 5)]
    assert len(shop.execute("SELECT 1 FROM cardsync.customers")) == STRANGERS_A_SIGNATURE + 1
    assert shop.process(replay(shop, "victim")) == []
    assert shop.hint("somebody-new", order_no="order-3")
    later(shop, STRANGERS_SECONDS + 1)
    assert shop.process(replay(shop, "an-hour-later"))


def test_a_failed_look_at_a_repeat_is_tried_again_no_sooner(shop: Shop) -> None:
    customer = believed(shop)
    later(shop, APART_SECONDS)
    shop.process(replay(shop, "victim"))
    shop.ottu.error = OttuFault("an error of Ottu's")
    assert shop.reconcile(customer).outcome == "failed"
    (row,) = shop.execute(
        "SELECT extract(epoch FROM due_at - clock_timestamp())::float8 AS wait, lane FROM cardsync.customers"
    )
    assert row.wait > APART_SECONDS - 5
    assert row.lane == "repeat"


@pytest.mark.parametrize(("lane", "paused"), [("repeat", True), ("hint", False), ("deletion", False), ("sweep", False)])
def test_repeats_have_a_share_of_the_budget_and_take_no_more(shop: Shop, lane: Lane, paused: bool) -> None:
    shop.execute("INSERT INTO cardsync.call_minutes VALUES (date_trunc('minute', clock_timestamp()), 'repeat', 100)")
    with shop.engine.begin() as connection:
        try:
            budget.spend_call(connection, lane, who=1, daily_calls=1_000, call_seconds=15.0)
        except BudgetSpent:
            assert paused
        else:
            assert not paused


DEEDS = st.one_of(
    st.tuples(st.just("replay"), st.integers(0, 3)),
    st.tuples(st.just("pass"), st.sampled_from((1, 7, 30, 59, 61, 130))),
    st.tuples(st.just("work"), st.just(0)),
)


@given(deeds=st.lists(DEEDS, min_size=5, max_size=25), broken=st.booleans())
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
def test_no_sequence_of_replays_costs_more_than_one_call_a_minute(
    shop: Shop, deeds: list[tuple[str, int]], broken: bool
) -> None:
    customer_id, passed = f"victim-{uuid.uuid4().hex}", dt.timedelta()
    looks: list[dt.datetime] = []
    genuine = json.loads(payloads.signed(payloads.payment(customer_id, order_no=customer_id)))
    shop.ottu.error, shop.ottu.cards = None, listed(TOKEN)
    (customer,) = shop.process(receive(shop.ingest, json.dumps(genuine).encode(), KEYS))

    def look() -> bool:
        """Whether one was due; when its list was asked for is noted, as if the clock had gone on by what has passed."""
        calls = shop.ottu.calls
        if shop.reconcile(customer).outcome == "not_due":
            return False
        if shop.ottu.calls > calls:
            asked = (
                "SELECT asked_at FROM cardsync.observations WHERE customer = :id ORDER BY observation_no DESC LIMIT 1"
            )
            looks.append(shop.execute(asked, id=customer)[0].asked_at + passed)
        return True

    assert look()
    shop.ottu.error = OttuFault("an error of Ottu's") if broken else None

    for deed, amount in [*deeds, ("work", 0)]:
        match deed:
            case "replay":
                shop.process(replay(shop, customer_id, f"999900000000000{amount}", genuine=genuine))
            case "pass":
                later(shop, amount)
                passed += dt.timedelta(seconds=amount)
            case "work":
                while look():
                    pass
    gaps = [(after - before).total_seconds() for before, after in pairwise(looks)]
    assert all(gap >= APART_SECONDS for gap in gaps), gaps
