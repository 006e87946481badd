"""PostgreSQL gone, frozen, restarted, idle or under load: every hint is answered with success, and all of it heals by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from cardsync.dev.servers.postgres import EmbeddedPostgres
from tests.e2e.marks import ONE_BROKER
from tests.e2e.system import ENVIRONMENT, System
from tests.e2e.timing import timed
from tests.waiting import until

pytestmark = ONE_BROKER
DATA_IN_MEMORY = True  # within a second a hint is on disk, or refused: a busy disk takes longer

ANSWER_SECONDS = 12.0  # a deadline: Ottu gives up after fifteen, and a network that swallows all holds for minutes
ANSWERED_SECONDS = 120.0  # a deadline: until all threads of the test have their answers
SENDERS = 4
HINTS_EACH = 40
READERS = 8  # as many as the web has threads for them


def test_without_the_database_hints_are_taken_and_readers_are_told(system: System, postgres: EmbeddedPostgres) -> None:
    customer, reader = system.customer(), system.key("cards:read")
    content, _ = system.notification(customer)
    with killed(postgres):
        answer, seconds = timed(system, content)
        assert (answer.status_code, answer.json()["status"]) == (200, "accepted")
        assert seconds < ANSWER_SECONDS
        began = time.monotonic()
        assert system.get("/v1/cards", reader, environment=ENVIRONMENT, customer_id=customer).status_code == 503
        ready = system.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        assert ready.json()["checks"]["database"] != "ok"
        assert system.get("/livez").status_code == 200
        figures = system.metrics()
        assert figures["cardsync_database_up", ()] == 0
        assert figures["cardsync_spooled_hints_total", ("written",)] >= 1
        until(lambda: system.metrics()["cardsync_spool_files", ()] == 1, "the waiting hint is told")
        assert time.monotonic() - began < 4 * ANSWER_SECONDS
    system.until_active(customer)
    until(lambda: system.get("/readyz").json()["status"] == "ready", "the web is ready again")
    # Where the database is slow for a moment, a copy is set down on disk, where nobody looks for duplicates.
    again = until(lambda: (one := system.post_hint(content).json())["status"] == "duplicate" and one, "a copy is one")
    assert again["event_id"] == answer.json()["event_id"]
    _until_drained(system)


def test_worker_and_beat_outlive_a_restart_of_the_database(system: System, postgres: EmbeddedPostgres) -> None:
    pids = {name: process.pid for name, process in system.processes.items()}
    with killed(postgres):
        beat = system.processes["beat"]
        until(lambda: "beat_lost_the_lead" in beat.output(), "the beat notices")
    until(lambda: system.get("/readyz").json()["status"] == "ready", "the web is ready again")
    customer = system.customer()
    system.save_card(customer)
    system.until_active(customer)
    lost = system.customer()  # ... and the sweep runs again: this hint's bell goes nowhere
    system.save_card(lost, notify=False)
    system.sql("INSERT INTO cardsync.customers (environment, customer_id) VALUES (%s, %s)", ENVIRONMENT, lost)
    system.until_active(lost)
    assert {name: process.pid for name, process in system.processes.items()} == pids


@contextmanager
def killed(postgres: EmbeddedPostgres) -> Iterator[None]:
    postgres.kill()
    try:
        yield
    finally:
        postgres.start()


@contextmanager
def frozen(postgres: EmbeddedPostgres) -> Iterator[None]:
    postgres.pause()
    try:
        yield
    finally:
        postgres.resume()


@contextmanager
def restarted(postgres: EmbeddedPostgres) -> Iterator[None]:
    postgres.stop()
    postgres.start()
    yield


@pytest.mark.parametrize("fault", [killed, frozen, restarted])
def test_every_hint_is_answered_in_time_and_leads_to_the_truth_whatever_befalls_the_database(
    system: System, postgres: EmbeddedPostgres, fault: Callable[[EmbeddedPostgres], Iterator[None]]
) -> None:
    hints = {customer: system.notification(customer)[0] for customer in _customers(system)}
    answers: list[tuple[int, float]] = []
    before = _spooled(system)

    def send(content: bytes) -> None:
        answer, seconds = timed(system, content)
        answers.append((answer.status_code, seconds))

    with ThreadPoolExecutor(SENDERS) as senders:
        sent = [senders.submit(send, content) for content in hints.values()]
        until(lambda: len(answers) >= SENDERS, "the first are answered")
        with fault(postgres):
            until(lambda: len(answers) == len(hints) or _spooled(system) > before, "some are set down")
        for one in sent:
            one.result(ANSWERED_SECONDS)
    assert {status for status, _ in answers} == {200}
    assert max(seconds for _, seconds in answers) < ANSWER_SECONDS
    system.until_active(*hints)
    _until_drained(system)
    assert all(system.changes(customer) == ["added"] for customer in hints)


def test_readers_who_hang_on_a_frozen_database_hide_nobodys_health_and_are_freed(
    system: System, postgres: EmbeddedPostgres
) -> None:
    customer, reader = system.customer(), system.key("cards:read")
    content, _ = system.notification(customer)

    def read() -> int:
        return system.get("/v1/cards", reader, environment=ENVIRONMENT, customer_id=customer).status_code

    def are_warm() -> bool:  # each thread of the web's has its connection
        return {one.result(ANSWERED_SECONDS) for one in [readers.submit(read) for _ in range(8 * READERS)]} == {200}

    def are_overtaken() -> bool:
        """They are freed within seconds: on a busy machine perhaps before the test has asked."""
        until(lambda: system.get("/readyz").json()["status"] == "ready", "the web is ready")
        until(are_warm, "all readers are served")
        with frozen(postgres):
            hanging = [readers.submit(read) for _ in range(READERS)]
            assert system.post_hint(content).status_code == 200
            assert system.get("/livez").status_code == 200
            hang = not any(one.done() for one in hanging)
            assert system.get("/readyz").json()["status"] == "degraded"
            assert {one.result(ANSWERED_SECONDS) for one in hanging} == {503}
        return hang

    with ThreadPoolExecutor(READERS) as readers:
        until(are_overtaken, "it is answered before them")
    system.until_active(customer)
    _until_drained(system)


def test_a_web_process_killed_with_hints_on_disk_leaves_them_to_the_next(
    system: System, postgres: EmbeddedPostgres
) -> None:
    hints = {customer: system.notification(customer)[0] for customer in (system.customer(), system.customer())}
    with killed(postgres):
        for content in hints.values():
            assert system.post_hint(content).status_code == 200
        system.processes.pop("web").kill()
    assert len(_waiting(system)) == 2
    (_spool(system) / "1-dead-1.tmp").write_bytes(b'{"torn')
    system.start("web")
    system.until_active(*hints)
    _until_drained(system)


def test_processes_that_start_before_the_database_wait_for_it_and_take_hints(
    system: System, postgres: EmbeddedPostgres
) -> None:
    customer = system.customer()
    content, _ = system.notification(customer)
    with killed(postgres):
        for name in ("beat", "web", "worker"):
            assert system.processes[name].stop() == 0, name
        for name in ("worker", "beat", "web"):
            system.start(name)
        assert system.get("/readyz").json()["status"] == "degraded"
        assert system.post_hint(content).json()["status"] == "accepted"
        system.processes["worker"].says("waiting_for_database")
        other = system.start("worker", "worker-2")
        other.says("waiting_for_database")
        system.end("worker-2")  # one that waits can be stopped
    system.until_active(customer)
    _until_drained(system)


def _spool(system: System) -> Path:
    return Path(system.settings["CARDSYNC_DATA_DIR"]) / "spool"


def _waiting(system: System) -> list[Path]:
    return list(_spool(system).glob("*.segment"))


def _until_drained(system: System) -> None:
    """Wait for an empty spool. A hint may be stored and spooled both, and its card be active before its file is gone."""
    until(lambda: not _waiting(system), "the spool is empty")


def _spooled(system: System) -> float:
    return system.metrics().get(("cardsync_spooled_hints_total", ("written",)), 0.0)


def _customers(system: System) -> list[str]:
    return [system.customer() for _ in range(SENDERS * HINTS_EACH)]
