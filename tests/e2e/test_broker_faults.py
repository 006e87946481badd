"""The broker gone, frozen or emptied: hints are answered as before, nothing is lost, and all of it heals by itself."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.e2e.brokers import Broker
from tests.e2e.marks import BOTH_BROKERS
from tests.e2e.system import System
from tests.waiting import until

HINTS = 40


@BOTH_BROKERS
@pytest.mark.parametrize("fault", ["away", "frozen"])
def test_hints_are_answered_while_the_broker_is_away_or_frozen(system: System, broker: Broker, fault: str) -> None:
    break_it, mend_it = _fault(broker, fault)
    before = _send(system)
    system.until_active(*before)
    pids = {name: process.pid for name, process in system.processes.items()}
    break_it()
    try:
        meanwhile = _send(system)  # all of them are answered before the broker is back
        if fault == "away":
            until(lambda: system.get("/readyz").json()["checks"]["broker"] != "ok", "the broker is seen to be away")
        health = system.get("/readyz")
        assert health.status_code == 200  # hints are still taken
    finally:
        mend_it()
    system.until_active(*meanwhile)
    after = _send(system, count=5)
    system.until_active(*after)
    assert {name: process.pid for name, process in system.processes.items()} == pids
    assert all(system.changes(customer) == ["added"] for customer in (*before, *meanwhile, *after))


@BOTH_BROKERS
def test_work_survives_a_broker_that_forgets_everything_and_processes_that_restart_without_it(
    system: System, broker: Broker
) -> None:
    system.processes["worker"].stop()
    customers = [system.customer() for _ in range(6)]
    for customer in customers[:-1]:
        system.save_card(customer)
    broker.forget()
    broker.go_away()
    try:
        for name in ("beat", "web"):
            assert system.processes[name].stop() == 0, name
        for name in ("worker", "beat", "web"):
            system.start(name)
        system.save_card(customers[-1])
        system.processes["worker"].says("broker_lost")
        system.until_active(*customers)  # a worker claims what is due without a message
        system.processes["worker"].stop()  # one that has never reached the broker can be stopped
        system.start("worker")
    finally:
        broker.come_back()
    later = system.customer()
    system.save_card(later)
    system.until_active(later)


@BOTH_BROKERS
def test_processes_stop_while_the_broker_is_frozen(system: System, broker: Broker) -> None:
    broker.freeze()
    try:
        for name in ("beat", "web", "worker"):
            system.processes[name].signal(signal.SIGTERM)
        assert [system.processes[name].wait() for name in ("beat", "web", "worker")] == [0, 0, 0]
    finally:
        broker.thaw()
    for name in ("worker", "beat", "web"):
        system.start(name)


def _fault(broker: Broker, fault: str) -> tuple[Callable[[], None], Callable[[], None]]:
    return (broker.go_away, broker.come_back) if fault == "away" else (broker.freeze, broker.thaw)


def _send(system: System, count: int = HINTS) -> list[str]:
    """Send hints one after another; their customers."""
    customers = [system.customer() for _ in range(count)]
    for customer in customers:
        content, _ = system.notification(customer)
        answer = system.post_hint(content)
        assert (answer.status_code, answer.json()["status"]) == (200, "accepted")
    return customers
