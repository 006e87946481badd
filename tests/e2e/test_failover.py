"""An asynchronous standby that lagged takes over: what it never got is brought in again, and the old primary is refused."""

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
from tests.e2e.proxy import TcpProxy
from tests.e2e.standby import Standby, ask, both, follows, new_primary, removed_at_end
from tests.e2e.system import System
from tests.logins import ProcessLogins
from tests.waiting import until

NAME: Final = "standby_async"
SENDERS: Final = 8
HINTS: Final = 160
PER_SECOND: Final = 100
STREAM: Final = 1_500  # hints of a stream; it is under way for 15 s
SENDERS_OF_STREAM: Final = 32
SENT_SECONDS: Final = 240.0  # a deadline
EVENTS: Final = "SELECT count(*) FROM cardsync.events"


@pytest.fixture
def primary(services: Path) -> Iterator[EmbeddedPostgres]:
    with new_primary(services) as made:
        yield made


@pytest.fixture
def network(primary: EmbeddedPostgres) -> Iterator[TcpProxy]:
    """What the standby is reached through."""
    made = TcpProxy(("127.0.0.1", primary.port))
    yield made
    made.cut()


@pytest.fixture
def standby(services: Path, primary: EmbeddedPostgres, network: TcpProxy) -> Iterator[Standby]:
    made = Standby(services / f"standby-{secrets.token_hex(4)}", primary, name=NAME, port=network.port)
    with removed_at_end(made):
        made.start()
        until(lambda: follows(primary, NAME, state="async"), "it follows")
        yield made


@pytest.fixture
def system(tmp_path: Path, services: Path, primary: EmbeddedPostgres, standby: Standby) -> Iterator[System]:
    logins = ProcessLogins(primary)
    with valkey(services / f"valkey-{secrets.token_hex(4)}") as broker:
        data = (
            services / f"data-{secrets.token_hex(4)}"
        )  # in memory, if there is enough: on a busy disk hints would be refused
        made = System(tmp_path, both(primary, standby), broker, logins, CARDSYNC_DATA_DIR=str(data))
        try:
            for kind in ("worker", "beat", "web"):
                made.start(kind)
            yield made
            made.assert_nothing_leaked()
        finally:
            made.close()


def send(system: System, count: int) -> list[str]:
    hints = {customer: system.notification(customer)[0] for customer in (system.customer() for _ in range(count))}
    with ThreadPoolExecutor(SENDERS) as senders:
        answers = list(senders.map(system.post_hint, hints.values()))
    assert {(answer.status_code, answer.json()["status"]) for answer in answers} == {(200, "accepted")}
    return list(hints)


def test_a_promotion_after_a_lag_loses_no_hint_and_the_old_primary_is_refused(
    system: System, primary: EmbeddedPostgres, standby: Standby, network: TcpProxy
) -> None:
    early = send(system, SENDERS)
    system.until_active(*early)
    behind = ask(primary, EVENTS)
    until(lambda: ask(standby, EVENTS) == behind, "the standby has what there is")
    network.freeze()
    late = send(system, HINTS)
    assert ask(primary, EVENTS) == [(behind[0][0] + HINTS,)]
    assert ask(standby, EVENTS) == behind
    primary.kill()
    network.cut()
    standby.promote()
    system.until_active(*early, *late, seconds=120)
    system.processes["web"].says('"hints_brought_in"')  # a card may be active before the line is written

    # The old primary comes back, takes writes, and stands first in everybody's address.
    primary.start()
    before = ask(primary, EVENTS)
    for kind in ("worker", "beat", "web"):
        system.processes[kind].kill()
        system.start(kind)
    customers = send(system, SENDERS)

    def all_are_there() -> bool:
        named = ", ".join(f"'{customer}'" for customer in customers)
        found = ask(standby, f"SELECT customer_id FROM registry.active_cards WHERE customer_id IN ({named})")
        return len(found) == SENDERS

    until(all_are_there, "the new primary has them")
    assert ask(primary, EVENTS) == before
    alone = system.settings["CARDSYNC_DATABASE_URL"].partition("?")[0]
    only = f"{alone}?host=127.0.0.1&port={primary.port}"
    beat = system.start("beat", "beat-of-the-old", CARDSYNC_DATABASE_URL=only)
    beat.says("an old primary answers")
    system.end("beat-of-the-old")


def test_a_promotion_under_a_hundred_hints_a_second_loses_none_of_them(
    system: System, primary: EmbeddedPostgres, standby: Standby, network: TcpProxy
) -> None:
    customers = [system.customer() for _ in range(STREAM)]
    hints, began, answers = [system.notification(customer)[0] for customer in customers], time.monotonic(), []

    def send_in_turn(number: int) -> None:
        threading.Event().wait(began + number / PER_SECOND - time.monotonic())
        answers.append(system.post_hint(hints[number]).status_code)

    with ThreadPoolExecutor(SENDERS_OF_STREAM) as senders:
        sent = [senders.submit(send_in_turn, number) for number in range(STREAM)]
        until(lambda: ask(standby, EVENTS) > [(PER_SECOND,)], "the stream flows, and the standby follows")
        network.freeze()
        behind = ask(standby, EVENTS)[0][0]
        until(lambda: ask(primary, EVENTS)[0][0] >= behind + PER_SECOND // 2, "the standby lags")
        primary.kill()
        network.cut()
        standby.promote()
        assert len(answers) < STREAM, "the stream ended before the promotion"
        for one in sent:
            one.result(SENT_SECONDS)
    assert set(answers) == {200}
    system.until_active(*customers, seconds=SENT_SECONDS)
    system.processes["web"].says('"hints_brought_in"')
