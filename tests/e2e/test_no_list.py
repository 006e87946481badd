"""Where Ottu offers no list of cards (KSA): what a bound key signed is believed, and Ottu is asked about other payments."""

from __future__ import annotations

import pytest

from tests.e2e.marks import ONE_BROKER
from tests.e2e.system import ENVIRONMENT, System, token_of
from tests.waiting import until

pytestmark = ONE_BROKER

SETTINGS = {"OTTU_CARDS_API": "unavailable"}
BINDING = "sandbox:"


@pytest.fixture(autouse=True)
def signed(module_system: System) -> None:
    """Ottu signs by the subscription scheme, and lets anybody ask about a payment at once."""
    module_system.simulator.turn(signature_scheme="subscription", inquiry_after_seconds=0)


def test_a_signed_notification_is_believed_without_a_call(system: System) -> None:
    customer, key = system.customer(), system.key("cards:read", "cards:reconcile")
    token = token_of(system.save_card(customer))
    system.until_active(customer)
    agreed = system.simulator.checkout().agree(ENVIRONMENT, customer, token, agreement_id=f"agr-{customer}")
    system.delivered(agreed)
    until(lambda: system.changes(customer) == ["added", "updated"], "the second notification is believed too")
    answer = system.get("/v1/cards", key, environment=ENVIRONMENT, customer_id=customer, max_age=0).json()
    assert (len(answer["cards"]), answer["stale"], answer["reconciled_at"]) == (1, True, None)
    asked = system.post("/v1/reconciliations", key, environment=ENVIRONMENT, customer_id=customer)
    assert (asked.status_code, asked.headers["content-type"]) == (409, "application/problem+json")
    assert system.simulator.calls() == []


def test_a_known_customer_is_not_swept_and_no_card_removed(system: System) -> None:
    customer = system.customer()
    token = token_of(system.save_card(customer))
    system.until_active(customer)
    system.simulator.checkout().delete_card(ENVIRONMENT, customer, token)
    other = system.customer()  # whose notification the sweep must ring for: nobody else does
    system.save_card(other)
    system.until_active(other)
    assert system.statuses(customer) == ["active"]
    assert system.simulator.calls("list") == []


def test_what_the_signature_does_not_cover_waits_for_an_inquiry_and_is_believed_then(system: System) -> None:
    system.simulator.turn(signature_scheme="standard")
    customer = system.customer()
    system.save_card(customer)
    until(lambda: system.statuses(customer) == ["unconfirmed"], "the card is noted")
    # The worker counts after its commit.
    counted = "cardsync_unconfirmed_hints_total"
    until(lambda: system.metrics()[counted, ("standard_scheme",)] == 1, "it is counted")
    assert system.metrics()[counted, ("not_bound",)] == 0
    assert system.simulator.calls("inquiry") == []
    system.sql("UPDATE cardsync.inquiries SET heard_at = heard_at - interval '1 hour', due_at = now()")
    system.until_active(customer)
    assert [call.status for call in system.simulator.calls("inquiry")] == [200]
