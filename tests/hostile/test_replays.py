"""MachineBase that hold genuine bodies: they send them again, altered or not, as often and as fast as they like.

Each test is an attack with its measure: rows, bells, calls, the order of work, or who is looked at. None is about time.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from cardsync.core.cards import Token
from cardsync.core.repeats import ROWS_A_SIGNATURE, STRANGERS_A_SIGNATURE
from cardsync.settings import Settings
from cardsync.store import audits, customers, inbox
from cardsync.stories.claim import REPEATS_AT_ONCE, claim_events
from cardsync.stories.forget import ForgetPolicy, forget
from cardsync.stories.receive import Receipt, examine, store
from cardsync.stories.sweep import SweepPolicy, sweep
from tests import payloads
from tests.factories import RING, SECRET, CustomerFactory
from tests.stories.shop import KEYS, Shop, listed, receive

TOKEN = payloads.TOKEN
OTHER_TOKEN = "9999000000000002"
POLICY = SweepPolicy(daily_calls=90_000, look_again_seconds=300, lists=True)


@pytest.fixture
def shop(
    bound_factories: None, engine: Engine, ingest_engine: Engine, web_engine: Engine, worker_engine: Engine
) -> Shop:
    """The stories on a database of their own, to which the factories are bound."""
    return Shop(engine, ingest_engine, web_engine, worker_engine)


def genuine(customer_id: str = "victim", **overrides: Any) -> dict[str, Any]:
    overrides.setdefault("order_no", f"order-{customer_id}")
    payload: dict[str, Any] = json.loads(payloads.signed(payloads.payment(customer_id, **overrides)))
    return payload


def altered(body: dict[str, Any], customer_id: str, token: str = TOKEN, **changes: Any) -> bytes:
    """The same signature, which still holds, with another customer and card."""
    changes.setdefault("session_id", uuid.uuid4().hex)
    return json.dumps({**body, **changes, "token": payloads.card(token, customer_id)}).encode()


def post(shop: Shop, *bodies: bytes) -> list[Receipt]:
    """These bodies arrive in one group."""
    return store(shop.ingest, [examine(body, KEYS) for body in bodies])


def send(shop: Shop, body: dict[str, Any]) -> Receipt:
    return receive(shop.ingest, json.dumps(body).encode(), KEYS)


def tick(shop: Shop) -> tuple[int, ...]:
    """Half a minute of sweeps, in one."""
    shop.execute("UPDATE cardsync.gate SET swept_at = clock_timestamp() - interval '30 seconds'")
    return sweep(shop.worker, POLICY, fraction=0.5)


def make_overdue(shop: Shop) -> None:
    shop.execute("UPDATE cardsync.events SET due_at = due_at - interval '1 minute'")


def rows(shop: Shop, where: str = "true") -> int:
    count: int = shop.execute(f"SELECT count(*) FROM cardsync.events WHERE {where}")[0][0]
    return count


# Nobody leaves the line.


def looked_at_long_ago(count: int) -> list[int]:
    return [CustomerFactory(customer_id=f"customer-{n}", reconciled_at=ago(3_600 + n)).id for n in range(count)]


def ago(seconds: float) -> dt.datetime:
    return dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds)


def spend_share_of_repeats(shop: Shop) -> None:
    shop.execute(
        "INSERT INTO cardsync.call_minutes VALUES (date_trunc('minute', clock_timestamp()), 'repeat', :calls)",
        calls=POLICY.daily_calls // 10,
    )


def test_one_replay_for_each_customer_takes_nobody_out_of_the_line(shop: Shop) -> None:
    everybody = looked_at_long_ago(30)
    body = genuine("customer-0")
    send(shop, body)
    receipts = post(shop, *(altered(body, f"customer-{n}") for n in range(30)))
    shop.process(*receipts)
    assert {row.lane for row in shop.execute("SELECT lane FROM cardsync.customers")} == {"repeat"}
    spend_share_of_repeats(shop)
    for _ in range(5):
        tick(shop)
    lanes = shop.execute("SELECT lane, count(*) FROM cardsync.customers GROUP BY 1")
    assert lanes == [("sweep", len(everybody))]


def test_a_newcomer_and_a_dated_customer_keep_their_places_too(shop: Shop) -> None:
    newcomer = CustomerFactory(customer_id="new", lane="repeat", due_at=ago(1)).id
    dated = CustomerFactory(
        customer_id="dated", reconciled_at=ago(900), look_by=ago(1), lane="repeat", due_at=ago(1)
    ).id
    spend_share_of_repeats(shop)
    rung = [customer for _ in range(3) for customer in tick(shop)]
    assert {newcomer, dated} <= set(rung)
    assert {row.lane for row in shop.execute("SELECT lane FROM cardsync.customers")} == {"sweep"}


def test_a_repeat_does_not_shorten_the_back_off_of_a_look_that_failed(shop: Shop) -> None:
    CustomerFactory(customer_id="failing", reconciled_at=ago(900), lane="repeat", due_at=ago(-500), failures=3)
    before = shop.customer("failing").due_at
    for _ in range(3):
        tick(shop)
    after = shop.customer("failing")
    assert (after.lane, after.due_at) == ("sweep", before)


@pytest.mark.parametrize("draw", ["sweep", "audit"])
def test_a_repeats_look_that_is_under_way_is_not_asked_for_again_in_another_lane(shop: Shop, draw: str) -> None:
    """A date that is set during a call is an asker's: the customer would be asked about twice, the second time in its lane."""
    customer = CustomerFactory(customer_id="new", lane="repeat", due_at=ago(1)).id

    def draw_meanwhile() -> None:
        if draw == "sweep":
            assert customer not in tick(shop)
            return
        with shop.worker.begin() as connection:
            assert not audits.begin(connection, customer)

    shop.ottu.meanwhile = draw_meanwhile
    shop.reconcile(customer)
    after = shop.customer("new")
    assert (shop.ottu.calls, after.due_at, after.lane) == (1, None, None)


def test_an_audit_takes_over_the_look_that_a_repeat_asked_for(shop: Shop) -> None:
    drawn = CustomerFactory(reconciled_at=ago(900), lane="repeat", due_at=ago(1)).id
    with shop.worker.begin() as connection:
        assert audits.begin(connection, drawn)
    assert shop.execute("SELECT lane FROM cardsync.customers") == [("audit",)]


# A flood stays behind everything else, and small.


def test_a_flood_of_altered_bodies_is_settled_after_the_honest_hint_that_came_last(shop: Shop) -> None:
    body = genuine()
    send(shop, body)
    flood = [receipt for n in range(10) for receipt in post(shop, *(altered(body, f"{n}-{m}") for m in range(30)))]
    honest = shop.receive("honest")
    assert [r for r in flood if r.to_ring] == []
    assert honest.to_ring
    assert claim_events(shop.worker, shop.hints, repeated=True, limit=REPEATS_AT_ONCE, jitter=0.5) == 0
    assert shop.claim() != []
    assert rows(shop, "status = 'done' AND NOT repeated") == 2
    assert rows(shop, "status = 'done' AND repeated") == 0
    assert (
        0 < claim_events(shop.worker, shop.hints, repeated=True, limit=REPEATS_AT_ONCE, jitter=0.5) <= REPEATS_AT_ONCE
    )


def test_a_thousand_altered_bodies_of_one_signature_leave_a_bounded_number_of_rows_and_no_bell(shop: Shop) -> None:
    body = genuine()
    send(shop, body)
    receipts = [r for n in range(10) for r in post(shop, *(altered(body, f"{n}-{m}") for m in range(100)))]
    assert rows(shop, "repeated") == ROWS_A_SIGNATURE
    assert [r.status for r in receipts].count("accepted") == ROWS_A_SIGNATURE
    assert {r.status for r in receipts} == {"accepted", "duplicate"}
    assert not any(r.to_ring for r in receipts)
    known = {row.event_id for row in shop.execute("SELECT event_id FROM cardsync.events")}
    assert {r.event_id for r in receipts} <= known, "every answer names a row that is there"
    shop.execute("UPDATE cardsync.events SET received_at = received_at - interval '61 minutes'")
    post(shop, *(altered(body, f"later-{m}") for m in range(100)))
    assert rows(shop, "repeated") == 2 * ROWS_A_SIGNATURE


def test_repeats_of_no_interest_are_bounded_too(shop: Shop) -> None:
    without = genuine(token=None)
    send(shop, without)
    receipts = post(shop, *(json.dumps({**without, "session_id": str(n)}).encode() for n in range(100)))
    assert {r.status for r in receipts} == {"ignored"}
    assert rows(shop) == 1 + ROWS_A_SIGNATURE


def test_bodies_about_one_customer_are_folded_into_one_row_that_says_what_the_newest_says(shop: Shop) -> None:
    body = genuine()
    send(shop, body)
    receipts = [r for n in range(20) for r in post(shop, altered(body, "victim", OTHER_TOKEN, result=body["result"]))]
    last = post(shop, altered(body, "victim", "9999000000000003"))[0]
    assert {r.event_id for r in (*receipts, last)} == {receipts[0].event_id}
    assert [r.status for r in receipts] == ["accepted"] + ["duplicate"] * 19
    assert shop.execute("SELECT status FROM cardsync.events WHERE repeated") == [("pending",)]
    with shop.engine.connect() as connection:
        opened = inbox.open_hints(connection, "sandbox", "victim", fingerprint_key=SECRET, ring=RING)
    (hint,) = (one for one in opened if one.event_id == last.event_id)
    assert hint.fingerprint == Token("9999000000000003").fingerprint(SECRET, "sandbox")


def test_a_repeat_that_arrives_after_a_list_was_asked_for_is_not_answered_by_that_list(shop: Shop) -> None:
    """The row that it is folded into is older than the list; what it says is not."""
    body = genuine()
    shop.ottu.cards = listed(TOKEN)
    (customer,) = shop.process(send(shop, body))
    post(shop, altered(body, "victim", OTHER_TOKEN))
    shop.ottu.meanwhile = lambda: _discard(post(shop, altered(body, "victim", OTHER_TOKEN)))
    shop.reconcile(customer)
    (row,) = shop.execute("SELECT event_id, evidence_no FROM cardsync.events WHERE repeated")
    assert row.evidence_no > shop.customer("victim").applied_no
    shop.process(Receipt("accepted", row.event_id, True, 0, "standard"))
    assert shop.customer("victim").lane == "repeat"


def test_a_repeat_of_a_settled_one_is_work_again_in_the_same_row(shop: Shop) -> None:
    body = genuine()
    send(shop, body)
    first = post(shop, altered(body, "victim"))[0]
    shop.process(first)
    assert rows(shop, "repeated AND status = 'done'") == 1
    again = post(shop, altered(body, "victim"))[0]
    assert (again.event_id, again.status) == (first.event_id, "duplicate")
    assert rows(shop, "repeated AND status = 'pending' AND token IS NOT NULL") == rows(shop, "repeated") == 1


def test_a_repeat_waits_for_no_worker_that_holds_its_row(shop: Shop) -> None:
    body = genuine()
    send(shop, body)
    held = post(shop, altered(body, "victim"))[0]
    with shop.engine.begin() as connection:
        connection.execute(text("SELECT 1 FROM cardsync.events WHERE event_id = :id FOR UPDATE"), {"id": held.event_id})
        second = post(shop, altered(body, "victim"))[0]
    assert (second.status, second.event_id != held.event_id) == ("accepted", True)


def test_the_payments_own_repeat_gets_its_row_in_the_midst_of_a_flood(shop: Shop) -> None:
    body = genuine()
    send(shop, body)
    post(shop, *(altered(body, f"stranger-{n}") for n in range(100)))
    own = post(shop, altered(body, "victim", OTHER_TOKEN, session_id=body["session_id"]))[0]
    assert own.status == "accepted"
    assert rows(shop, "repeated AND customer_id = 'victim'") == 1


def test_an_honest_hint_in_a_batch_of_repeats_is_fresh_and_costs_its_one_statement(shop: Shop) -> None:
    body = genuine()
    send(shop, body)
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(shop.ingest, "before_cursor_execute", note)
    honest = payloads.signed(payloads.payment("honest", order_no="another"))
    receipts = post(
        shop, *(altered(body, f"s-{n}") for n in range(20)), honest, *(altered(body, f"t-{n}") for n in range(9))
    )
    event.remove(shop.ingest, "before_cursor_execute", note)
    assert [(r.to_ring, r.repeated) for r in receipts] == [(False, True)] * 20 + [(True, False)] + [(False, True)] * 9
    assert len(statements) == 2


def test_of_bodies_with_one_unseen_signature_exactly_one_is_fresh(shop: Shop) -> None:
    body = genuine()
    together = post(shop, *(altered(body, f"c-{n}") for n in range(10)))
    assert [r.repeated for r in together] == [False] + [True] * 9
    other = genuine(order_no="order-2")
    bodies = [altered(other, f"d-{n}") for n in range(16)]
    with ThreadPoolExecutor(8) as senders:
        receipts = list(senders.map(lambda one: receive(shop.ingest, one, KEYS), bodies))
    assert [r.repeated for r in receipts].count(False) == 1


def test_copies_of_a_hint_that_waits_ring_no_more_bells(shop: Shop) -> None:
    body = json.dumps(genuine()).encode()
    receipts = [receive(shop.ingest, body, KEYS) for _ in range(20)]
    assert [r.to_ring for r in receipts] == [True] + [False] * 19
    assert rows(shop) == 1


# Old bodies, and bodies without a card, are no fresh ammunition.


@pytest.mark.parametrize("given", ["no card", "operation event", "no environment"])
def test_a_body_of_no_interest_takes_its_signature_and_buys_no_fresh_hint(shop: Shop, given: str) -> None:
    body = genuine("guest", token=None)
    if given == "operation event":
        body["operation"] = "refund"
    if given == "no environment":
        del body["is_sandbox"]
    assert send(shop, body).status == "ignored"
    receipts = post(shop, *(altered({**body, "is_sandbox": False, "operation": None}, f"victim-{n}") for n in range(3)))
    assert [r.repeated for r in receipts] == [True] * 3


def without_card(body: dict[str, Any]) -> dict[str, Any]:
    """What Ottu may send of the payment before its card is there."""
    return {**{name: value for name, value in body.items() if name != "token"}, "customer_id": "victim"}


def test_the_same_payments_body_with_its_card_is_fresh_once_after_one_without(shop: Shop) -> None:
    body = genuine()
    assert send(shop, without_card(body)).status == "ignored"
    first = send(shop, body)
    assert (first.status, first.repeated, first.to_ring) == ("accepted", False, True)
    again = post(shop, altered(body, "victim", OTHER_TOKEN, session_id=body["session_id"]))[0]
    assert again.repeated


def test_both_in_one_batch_are_the_same(shop: Shop) -> None:
    body = genuine()
    receipts = post(shop, json.dumps(without_card(body)).encode(), json.dumps(body).encode())
    assert [(r.status, r.repeated) for r in receipts] == [("ignored", False), ("accepted", False)]


@pytest.mark.parametrize("change", ["customer_id", "session_id", "is_sandbox"])
def test_a_body_sent_ahead_without_its_card_about_another_payment_makes_a_repeat_that_is_looked_at(
    shop: Shop, change: str
) -> None:
    body = genuine()
    send(shop, {**without_card(body), change: not body["is_sandbox"] if change == "is_sandbox" else "another"})
    receipt = send(shop, body)
    assert (receipt.status, receipt.repeated) == ("accepted", True)
    assert shop.process(receipt), "a customer that was never looked at is due at once"
    shop.ottu.cards = listed(TOKEN)
    shop.reconcile(shop.customer("victim").id)
    assert shop.cards("victim") == {TOKEN: "active"}


def test_a_body_whose_row_went_long_ago_is_a_repeat_still(shop: Shop) -> None:
    body = genuine()
    shop.process(send(shop, body))
    shop.execute("UPDATE cardsync.events SET received_at = received_at - interval '400 days'")
    shop.execute("UPDATE cardsync.signatures SET first_seen = first_seen - 400")
    policy = ForgetPolicy.of(Settings())
    assert forget(shop.worker, policy)["hint"] == 1
    assert send(shop, body).repeated
    assert post(shop, altered(body, "another"))[0].repeated
    shop.execute("UPDATE cardsync.signatures SET first_seen = first_seen - 701")
    assert forget(shop.worker, policy)["signature"] == 1
    assert not post(shop, altered(body, "years-later"))[0].repeated


def test_what_is_kept_of_a_signature_says_nothing_of_a_person(shop: Shop) -> None:
    body = genuine()
    send(shop, body)
    (row,) = shop.execute("SELECT s::text AS everything FROM cardsync.signatures AS s")
    secrets = ("victim", TOKEN, str(body["session_id"]), str(body["signature"]), str(body["order_no"]))
    assert not [secret for secret in secrets if secret in row.everything]


# Customers that replays alone made known.


def age_customers(shop: Shop, days: int = 91) -> None:
    shop.execute("UPDATE cardsync.customers SET hinted_at = hinted_at - make_interval(days => :days)", days=days)


def invent(shop: Shop, count: int) -> None:
    body = genuine()
    shop.ottu.cards = listed(TOKEN)
    (customer,) = shop.process(send(shop, body))
    shop.reconcile(customer)
    shop.ottu.cards = ()
    for customer in shop.process(*post(shop, *(altered(body, f"invented-{n}") for n in range(count)))):
        shop.reconcile(customer)


def forgotten(shop: Shop) -> int:
    return forget(shop.worker, ForgetPolicy.of(Settings()))["customer"]


def known(shop: Shop) -> set[str]:
    return {row.customer_id for row in shop.execute("SELECT customer_id FROM cardsync.customers")}


def test_customers_that_replays_invented_are_forgotten_and_the_payer_stays(shop: Shop) -> None:
    invent(shop, STRANGERS_A_SIGNATURE)
    age_customers(shop, 89)
    assert forgotten(shop) == 0
    age_customers(shop, 2)
    assert forgotten(shop) == STRANGERS_A_SIGNATURE
    assert known(shop) == {"victim"}
    assert shop.customer("victim").hinted_at is None, "one that had a card is not asked about again"
    assert shop.execute("SELECT count(*) FROM cardsync.observations") == [(1,)]


def _import(shop: Shop) -> None:
    with shop.worker.begin() as connection:
        assert customers.add_known(connection, [("sandbox", "invented-0")]) == 0


def _ask(shop: Shop) -> None:
    with shop.web.begin() as connection:
        customers.touch(connection, "sandbox", "invented-0")


def _erase(shop: Shop) -> None:
    shop.execute("INSERT INTO cardsync.erasures (customer_id, requested_by) VALUES ('invented-0', 'support')")


def _hint(shop: Shop) -> None:
    shop.receive("invented-0", order_no="an honest one")


def _hint_processed(shop: Shop) -> None:
    shop.hint("invented-0", order_no="an honest one")


def _never_looked_at(shop: Shop) -> None:
    shop.execute("UPDATE cardsync.customers SET reconciled_at = NULL WHERE customer_id = 'invented-0'")


@pytest.mark.parametrize("reason", [_import, _ask, _erase, _hint, _hint_processed, _never_looked_at])
def test_a_customer_that_is_known_by_anything_else_stays(shop: Shop, reason: Callable[[Shop], None]) -> None:
    invent(shop, 2)
    age_customers(shop)
    reason(shop)
    assert forgotten(shop) == 1
    assert known(shop) == {"victim", "invented-0"}
    assert forgotten(shop) == 0


def test_an_imported_customer_without_cards_is_never_forgotten(shop: Shop) -> None:
    with shop.worker.begin() as connection:
        assert customers.add_known(connection, [("sandbox", "imported"), ("sandbox", "imported")]) == 1
    shop.hint("imported")
    shop.execute(
        """UPDATE cardsync.customers SET reconciled_at = now(), due_at = NULL, lane = NULL, dirty_since = NULL,
               first_seen_at = now() - interval '9 years'"""
    )
    age_customers(shop)
    assert forgotten(shop) == 0


def test_a_forgotten_customer_that_pays_is_known_again(shop: Shop) -> None:
    invent(shop, 1)
    age_customers(shop)
    assert forgotten(shop) == 1
    shop.ottu.cards = listed(TOKEN)
    (customer,) = shop.hint("invented-0", order_no="a real one")
    shop.reconcile(customer)
    assert shop.cards("invented-0") == {TOKEN: "active"}


def _discard(_: Sequence[Receipt]) -> None:
    """For what is done in between."""
