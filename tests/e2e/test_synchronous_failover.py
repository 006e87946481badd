"""A primary with a synchronous standby is killed under a steady stream of hints: none is lost, no process is started again."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from cardsync.dev.servers.postgres import EmbeddedPostgres
from tests.e2e.brokers import valkey
from tests.e2e.standby import Standby, ask, both, new_primary, new_synchronous_standby
from tests.e2e.system import System
from tests.logins import ProcessLogins
from tests.waiting import until

NAME: Final = "standby_sync"
KINDS: Final = ("worker", "beat", "web")
PER_SECOND: Final = 50
STREAM: Final = 1_000  # hints of a stream; it is under way for 20 s
SENDERS: Final = 32
SENT_SECONDS: Final = 240.0  # a deadline
EVENTS: Final = "SELECT event_id::text FROM cardsync.events"


@pytest.fixture
def primary(services: Path) -> Iterator[EmbeddedPostgres]:
    with new_primary(services) as made:
        yield made


@pytest.fixture
def standby(services: Path, primary: EmbeddedPostgres) -> Iterator[Standby]:
    with new_synchronous_standby(services, primary, NAME) as made:
        yield made


@pytest.fixture
def system(tmp_path: Path, services: Path, primary: EmbeddedPostgres, standby: Standby) -> Iterator[System]:
    """It keeps no acknowledged hints on the disk to bring them in again: the standby alone has them."""
    with valkey(services / f"valkey-{secrets.token_hex(4)}") as broker:
        data = services / f"data-{secrets.token_hex(4)}"  # in memory, if there is enough: a busy disk refuses hints
        given = {"CARDSYNC_DATA_DIR": str(data), "CARDSYNC_KEEP_MINUTES": "0"}
        made = System(tmp_path, both(primary, standby), broker, ProcessLogins(primary), **given)
        try:
            for kind in KINDS:
                made.start(kind)
            yield made
            made.assert_nothing_leaked()
        finally:
            made.close()


def test_a_synchronous_failover_under_a_stream_of_hints_loses_none_and_restarts_no_process(
    system: System, primary: EmbeddedPostgres, standby: Standby
) -> None:
    ids = {kind: system.processes[kind].pid for kind in KINDS}
    customers = [system.customer() for _ in range(STREAM)]
    hints, began = [system.notification(customer)[0] for customer in customers], time.monotonic()
    acknowledged: list[str] = []
    answers: list[tuple[int, str]] = []

    def send_in_turn(number: int) -> None:
        threading.Event().wait(began + number / PER_SECOND - time.monotonic())
        answer = system.post_hint(hints[number])
        said = answer.json()
        answers.append((answer.status_code, str(said.get("status"))))
        acknowledged.append(str(said.get("event_id")))

    with ThreadPoolExecutor(SENDERS) as senders:
        sent = [senders.submit(send_in_turn, number) for number in range(STREAM)]
        until(lambda: len(ask(primary, EVENTS)) > PER_SECOND, "the stream flows")
        primary.kill()
        standby.promote()
        assert len(answers) < STREAM, "the stream ended before the promotion"
        for one in sent:
            one.result(SENT_SECONDS)
    assert set(answers) == {(200, "accepted")}
    until(
        lambda: {row[0] for row in ask(standby, EVENTS)} >= set(acknowledged),
        "all of them are rows",
        seconds=SENT_SECONDS,
    )
    system.until_active(*customers, seconds=SENT_SECONDS)
    assert {kind: system.processes[kind].pid for kind in KINDS if system.processes[kind].is_running} == ids
    for kind in KINDS:
        assert '"thread_ended"' not in system.processes[kind].output()
    assert system.processes["web"].output().count('"web_started"') == 1
