"""Where Ottu offers no list of cards (KSA), verified notifications are the source, and Ottu is never called."""

from __future__ import annotations

from tests.e2e.marks import ONE_BROKER
from tests.e2e.processes import until
from tests.e2e.system import ENVIRONMENT, System, token_of

pytestmark = ONE_BROKER

SETTINGS = {"OTTU_CARDS_API": "unavailable", "OTTU_BASE_URL": "", "OTTU_API_KEY": ""}


def test_a_notification_is_believed_without_a_call(system: System) -> None:
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
    assert system.calls(customer) == []


def test_a_known_customer_is_not_swept_and_no_card_removed(system: System) -> None:
    customer = system.customer()
    token = token_of(system.save_card(customer))
    system.until_active(customer)
    system.simulator.checkout().delete_card(ENVIRONMENT, customer, token)
    other = system.customer()  # whose notification the sweep must ring for: nobody else does
    system.save_card(other)
    system.until_active(other)
    assert system.statuses(customer) == ["active"]
    assert system.simulator.calls() == []
