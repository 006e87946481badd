"""Webhooks: signed as Ottu signs, sent again after a time-out only, and lost, doubled or late by the knobs."""

from __future__ import annotations

import json

import pytest
from ottu.utils.webhooks import (
    calculate_hmac_signature,
    calculate_subscription_hmac_signature,
    verify_signature,
)

from cardsync.dev.servers.ports import free_port
from cardsync.dev.simulator import Knobs
from tests.simulator.peers import SECONDS, WEBHOOK_KEY

OWNER = ("sandbox", "customer 1")


def send(simulator, count=1):
    """Send ``count`` webhooks and return how each ended."""
    futures = [simulator.checkout().save_card(*OWNER).delivery for _ in range(count)]
    return [future.result(timeout=SECONDS) for future in futures]


@pytest.mark.parametrize(
    ("scheme", "calculate"),
    [("standard", calculate_hmac_signature), ("subscription", calculate_subscription_hmac_signature)],
)
def test_a_webhook_is_signed_by_the_scheme_of_the_knob(started, receiver, scheme, calculate):
    simulator = started(webhook_url=receiver.url, knobs=Knobs(signature_scheme=scheme))
    assert send(simulator)[0].outcome == "delivered"
    payload = json.loads(receiver.bodies[0])
    signature = payload.pop("signature")
    assert signature == calculate(payload, WEBHOOK_KEY)
    assert verify_signature(payload, signature, WEBHOOK_KEY)
    assert payload["token"]["token"] in simulator.world.truth(*OWNER)


def test_a_webhook_looks_like_a_browser_and_is_json(started, receiver):
    send(started(webhook_url=receiver.url))
    assert receiver.headers[0]["User-Agent"].startswith("Mozilla/5.0")
    assert receiver.headers[0]["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, "delivered"),
        (201, "delivered"),
        (202, "refused"),
        (302, "refused"),
        (401, "refused"),
        (503, "refused"),
    ],
)
def test_any_answer_is_final(started, receiver, status, outcome):
    receiver.answers = [status]
    simulator = started(webhook_url=receiver.url, knobs=Knobs(webhook_retry_seconds=0))
    (delivery,) = send(simulator)
    assert (delivery.outcome, delivery.status, delivery.attempts) == (outcome, status, 1)
    assert simulator.courier.drain(SECONDS)
    assert len(receiver.bodies) == 1


def test_a_time_out_is_tried_again_with_the_same_bytes(started, receiver):
    receiver.answers = ["hang", "hang", 200]
    simulator = started(
        webhook_url=receiver.url, knobs=Knobs(webhook_timeout_seconds=2, webhook_attempts=3, webhook_retry_seconds=0.05)
    )

    def be_patient():
        if len(receiver.bodies) == 2:  # the third is answered, however slow the machine is
            simulator.turn(webhook_timeout_seconds=SECONDS)

    receiver.on_body = be_patient
    (delivery,) = send(simulator)
    assert (delivery.outcome, delivery.attempts) == ("delivered", 3)
    assert len(receiver.bodies) == 3
    assert len(set(receiver.bodies)) == 1


def test_time_outs_are_given_up_after_the_attempts_of_the_knob(started, receiver):
    receiver.answers = ["hang"]
    knobs = Knobs(webhook_timeout_seconds=0.1, webhook_retry_seconds=0, webhook_attempts=2)
    (delivery,) = send(started(webhook_url=receiver.url, knobs=knobs))
    assert (delivery.outcome, delivery.status, delivery.attempts) == ("timed_out", None, 2)


def test_the_defaults_are_those_that_ottu_documents():
    knobs = Knobs()
    assert (knobs.webhook_timeout_seconds, knobs.webhook_attempts, knobs.webhook_retry_seconds) == (15, 3, 5)


def test_a_refused_connection_is_final(started):
    (delivery,) = send(started(webhook_url=f"http://127.0.0.1:{free_port()}/"))
    assert (delivery.outcome, delivery.attempts) == ("unreachable", 1)


def test_a_dropped_webhook_is_never_sent(started, receiver):
    simulator = started(webhook_url=receiver.url, knobs=Knobs(webhook_drop_rate=1))
    assert send(simulator)[0].outcome == "dropped"
    assert receiver.bodies == []


def test_a_doubled_webhook_is_the_same_bytes_twice(started, receiver):
    simulator = started(webhook_url=receiver.url, knobs=Knobs(webhook_duplicate_rate=1))
    send(simulator)
    assert simulator.courier.drain(SECONDS)
    assert len(receiver.bodies) == 2
    assert len(set(receiver.bodies)) == 1
    assert sorted(d.duplicate for d in simulator.deliveries()) == [False, True]


def test_webhooks_that_are_held_back_are_overtaken(started, receiver):
    knobs = Knobs(webhook_reorder_rate=0.5, webhook_reorder_seconds=0.3)
    simulator = started(webhook_url=receiver.url, knobs=knobs)
    sent = [simulator.checkout().save_card(*OWNER).purchase.session_id for _ in range(20)]
    assert simulator.courier.drain(SECONDS)
    came = [json.loads(body)["session_id"] for body in receiver.bodies]
    assert sorted(came) == sorted(sent)
    assert came != sent


def test_which_webhooks_are_dropped_is_replayed_by_the_seed(started, receiver):
    def ends():
        simulator = started(webhook_url=receiver.url, knobs=Knobs(webhook_drop_rate=0.5), seed=5)
        return [delivery.outcome for delivery in send(simulator, 20)]

    first = ends()
    assert first == ends()
    assert set(first) == {"dropped", "delivered"}


def test_stopping_cancels_what_waits(started, receiver):
    receiver.answers = ["hang"]
    simulator = started(webhook_url=receiver.url, knobs=Knobs(webhook_reorder_rate=1, webhook_reorder_seconds=3_600))
    future = simulator.checkout().save_card(*OWNER).delivery
    simulator.stop()
    assert future.cancelled()


def test_hints_can_be_sparse_or_carry_more_than_is_documented(started, receiver):
    simulator = started(webhook_url=receiver.url, knobs=Knobs(sparse_hints=True))
    send(simulator)
    simulator.turn(sparse_hints=False, extra_fields=True)
    send(simulator)
    sparse, rich = (json.loads(body)["token"] for body in receiver.bodies)
    assert set(sparse) == {"token", "customer_id"}
    assert "undocumented" in rich


def test_a_deletion_in_ottus_own_checkout_is_not_told(started, receiver):
    simulator = started(webhook_url=receiver.url)
    card = simulator.checkout().save_card(*OWNER, notify=False).card
    assert simulator.checkout().delete_card(*OWNER, card.token) == 204
    assert simulator.courier.drain(SECONDS)
    assert simulator.deliveries() == []
    assert receiver.bodies == []


def test_an_inquiry_is_the_same_payment_in_other_bytes_and_can_turn_a_failure_into_success(started, receiver):
    simulator = started(webhook_url=receiver.url)
    failed = simulator.checkout().pay_without_card(*OWNER, result="failed")
    failed.delivery.result(timeout=SECONDS)
    simulator.checkout().inquire(failed).delivery.result(timeout=SECONDS)
    before, after = (json.loads(body) for body in receiver.bodies)
    assert before["session_id"] == after["session_id"]
    assert (before["state"], after["state"]) == ("failed", "paid")
