"""What Ottu notifies, to which of several handlers: an agreement's first payment, no later charge, the merchant's limits."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner
from flask import Flask
from pydantic import ValidationError

from cardsync.cli.simulator import simulator as command
from cardsync.dev.simulator import Knobs
from cardsync.dev.simulator.control import _ACTIONS, Controls, blueprint
from cardsync.dev.simulator.handlers import Address, Handlers
from cardsync.dev.simulator.payloads import STATES
from tests.simulator.peers import SECONDS, Ottu, Receiver

OWNER = ("sandbox", "customer 1")


def agreed(simulator, agreement_id="A", **terms):
    card = simulator.checkout().save_card(*OWNER, notify=False).card
    return simulator.checkout().agree(*OWNER, card.token, agreement_id=agreement_id, **terms)


def came(receiver):
    return [json.loads(body) for body in receiver.bodies]


def test_the_first_payment_of_an_agreement_is_a_verify_with_its_terms(started, receiver):
    simulator = started(webhook_url=receiver.url)
    agreed(simulator, frequency="weekly", total_cycles=6).delivery.result(timeout=SECONDS)
    (event,) = came(receiver)
    assert (event["payment_type"], event["amount"], event["result"]) == ("auto_debit", "0.000", "success")
    assert event["state"] == "authorized"
    assert event["token"]["agreements"] == ["A"]
    terms = {"type": "recurring", "frequency": "weekly", "total_cycles": 6}
    assert terms.items() <= event["agreement"].items()
    assert event["agreement"]["start_date"] == "01/01/2026"
    assert "cycle_interval_days" not in event["agreement"]


def test_by_a_knob_the_first_payment_is_a_charge_in_the_state_of_any_charge(started, receiver):
    simulator = started(webhook_url=receiver.url, knobs=Knobs(first_payment="charge"))
    agreed(simulator).delivery.result(timeout=SECONDS)
    (event,) = came(receiver)
    assert event["state"] == "paid"
    assert float(event["amount"]) > 0


def test_the_state_of_a_verify_and_what_it_says_of_the_agreement_can_be_chosen(started, receiver):
    simulator = started(webhook_url=receiver.url, knobs=Knobs(verify_state="verified", agreement_terms="none"))
    agreed(simulator).delivery.result(timeout=SECONDS)
    (event,) = came(receiver)
    assert (event["state"], event["agreement"]) == ("verified", {"id": "A"})


@pytest.mark.parametrize("result", ["failed", "canceled", "error", "pending"])
def test_a_first_payment_that_does_not_succeed_is_notified_with_its_agreement_and_makes_none(started, receiver, result):
    simulator = started(webhook_url=receiver.url)
    visit = agreed(simulator, result=result)
    visit.delivery.result(timeout=SECONDS)
    (event,) = came(receiver)
    assert (event["result"], event["agreement"]["id"], event["token"]["agreements"]) == (result, "A", [])
    assert event["state"] == STATES[result]
    assert simulator.world.agreement_card("sandbox", "A") is None


def test_a_failed_first_payment_that_turns_out_to_be_paid_makes_the_agreement(started, receiver):
    simulator = started(webhook_url=receiver.url)
    visit = agreed(simulator, result="failed")
    visit.delivery.result(timeout=SECONDS)
    simulator.checkout().inquire(visit).delivery.result(timeout=SECONDS)
    assert [event["result"] for event in came(receiver)] == ["failed", "success"]
    assert simulator.world.agreement_card("sandbox", "A").token == visit.card.token


def test_a_term_that_no_agreement_has_is_refused_and_changes_nothing(simulator):
    with pytest.raises(TypeError, match="colour"):
        agreed(simulator, colour="red")
    assert simulator.world.agreement_card("sandbox", "A") is None


def test_a_later_charge_is_notified_to_nobody_and_an_inquiry_knows_it(started, receiver):
    simulator = started(webhook_url=receiver.url, knobs=Knobs(inquiry_after_seconds=0))
    agreed(simulator).delivery.result(timeout=SECONDS)
    charged = simulator.checkout().charge_agreement("sandbox", "A")
    again = simulator.checkout().inquire(charged)
    assert charged.delivery is None
    assert again.delivery is None
    assert simulator.courier.drain(SECONDS)
    assert len(receiver.bodies) == 1
    asked = {"session_id": charged.purchase.session_id}
    answer = Ottu(simulator.base_url).http.post("/b/pbl/v2/inquiry/", json=asked).json()
    assert answer["agreement"]["id"] == "A"
    assert answer["token"]["token"] == charged.card.token


def test_by_a_knob_a_later_charge_is_notified_too(started, receiver):
    simulator = started(webhook_url=receiver.url, knobs=Knobs(notify_later_charges=True))
    agreed(simulator).delivery.result(timeout=SECONDS)
    simulator.checkout().charge_agreement("sandbox", "A").delivery.result(timeout=SECONDS)
    first, later = came(receiver)
    assert first["session_id"] != later["session_id"]
    assert later["payment_type"] == "auto_debit"
    assert float(later["amount"]) > 0


def test_while_notifications_are_off_nothing_is_sent(started, receiver):
    simulator = started(webhook_url=receiver.url, knobs=Knobs(notifications=False))
    paid = simulator.checkout().pay_without_card(*OWNER)
    assert paid.delivery is None
    assert simulator.checkout().refund(paid.purchase).delivery is None
    simulator.turn(notifications=True)
    simulator.checkout().save_card(*OWNER).delivery.result(timeout=SECONDS)
    assert len(receiver.bodies) == 1


def test_a_limit_to_some_states_leaves_out_the_other_payments_and_no_operation(started, receiver):
    simulator = started(webhook_url=receiver.url, knobs=Knobs(notified_states="paid,authorized"))
    failed = simulator.checkout().pay_without_card(*OWNER, result="failed")
    paid = simulator.checkout().pay_without_card(*OWNER)
    simulator.checkout().refund(paid.purchase).delivery.result(timeout=SECONDS)
    verified = agreed(simulator)
    assert failed.delivery is None
    assert None not in (paid.delivery, verified.delivery)
    assert simulator.courier.drain(SECONDS)
    assert sorted(event.get("state", "operation") for event in came(receiver)) == ["authorized", "operation", "paid"]
    assert simulator.checkout().inquire(failed).delivery is not None, "it is paid now"


@pytest.mark.parametrize("states", ["pending", "paid;failed"])
def test_a_limit_to_states_that_ottu_does_not_offer_is_refused(states):
    with pytest.raises(ValidationError, match="paid,failed,authorized,canceled"):
        Knobs(notified_states=states)


def test_each_payment_goes_to_one_handler_and_an_operation_to_the_operations_too(started, receiver):
    others = [Receiver() for _ in range(3)]
    plugin, operations, own = others
    try:
        simulator = started(
            webhook_url=receiver.url, plugin_urls={"e_commerce": plugin.url}, operations_url=operations.url
        )
        simulator.checkout().pay_without_card(*OWNER)
        simulator.checkout("e_commerce").pay_without_card(*OWNER)
        simulator.checkout("unknown").pay_without_card(*OWNER)
        paid = simulator.checkout("e_commerce", own.url).pay_without_card(*OWNER)
        simulator.checkout("e_commerce").refund(paid.purchase)
        assert simulator.courier.drain(SECONDS)
        assert [len(one.bodies) for one in (receiver, plugin, operations, own)] == [2, 2, 1, 1]
        assert operations.bodies[0] in plugin.bodies
        told = sorted(delivery.handler for delivery in simulator.deliveries())
        assert told == ["configured", "configured", "e_commerce", "e_commerce", "operations", "payment"]
    finally:
        for one in others:
            one.close()


def test_an_address_in_nobodys_name_is_the_configured_one():
    handlers = Handlers("http://a", {"p": "http://b"})
    assert handlers.of({}) == handlers.of({}, plugin="q") == [Address("configured", "http://a")]
    assert handlers.of({"operation": "refund"}, plugin="p") == [Address("p", "http://b")]


def test_the_control_api_names_a_handler_for_an_action(started, receiver):
    own = Receiver()
    try:
        simulator = started(webhook_url=receiver.url)
        body = {"action": "save_card", "environment": "sandbox", "customer_id": "c", "webhook_url": own.url}
        answer = Ottu(simulator.base_url).http.post("/_simulator/actions", json=body)
        assert answer.json()["notified"]
        assert simulator.courier.drain(SECONDS)
        assert (len(receiver.bodies), len(own.bodies)) == (0, 1)
        wrong = {"action": "delete_card", "environment": "sandbox", "customer_id": "c", "token": "t", "plugin": "p"}
        assert Ottu(simulator.base_url).http.post("/_simulator/actions", json=wrong).json()["status"] == 404
    finally:
        own.close()


def test_the_command_takes_several_handlers_and_prints_no_secret_of_theirs():
    given = ("--plugin-url", "shop=http://user:fake@127.0.0.1:1/?k=fake", "--operations-url", "http://127.0.0.1:2/ops")
    result = CliRunner().invoke(command, ["--port", "0", "--duration", "0.1", *given])
    assert result.exit_code == 0
    assert "Webhooks of shop go to http://127.0.0.1:1/" in result.output
    assert "Webhooks of operations go to http://127.0.0.1:2/ops too" in result.output
    assert "fake" not in result.output
    for wrong in ("shop", "=http://127.0.0.1", "shop=ftp://x"):
        assert CliRunner().invoke(command, ["--plugin-url", wrong]).exit_code == 2


@pytest.mark.parametrize(
    ("listed", "shown"), [("serving", [[], ["A"]]), ("former_too", [["A"], ["A"]]), ("none", [[], []])]
)
def test_a_list_shows_an_agreement_on_the_cards_of_the_knob(started, listed, shown):
    simulator = started(knobs=Knobs(listed_agreements=listed))
    cards = [simulator.checkout().save_card(*OWNER).card for _ in range(2)]
    for card in cards:
        simulator.checkout().agree(*OWNER, card.token, agreement_id="A")
    ottu = Ottu(simulator.base_url)
    assert [card["agreements"] for card in ottu.list(OWNER[1]).json()] == shown
    filtered = ottu.list(OWNER[1], agreement_id="A").json()
    assert [card["token"] for card in filtered] == [cards[1].token], "the filter has one answer, whatever a list shows"
    simulator.world.end_agreement("sandbox", "A")
    assert [card["agreements"] for card in ottu.list(OWNER[1]).json()] == [[], []]


def test_the_page_about_the_stand_in_names_each_request_and_action_of_its_control_api_and_only_real_knobs():
    page = (Path(__file__).resolve().parents[2] / "docs" / "simulator.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(GET|PUT|POST) (/_simulator/\w+)`", page))
    assert named == _requests()
    actions = page.split("The actions are")[1].split("For example")[0]
    assert set(_ACTIONS) <= set(re.findall(r"`(\w+)`", actions))
    options = re.findall(r"^\| `--(?:no-)?([a-z-]+)", page, re.MULTILINE)
    assert len(options) > 5
    assert {option.replace("-", "_") for option in options} <= set(Knobs.model_fields)


def _requests():
    app = Flask("control")
    parts = {f.name: None for f in fields(Controls)}
    app.register_blueprint(blueprint(Controls(**parts)))
    return {
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.endpoint != "static"
    }
