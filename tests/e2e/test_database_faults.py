"""PostgreSQL gone, idle or under load: quick refusals, no accepted hint lost, and all of it heals by itself."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from cardsync.dev.postgres import EmbeddedPostgres
from tests.e2e.marks import ONE_BROKER
from tests.e2e.processes import POLL_SECONDS, until
from tests.e2e.system import ENVIRONMENT, System
from tests.e2e.timing import timed

pytestmark = ONE_BROKER

REFUSED_SECONDS = 2.5
SENDERS = 4
HINTS_EACH = 40


def test_without_the_database_the_web_refuses_quickly_and_says_why(system: System, postgres: EmbeddedPostgres) -> None:
    customer, reader = system.customer(), system.key("cards:read")
    content, _ = system.notification(customer)
    with _killed(postgres):
        answer, seconds = timed(system, content)
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        assert int(answer.headers["retry-after"]) > 0
        assert seconds < REFUSED_SECONDS
        began = time.monotonic()
        assert system.get("/v1/cards", reader, environment=ENVIRONMENT, customer_id=customer).status_code == 503
        ready = system.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
        assert ready.json()["checks"]["database"] != "ok"
        assert system.get("/livez").status_code == 200
        figures = system.metrics()
        assert figures["cardsync_database_up", ()] == 0
        assert figures["cardsync_hints_total", ("unavailable",)] >= 1
        assert time.monotonic() - began < 4 * REFUSED_SECONDS
    until(lambda: system.get("/readyz").status_code == 200, "the web is ready again")
    assert system.post_hint(content).json()["status"] == "accepted"
    system.until_active(customer)


def test_worker_and_beat_outlive_a_restart_of_the_database(system: System, postgres: EmbeddedPostgres) -> None:
    pids = {name: process.pid for name, process in system.processes.items()}
    with _killed(postgres):
        beat = system.processes["beat"]
        until(lambda: "beat_lost_the_lead" in beat.output(), "the beat notices")
    until(lambda: system.get("/readyz").status_code == 200, "the web is ready again")
    customer = system.customer()
    system.save_card(customer)
    system.until_active(customer)
    lost = system.customer()  # ... and the sweep runs again: this hint's bell goes nowhere
    system.save_card(lost, notify=False)
    system.sql("INSERT INTO cardsync.customers (environment, customer_id) VALUES (%s, %s)", ENVIRONMENT, lost)
    system.until_active(lost)
    assert {name: process.pid for name, process in system.processes.items()} == pids


def test_no_accepted_hint_is_lost_when_the_database_dies_under_load(system: System, postgres: EmbeddedPostgres) -> None:
    hints = {customer: system.notification(customer)[0] for customer in _customers(system)}
    statuses: Counter[int] = Counter()
    slowest: list[float] = []
    refused = threading.Event()

    def send(content: bytes) -> None:
        """Send it until it is accepted, and tell of refusals."""
        while True:
            answer, seconds = timed(system, content)
            statuses[answer.status_code] += 1
            slowest.append(seconds)
            if answer.status_code == 200:
                return
            refused.set()
            threading.Event().wait(POLL_SECONDS)

    with ThreadPoolExecutor(SENDERS) as senders:
        sent = [senders.submit(send, content) for content in hints.values()]
        until(lambda: statuses[200] >= SENDERS, "the first are accepted")
        with _killed(postgres):
            assert refused.wait(5), "nothing was refused"
        for one in sent:
            one.result(30)
    assert set(statuses) == {200, 503}
    assert max(slowest) < REFUSED_SECONDS
    system.until_active(*hints, seconds=25)
    assert all(system.changes(customer) == ["added"] for customer in hints)


def test_processes_that_start_before_the_database_wait_for_it(system: System, postgres: EmbeddedPostgres) -> None:
    with _killed(postgres):
        for name in ("beat", "web", "worker"):
            assert system.processes[name].stop() == 0, name
        for name in ("worker", "beat", "web"):
            system.start(name)
        assert "database" in system.get("/readyz").json()["checks"]
        assert system.get("/readyz").status_code == 503
        system.processes["worker"].says("waiting_for_database")
        other = system.start("worker", "worker-2")
        other.says("waiting_for_database")
        system.end("worker-2")  # one that waits can be stopped
    customer = system.customer()
    until(lambda: system.get("/readyz").status_code == 200, "the web is ready")
    system.save_card(customer)
    system.until_active(customer)


@contextmanager
def _killed(postgres: EmbeddedPostgres) -> Iterator[None]:
    postgres.kill()
    try:
        yield
    finally:
        postgres.start()


def _customers(system: System) -> list[str]:
    return [system.customer() for _ in range(SENDERS * HINTS_EACH)]
