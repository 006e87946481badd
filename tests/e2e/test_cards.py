"""The main job, end to end: what happens at Ottu becomes true in the registry, over HTTP, in SQL and in the feed."""

from __future__ import annotations

import itertools
import json

from cardsync.dev.simulator.payloads import body, sign
from tests.e2e.marks import BOTH_BROKERS
from tests.e2e.processes import run
from tests.e2e.system import ENVIRONMENT, System, token_of
from tests.waiting import until

pytestmark = BOTH_BROKERS

# How long a hinted card may be missing from the list (the looks at it come the sooner); and long enough that no call gives up
# by itself while a test holds it.
SETTINGS = {"CARDSYNC_CONFIRM_S": "15", "OTTU_TIMEOUT_S": "60"}


def test_a_saved_card_becomes_active_everywhere(system: System) -> None:
    customer = system.customer()
    visit = system.save_card(customer)
    system.until_active(customer)

    (in_sql,) = system.cards(customer)
    answer = system.get("/v1/cards", system.key("cards:read"), environment=ENVIRONMENT, customer_id=customer)
    (over_http,) = answer.json()["cards"]
    assert over_http["card_id"] == str(in_sql["card_id"])
    assert (over_http["status"], over_http["number"]) == ("active", visit.card and visit.card.number)
    assert "token" not in over_http
    assert answer.json()["stale"] is False
    assert answer.json()["reconciled_at"].endswith("Z")
    assert system.sql("SELECT token FROM registry.card_tokens WHERE card_id = %s", in_sql["card_id"]) == [
        {"token": token_of(visit)}
    ]
    assert system.changes(customer) == ["added"]
    assert len(system.calls(customer)) == 1


def test_a_key_from_the_command_line_shows_tokens_if_it_has_the_scope(system: System) -> None:
    customer = system.customer()
    visit = system.save_card(customer)
    system.until_active(customer)
    scopes = ("--scope", "cards:read", "--scope", "tokens:read")
    made = run(system.folder, system.settings, "keys", "create", "--name", "charger", *scopes, "--json")
    assert made.returncode == 0, made.stderr
    key = system.keep_charging_key(json.loads(made.stdout)["key"])
    (shown,) = system.get("/v1/cards", key, environment=ENVIRONMENT, customer_id=customer).json()["cards"]
    assert shown["token"] == token_of(visit)
    assert system.get(f"/v1/cards/{shown['card_id']}", key).json()["token"] == token_of(visit)


def test_the_card_of_an_agreement_is_the_one_that_serves_it(system: System) -> None:
    customer, reader = system.customer(), system.key("cards:read")
    first, second = (token_of(system.save_card(customer)) for _ in range(2))
    for token in (first, second):
        system.delivered(
            system.simulator.checkout().agree(ENVIRONMENT, customer, token, agreement_id=f"agr-{customer}")
        )
        system.until_settled(customer)
    system.until_active(customer, cards=2)
    answer = system.get("/v1/agreements/card", reader, environment=ENVIRONMENT, agreement_id=f"agr-{customer}")
    serving = system.sql("SELECT card_id FROM registry.card_tokens WHERE token = %s", second)
    assert answer.json()["card_id"] == str(serving[0]["card_id"])
    assert answer.json()["auto_debit"] is True
    nobody = system.get("/v1/agreements/card", reader, environment=ENVIRONMENT, agreement_id="none-such")
    assert (nobody.status_code, nobody.headers["content-type"]) == (404, "application/problem+json")


def test_hints_that_arrive_during_a_call_cause_exactly_one_more(system: System) -> None:
    customer = system.customer()
    with system.simulator.held("list:before") as gates:
        token = token_of(system.save_card(customer))
        gates.wait_until_waiting("list:before")
        checkout = system.simulator.checkout
        for visit in [checkout().pay(ENVIRONMENT, customer, token) for _ in range(20)]:
            system.delivered(visit)
        until(lambda: system.pending_hints(customer) == 0, "all hints are processed")
        assert len(system.calls(customer)) == 1
    system.until_settled(customer)
    assert [c.status for c in system.calls(customer)] == [200, 200]
    assert system.changes(customer) == ["added"]


def test_two_workers_never_ask_about_a_customer_at_once(system: System) -> None:
    customers = [system.customer() for _ in range(3)]
    system.simulator.turn(latency_seconds=0.05)
    second = system.start("worker", "worker-2")
    try:
        second.says("worker_started")
        tokens = [token_of(system.save_card(customer)) for customer in customers]
        for _ in range(8):
            checkout = system.simulator.checkout
            for visit in [checkout().pay(ENVIRONMENT, *pair) for pair in zip(customers, tokens, strict=True)]:
                system.delivered(visit)
        for customer in customers:
            system.until_settled(customer)
            calls = system.calls(customer)
            assert all(a.ended_at and a.ended_at <= b.began_at for a, b in itertools.pairwise(calls))
            assert len(calls) <= 9
    finally:
        system.simulator.turn(latency_seconds=0)
        system.end("worker-2")
    system.until_active(*customers)


def test_a_card_deleted_in_silence_goes_with_the_next_reconciliation(system: System) -> None:
    customer = system.customer()
    token = token_of(system.save_card(customer))
    system.until_active(customer)
    system.until_settled(customer)
    assert system.simulator.checkout().delete_card(ENVIRONMENT, customer, token) == 204
    asked = system.post(
        "/v1/reconciliations", system.key("cards:reconcile"), environment=ENVIRONMENT, customer_id=customer
    )
    assert (asked.status_code, asked.json()["status"]) == (202, "queued")
    until(lambda: system.statuses(customer) == ["removed"], "the card is removed")
    assert system.cards(customer)[0]["removed_because"] == "absent"
    assert system.changes(customer) == ["added", "removed"]
    erased = "SELECT 1 FROM cardsync.cards WHERE token = %s UNION ALL SELECT 1 FROM cardsync.events WHERE token = %s"
    assert system.sql(erased, token, token) == []


def test_a_reader_gets_cards_as_fresh_as_it_asks_for(system: System) -> None:
    customer, reader = system.customer(), system.key("cards:read")
    system.save_card(customer, notify=False)
    query = {"environment": ENVIRONMENT, "customer_id": customer, "max_age": 0}

    def reads_through() -> bool:  # on a slow machine the answer may come later than one reader waits
        answer = system.get("/v1/cards", reader, **query).json()
        return (len(answer["cards"]), answer["stale"]) == (1, False)

    until(reads_through, "the reader gets the card")


def test_a_card_that_the_list_shows_only_later_becomes_active_then(system: System) -> None:
    customer = system.customer()
    system.simulator.turn(list_lag_seconds=3_600)  # until the test ends it
    try:
        system.save_card(customer)
        until(lambda: system.calls(customer) and system.statuses(customer) == ["unconfirmed"], "it is awaited")
        reader = system.key("cards:read")
        shown = system.get("/v1/cards", reader, environment=ENVIRONMENT, customer_id=customer).json()
        assert shown["cards"] == []
        system.simulator.world.end_lags()
        system.until_active(customer)
    finally:
        system.simulator.turn(list_lag_seconds=0)
    assert system.changes(customer) == ["added"]


def test_a_forged_card_in_a_genuinely_signed_body_is_never_active(system: System) -> None:
    victim, *forgers = (system.customer() for _ in range(3))
    visit = system.save_card(victim)
    system.until_active(victim)
    before = _suspicious(system)
    for forger, token in zip(forgers, (token_of(visit), system.keep_secret("9999000000009999")), strict=True):
        event = sign(visit.event or {}, system.simulator.webhook_key)
        forged = {**event, "customer_id": forger, "token": {**event["token"], "token": token, "customer_id": forger}}
        assert system.post_hint(body(forged)).json()["status"] == "accepted"
    until(lambda: _suspicious(system) == before + 2, "the forged hints are counted")
    for forger in forgers:
        system.until_settled(forger)
        assert (system.cards(forger), system.changes(forger)) == ([], [])
        assert len(system.calls(forger)) <= 10  # seven looks, and room for one that came a moment early
    assert system.statuses(victim) == ["active"]
    assert "suspicious_hint" in system.processes["worker"].output()


def _suspicious(system: System) -> float:
    return sum(value for (name, _), value in system.metrics().items() if name == "cardsync_suspicious_hints_total")


def test_a_hint_is_on_its_way_by_its_own_bell(system: System) -> None:
    """No beat runs, so that no sweep rings again: what a lost bell would wait for never comes."""
    system.processes["beat"].stop()
    try:
        customers = [system.customer() for _ in range(20)]
        for customer in customers:
            system.save_card(customer)
        system.until_active(*customers)
        assert [len(system.calls(customer)) for customer in customers] == [1] * len(customers)
    finally:
        system.processes["beat"].start()
