"""A worker that dies in the middle of a call, or is told to stop in it: nothing is lost, nothing is done twice."""

from __future__ import annotations

import signal
import time

from cardsync.dev.simulator.calls import MAX_HELD_SECONDS
from tests.e2e.marks import BOTH_BROKERS
from tests.e2e.system import ENVIRONMENT, System, token_of
from tests.waiting import until

pytestmark = BOTH_BROKERS

# Long enough that no call gives up by itself while a test holds it.
SETTINGS = {"OTTU_TIMEOUT_S": "30"}
# Longer than any wait for a dead worker: its lease (a call and the applying), a bell that was lost with it.
A_WHILE_SECONDS = 60


def test_a_worker_killed_before_and_after_ottu_answered_loses_nothing(system: System) -> None:
    worker = system.processes["worker"]
    after, before = system.customer(), system.customer()
    with system.simulator.held("list:after") as gates:
        system.save_card(after)
        gates.wait_until_waiting("list:after")
        with system.simulator.held("list:before"):
            system.save_card(before)
            gates.wait_until_waiting("list:before")
            worker.signal(signal.SIGKILL)
            worker.wait()
    worker.start()
    assert (system.statuses(after), system.statuses(before)) == (["unconfirmed"], ["unconfirmed"])
    _let_time_pass(system)
    system.until_active(after, before)
    for customer in (after, before):
        system.until_settled(customer)
        assert system.changes(customer) == ["added"]
        assert len(system.calls(customer)) == 2


def test_a_worker_stalled_in_a_call_past_its_lease_does_no_harm_when_it_wakes(system: System) -> None:
    """It wakes with an old list in hand: another worker has asked since, and the card has been deleted meanwhile."""
    stalled, customer = system.processes["worker"], system.customer()
    with system.simulator.held("list:after") as gates:
        visit = system.save_card(customer)
        gates.wait_until_waiting("list:after")
        stalled.pause()
    try:
        system.start("worker", "worker-2").says("worker_started")
        _let_time_pass(system)
        system.until_active(customer)
        system.simulator.checkout().delete_card(ENVIRONMENT, customer, token_of(visit))
        system.post("/v1/reconciliations", system.key("cards:reconcile"), environment=ENVIRONMENT, customer_id=customer)
        until(lambda: system.statuses(customer) == ["removed"], "the other worker sees the card gone")
    finally:
        stalled.resume()
        system.end("worker-2")
    until(lambda: "superseded" in stalled.output(), "the stalled worker finds that its ticket is void")
    assert system.statuses(customer) == ["removed"]
    assert system.changes(customer) == ["added", "removed"]
    other = system.customer()
    system.save_card(other)
    system.until_active(other)  # it works on


def test_a_worker_killed_with_hints_in_the_broker_loses_none(system: System) -> None:
    worker = system.processes["worker"]
    customers = [system.customer() for _ in range(10)]
    with system.simulator.held("list:before") as gates:
        for customer in customers:
            system.save_card(customer)
        gates.wait_until_waiting("list:before")
        worker.signal(signal.SIGKILL)
        worker.wait()
    worker.start()
    _let_time_pass(system)
    system.until_active(*customers)
    assert all(system.changes(customer) == ["added"] for customer in customers)


def test_a_worker_told_to_stop_finishes_the_call_that_runs(system: System) -> None:
    worker, customer = system.processes["worker"], system.customer()
    system.simulator.turn(latency_seconds=0.5)
    system.save_card(customer)
    until(lambda: system.calls(customer), "the call is under way")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    system.simulator.turn(latency_seconds=0)
    assert "worker_stopped" in worker.output()
    assert system.statuses(customer) == ["active"]
    worker.start()


def test_a_worker_told_to_stop_waits_no_longer_than_a_call_may_take(system: System) -> None:
    customer = system.customer()
    system.processes["worker"].says("worker_started")
    system.end("worker")
    worker = system.start("worker", OTTU_TIMEOUT_S="1")
    with system.simulator.held("list:before") as gates:
        system.save_card(customer)
        gates.wait_until_waiting("list:before")
        began = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - began < MAX_HELD_SECONDS / 5  # a deadline: what is held waits much longer
    assert "OttuUnavailable" in system.freshness(customer)["last_error"]
    system.start("worker")
    system.until_active(customer)


def test_a_worker_told_to_stop_while_it_starts_stops(system: System) -> None:
    worker = system.start("worker", "worker-2")
    worker.says("worker_started")
    system.end("worker-2")


def test_a_row_that_the_database_refuses_shows_nothing_of_itself(system: System) -> None:
    """PostgreSQL's error then quotes the whole row, token included."""
    customer, worker = system.customer(), system.processes["worker"]
    system.save_card(customer, notify=False, pg_code="refused-here")
    refuse = "ALTER TABLE cardsync.cards ADD CONSTRAINT refused_here CHECK (pg_code <> 'refused-here') NOT VALID"
    system.sql(refuse)
    try:
        system.post("/v1/reconciliations", system.key("cards:reconcile"), environment=ENVIRONMENT, customer_id=customer)
        worker.says("23514")  # SQLSTATE check_violation: ours to log, and all there is to say
    finally:
        system.sql("ALTER TABLE cardsync.cards DROP CONSTRAINT refused_here")
    assert "refused-here" not in worker.output()
    _let_time_pass(system)
    system.until_active(customer)


def _let_time_pass(system: System) -> None:
    """What a dead worker held is free after a while; the test does not wait so long."""
    system.sql(
        "UPDATE cardsync.customers SET lease_until = lease_until - make_interval(secs => %s),"
        " rung_at = rung_at - make_interval(secs => %s) WHERE due_at IS NOT NULL",
        A_WHILE_SECONDS,
        A_WHILE_SECONDS,
    )
    system.sql(
        "UPDATE cardsync.events SET due_at = due_at - make_interval(secs => %s) WHERE status = 'pending'",
        A_WHILE_SECONDS,
    )
