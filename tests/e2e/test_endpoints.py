"""Real processes deliver to a real endpoint: a worker is killed in the middle, and the database is away."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from cardsync.core.delivery import Kind
from cardsync.dev.servers.postgres import EmbeddedPostgres
from tests.e2e.marks import ONE_BROKER
from tests.e2e.processes import run
from tests.e2e.system import System
from tests.e2e.test_database_faults import killed
from tests.receivers import Answer, Receiver
from tests.waiting import until

pytestmark = ONE_BROKER
DATA_IN_MEMORY = True  # within a second a hint is on disk, or refused: a busy disk takes longer


WAITING: Final = 30  # more than a worker has threads for calls, or for deliveries
SECONDS: Final = 120.0  # for what takes a moment on a machine that is not busy


@contextlib.contextmanager
def endpoint(system: System, name: str, kind: Kind) -> Iterator[Receiver]:
    """An endpoint while it is needed."""
    made = Receiver()
    add = ("endpoints", "add", "--name", name, "--url", made.url, "--kind", kind, "--json")
    added = run(system.folder, system.settings, *add)
    assert added.returncode == 0, added.stderr
    made.secret = system.keep_secret(json.loads(added.stdout)["secret"])
    yield made
    assert run(system.folder, system.settings, "endpoints", "remove", name).returncode == 0
    made.close()


@pytest.fixture
def receiver(system: System) -> Iterator[Receiver]:
    """An endpoint of kind ``notifications``."""
    with endpoint(system, "orders", "notifications") as made:
        yield made


@pytest.fixture
def follower(system: System) -> Iterator[Receiver]:
    """An endpoint of kind ``changes``."""
    with endpoint(system, "feed", "changes") as made:
        yield made


def test_a_worker_killed_in_a_delivery_sends_it_again_under_the_same_id(system: System, receiver: Receiver) -> None:
    let_go = threading.Event()
    receiver.answer = lambda _: Answer(before=let_go.wait)
    content, _ = system.notification(system.customer())
    event_id = system.post_hint(content).json()["event_id"]
    receiver.wait_for(lambda received: len(received) == 1)
    worker = system.processes["worker"]
    worker.signal(signal.SIGKILL)
    worker.wait()
    let_go.set()
    receiver.answer = lambda _: 200
    worker.start()
    system.sql(
        "UPDATE cardsync.deliveries SET due_at = due_at - interval '1 minute', "
        "claimed_until = claimed_until - interval '1 minute'"
    )
    receiver.wait_for(lambda received: len(received) == 2)
    assert receiver.ids() == [event_id, event_id]
    assert {one.body for one in receiver.received} == {content}
    until(
        lambda: [row["status"] for row in system.sql("SELECT status FROM cardsync.deliveries")] == ["done"], "settled"
    )
    assert receiver.refused == []


def test_after_an_outage_of_an_hour_all_arrives_at_once(system: System, receiver: Receiver) -> None:
    receiver.answer = lambda _: 503
    event_ids = set()
    for _ in range(8):
        content, _ = system.notification(system.customer())
        event_ids.add(system.post_hint(content).json()["event_id"])
    until(lambda: _circuit_open(system), "the circuit breaker is open", seconds=SECONDS)
    # Each has failed so often that its own wait is six hours. Clocks move: one of them is tried all the same, and again.
    until(lambda: not _under_way(system), "all tries are settled", seconds=SECONDS)
    system.sql(
        "UPDATE cardsync.deliveries SET attempts = attempts + 12 WHERE status = 'pending' AND claimed_until IS NULL"
    )
    for _ in range(10):
        until(lambda: not _under_way(system), "the last try is settled", seconds=SECONDS)
        tried = len(receiver.received)
        system.sql(
            "UPDATE cardsync.deliveries SET made_at = made_at - interval '6 minutes', due_at = due_at - interval '6 minutes' "
            "WHERE status = 'pending' AND claimed_until IS NULL"
        )
        system.sql(
            "UPDATE cardsync.endpoints SET opened_at = opened_at - interval '6 minutes', "
            "failing_since = failing_since - interval '6 minutes', shut_until = clock_timestamp() WHERE name = 'orders'"
        )
        receiver.wait_for(lambda received, tried=tried: len(received) > tried, SECONDS)  # type: ignore[misc]
    until(lambda: not _under_way(system), "the last try is settled", seconds=SECONDS)
    receiver.answer = lambda _: 200
    system.sql("UPDATE cardsync.endpoints SET shut_until = clock_timestamp() WHERE name = 'orders'")
    until(lambda: _delivered(system) >= event_ids, "all are delivered", seconds=SECONDS)
    assert set(receiver.ids()) == event_ids
    assert not _circuit_open(system)
    assert receiver.refused == []


def _circuit_open(system: System) -> bool:
    return bool(system.sql("SELECT 1 FROM cardsync.endpoints WHERE name = 'orders' AND opened_at IS NOT NULL"))


def _under_way(system: System) -> bool:
    return bool(system.sql("SELECT 1 FROM cardsync.deliveries WHERE claimed_until IS NOT NULL"))


def _delivered(system: System) -> set[str]:
    return {
        str(row["event_id"]) for row in system.sql("SELECT event_id FROM cardsync.deliveries WHERE status = 'done'")
    }


def test_an_endpoint_that_hangs_keeps_no_card_from_becoming_active(system: System, receiver: Receiver) -> None:
    let_go = threading.Event()
    receiver.answer = lambda _: Answer(before=let_go.wait)
    try:
        for _ in range(WAITING):
            content, _ = system.notification(system.customer())
            system.post_hint(content)
        receiver.wait_for(lambda received: len(received) >= 1)
        customer = system.customer()
        system.save_card(customer)
        system.until_active(customer)
        (row,) = system.sql("SELECT count(*) AS n FROM cardsync.deliveries WHERE status = 'pending'")
        assert row["n"] > WAITING, "all of them wait still"
    finally:
        let_go.set()


def test_looks_that_hang_keep_no_notification_from_an_endpoint(system: System, receiver: Receiver) -> None:
    customers = [system.customer() for _ in range(WAITING)]
    with system.simulator.held("list:before") as gates:
        for customer in customers:
            system.save_card(customer)
        gates.wait_until_waiting("list:before")
        content, _ = system.notification(system.customer())
        event_id = system.post_hint(content).json()["event_id"]
        receiver.wait_for(lambda _: event_id in receiver.ids())
        assert not any(system.statuses(customer) == ["active"] for customer in customers), "all of them wait still"
    system.until_active(*customers)


def test_a_worker_killed_in_a_batch_of_changes_sends_the_same_batch_again_under_the_same_id(
    system: System, follower: Receiver
) -> None:
    let_go = threading.Event()
    follower.answer = lambda _: Answer(before=let_go.wait)
    customer = system.customer()
    system.save_card(customer)
    follower.wait_for(lambda received: len(received) == 1, SECONDS)
    worker = system.processes["worker"]
    worker.signal(signal.SIGKILL)
    worker.wait()
    let_go.set()
    follower.answer = lambda _: 200
    # The feed goes on meanwhile: a batch that were chosen again would be longer, and have another id.
    system.sql(
        "UPDATE cardsync.cards SET brand = 'OTHER', cause = 'hint' "
        "WHERE customer = (SELECT id FROM cardsync.customers WHERE customer_id = %s)",
        customer,
    )
    worker.start()
    system.sql("UPDATE cardsync.endpoints SET claimed_until = claimed_until - interval '1 minute'")
    until(lambda: _changes_behind(system) == 0, "the endpoint has all changes", seconds=SECONDS)
    first, again, *rest = follower.received
    assert first.message_id == again.message_id
    assert first.content["data"]["changes"] == again.content["data"]["changes"] != []
    taken = [change["seq"] for message in (again, *rest) for change in message.content["data"]["changes"]]
    assert taken == list(range(taken[0], taken[-1] + 1))
    assert rest
    assert follower.refused == []


def _changes_behind(system: System) -> int:
    (row,) = system.sql(
        "SELECT (SELECT seq FROM cardsync.feed_head) - cursor_seq AS behind FROM cardsync.endpoints "
        "WHERE kind = 'changes' AND status = 'enabled'"
    )
    return int(row["behind"])


def test_what_came_while_the_database_was_away_arrives_and_is_in_no_dump_in_the_clear(
    system: System, receiver: Receiver, postgres: EmbeddedPostgres
) -> None:
    first, _ = system.notification(system.customer())
    assert system.post_hint(first).status_code == 200  # the web knows of the endpoint
    receiver.wait_for(lambda received: len(received) == 1)
    content, token = system.notification(system.customer())
    session = json.loads(content)["session_id"]
    with killed(postgres):
        assert system.post_hint(content).status_code == 200
        on_disk = b"".join(
            file.read_bytes() for file in (Path(system.settings["CARDSYNC_DATA_DIR"]) / "spool").glob("*.segment")
        )
        assert on_disk
        assert token.encode() not in on_disk
    receiver.wait_for(lambda received: len(received) == 2)
    assert receiver.received[1].body == content
    kept = system.sql("SELECT body FROM cardsync.kept_bodies WHERE session_id = %s", session)
    assert len(kept) == 1
    assert token not in kept[0]["body"]
    dumped = "".join(
        str(row)
        for table in ("events", "kept_bodies", "deliveries", "endpoints")
        for row in system.sql(f"SELECT t::text FROM cardsync.{table} AS t")
    )
    assert token not in dumped
    assert receiver.secret.removeprefix("whsec_") not in dumped
