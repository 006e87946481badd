"""A tiny budget that routine looks want all of, while hints and deletions arrive: those are served, and not one call is over."""

from __future__ import annotations

from tests.e2e.marks import ONE_BROKER
from tests.e2e.processes import Process
from tests.e2e.system import ENVIRONMENT, System, token_of
from tests.waiting import until

pytestmark = ONE_BROKER

DAILY_CALLS = 40
ROUTINE_CALLS = 36  # a tenth is the urgent lanes' alone (core.call_budget)
CUSTOMERS = 3 * DAILY_CALLS
SETTINGS = {"OTTU_DAILY_CALLS": str(DAILY_CALLS)}


def test_routine_looks_that_want_everything_leave_hints_and_deletions_their_calls(system: System) -> None:
    customer, key = system.customer(), system.key("cards:delete")
    deleted = token_of(system.save_card(customer))
    system.until_active(customer)
    system.until_settled(customer)
    for _ in range(CUSTOMERS):
        system.sql(
            "INSERT INTO cardsync.customers (environment, customer_id) VALUES (%s, %s)", ENVIRONMENT, system.customer()
        )
    everybody = Process(system.folder, "reconcile-all", ["reconcile", "--all"], system.settings).start()
    try:
        until(lambda: _spent(system) == ROUTINE_CALLS, "the walk has taken all that is for routine looks")
        hinted = system.customer()
        system.save_card(hinted)
        system.until_active(hinted)
        wish = {"environment": ENVIRONMENT, "customer_id": customer, "token": deleted}
        asked = system.post("/v1/deletions", key, idempotency_key="a-tiny-budget", **wish)
        path = asked.headers["Location"]
        until(lambda: system.get(path, key).json()["status"] == "done", "the deletion is proved")
        assert everybody.is_running  # it waits for the budget to refill, which takes a day
    finally:
        everybody.kill()
    assert ROUTINE_CALLS < _spent(system) <= DAILY_CALLS
    until(lambda: len(system.simulator.calls()) == _spent(system), "each call that was counted is made")


def _spent(system: System) -> int:
    (row,) = system.sql("SELECT coalesce(sum(calls), 0)::int AS calls FROM cardsync.call_minutes")
    return int(row["calls"])
