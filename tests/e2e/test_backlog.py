"""A long line of routine looks and a slow Ottu: fresh hints are asked about before those that wait."""

from __future__ import annotations

from tests.e2e.marks import ONE_BROKER
from tests.e2e.system import ENVIRONMENT, System
from tests.waiting import until

pytestmark = ONE_BROKER

THREADS = 16
SWEEPS = 6_000
SLOW_SECONDS = 3.0
SETTINGS = {"OTTU_DAILY_CALLS": "5000000", "OTTU_TIMEOUT_S": "20", "CARDSYNC_WORKER_THREADS": str(THREADS)}


def test_fresh_hints_are_asked_about_before_a_backlog_of_sweeps(system: System) -> None:
    system.simulator.turn(latency_seconds=SLOW_SECONDS)
    system.sql(
        "INSERT INTO cardsync.customers (environment, customer_id, reconciled_at, due_at, lane)"
        " SELECT %s, 'swept-' || n, now() - interval '1 day', now() - n * interval '1 second', 'sweep'"
        " FROM generate_series(1, %s) AS n",
        ENVIRONMENT,
        SWEEPS,
    )
    until(lambda: len(system.simulator.calls("list")) > 1, "sweeps are under way")
    hinted = [system.customer() for _ in range(4)]
    for customer in hinted:
        assert system.post_hint(system.notification(customer)[0]).status_code == 200
    before = len(system.simulator.calls("list"))
    until(lambda: all(system.calls(customer) for customer in hinted), "each hint's list is asked for")
    calls = [call.customer_id for call in system.simulator.calls("list")]
    last = max(calls.index(customer) for customer in hinted)
    overtaking = [customer for customer in calls[before:last] if customer not in hinted]
    assert len(overtaking) <= THREADS, "the hints waited behind the line"
    system.simulator.turn(latency_seconds=0)
    system.until_active(*hinted)
    waiting = system.sql("SELECT count(*) AS n FROM cardsync.customers WHERE lane = 'sweep' AND due_at < now()")
    assert waiting[0]["n"] > 0, "the line was gone before it could be overtaken"
    system.sql("UPDATE cardsync.customers SET due_at = NULL, lane = NULL WHERE lane = 'sweep' AND ticket_no IS NULL")
