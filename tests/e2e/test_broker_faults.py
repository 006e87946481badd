"""The broker gone, frozen or emptied: hints are answered as before, nothing is lost, and all of it heals by itself."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.e2e.brokers import Broker
from tests.e2e.marks import BOTH_BROKERS
from tests.e2e.processes import until
from tests.e2e.system import System
from tests.e2e.timing import p95, timed

pytestmark = BOTH_BROKERS

HINTS = 40


@pytest.mark.parametrize("fault", ["away", "frozen"])
def test_hints_are_answered_as_fast_without_the_broker(system: System, broker: Broker, fault: str) -> None:
    break_it, mend_it = _fault(broker, fault)
    before, usual = _send(system)
    system.until_active(*before)
    pids = {name: process.pid for name, process in system.processes.items()}
    break_it()
    try:
        meanwhile, seconds = _send(system)
        if fault == "away":
            until(lambda: "answer" in system.get("/readyz").json()["checks"]["broker"], "the broker is seen to be away")
        health = system.get("/readyz")
        assert health.status_code == 200  # hints are still taken
    finally:
        mend_it()
    assert max(seconds) < 1
    assert p95(seconds) < p95(usual) * 5 + 0.1
    system.until_active(*meanwhile, seconds=20)
    after, _ = _send(system, count=5)
    system.until_active(*after)
    assert {name: process.pid for name, process in system.processes.items()} == pids
    assert all(system.changes(customer) == ["added"] for customer in (*before, *meanwhile, *after))


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
        assert [system.pending_hints(customer) for customer in customers] == [1] * 6
        system.processes["worker"].says("Cannot connect")
        system.processes["worker"].stop()  # one that has never reached the broker can be stopped
        system.start("worker")
    finally:
        broker.come_back()
    system.until_active(*customers, seconds=20)


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


def _send(system: System, count: int = HINTS) -> tuple[list[str], list[float]]:
    """Send hints one after another; their customers, and how long each answer took."""
    customers, seconds = [system.customer() for _ in range(count)], []
    for customer in customers:
        content, _ = system.notification(customer)
        answer, took = timed(system, content)
        assert (answer.status_code, answer.json()["status"]) == (200, "accepted")
        seconds.append(took)
    return customers, seconds
