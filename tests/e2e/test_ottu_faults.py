"""Ottu away, failing, throttling or answering nonsense: nothing changes in the registry, and then all of it recovers."""

from __future__ import annotations

from cardsync.dev.simulator.faults import Fault
from tests.e2e.marks import ONE_BROKER
from tests.e2e.system import ENVIRONMENT, System, token_of
from tests.waiting import until

pytestmark = ONE_BROKER

# Short, since one call hangs; and longer than a busy machine takes for one that does not.
SETTINGS = {"OTTU_TIMEOUT_S": "5"}

# One for each customer, first; after that every call fails until told otherwise.
FAULTS: tuple[Fault, ...] = ("error", "cut", "truncated", "hang", "invalid")
RETRY_AFTER_SECONDS = 15  # within them the test sees that calls are paused


def test_no_failing_answer_changes_anything(system: System) -> None:
    customers = [system.customer() for _ in FAULTS]
    tokens = [token_of(system.save_card(customer)) for customer in customers]
    system.until_active(*customers)
    for customer, token in zip(customers, tokens, strict=True):
        system.until_settled(customer)
        system.simulator.checkout().delete_card(ENVIRONMENT, customer, token)
    system.simulator.script_list(*FAULTS)
    system.simulator.turn(invalid_body="other_customer", error_rate=1)
    try:
        for customer in customers:
            system.save_card(customer)
        seen = {"cut", "hang", "truncated", "invalid"}  # the breaker opens meanwhile: the last of them meet its probes
        until(lambda: seen <= {call.fault for c in customers for call in system.calls(c)}, "each fault was met")
        until(lambda: all(system.freshness(c)["last_error"] for c in customers), "every customer was told of it")
        for customer in customers:
            assert system.statuses(customer) == ["active", "unconfirmed"]
            assert system.changes(customer) == ["added"]
    finally:
        system.simulator.turn(error_rate=0)
    until(lambda: all(system.statuses(c) == ["removed", "active"] for c in customers), "they recover")
    for customer in customers:
        assert system.freshness(customer)["last_error"] is None


def test_an_ottu_that_is_away_is_asked_again(system: System) -> None:
    customer = system.customer()
    system.simulator.go_away()
    try:
        system.save_card(customer)
        until(lambda: system.freshness(customer).get("last_error"), "the call has failed")
        assert system.statuses(customer) == ["unconfirmed"]
    finally:
        system.simulator.come_back()
    system.until_active(customer)


def test_after_a_429_nobody_calls_until_its_time_is_over(system: System) -> None:
    first, second = system.customer(), system.customer()
    system.simulator.turn(retry_after_seconds=RETRY_AFTER_SECONDS)
    system.simulator.script_list("throttle")
    system.save_card(first)
    until(lambda: system.freshness(first).get("last_error"), "the call was throttled")
    system.save_card(second)
    until(lambda: "paused" in str(system.get("/readyz").json()["checks"]["ottu"]), "the web says so")
    system.until_active(first, second)
    throttled, *later = sorted(system.calls(first) + system.calls(second), key=lambda call: call.began_at)
    assert throttled.status == 429
    assert throttled.ended_at is not None
    # Both clocks are this machine's; a little is for the difference between two ways of reading them.
    assert min(call.began_at for call in later) >= throttled.ended_at + RETRY_AFTER_SECONDS - 0.05
    assert len(later) == 2
