"""A synchronous standby that goes away: commits wait for it, hints go to disk, and nothing piles up until it is back."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from cardsync.dev.servers.postgres import EmbeddedPostgres
from tests.e2e.brokers import valkey
from tests.e2e.standby import Standby, ask, new_primary, new_synchronous_standby, set_and_reload
from tests.e2e.system import System
from tests.e2e.timing import timed
from tests.logins import ProcessLogins
from tests.waiting import until

NAME: Final = "standby_one"
ANSWER_SECONDS: Final = 12.0  # Ottu gives up after fifteen
WATCHED_SECONDS: Final = 6.0  # a breaker that is fooled says "back" within half a second
# A writer, its second try, a drain and a probe, and as many for what web, worker and beat do besides.
LEFT_BEHIND: Final = 16


@pytest.fixture(scope="module")
def primary(services: Path) -> Iterator[EmbeddedPostgres]:
    with new_primary(services) as made:
        yield made


@pytest.fixture
def standby(services: Path, primary: EmbeddedPostgres) -> Iterator[Standby]:
    with new_synchronous_standby(services, primary, NAME) as made:
        yield made
        set_and_reload(primary, synchronous_standby_names="")


@pytest.fixture
def system(tmp_path: Path, services: Path, primary: EmbeddedPostgres) -> Iterator[System]:
    with valkey(services / f"valkey-{secrets.token_hex(4)}") as broker:
        data = (
            services / f"data-{secrets.token_hex(4)}"
        )  # in memory, if there is enough: on a busy disk hints would be refused
        made = System(tmp_path, primary.url, broker, ProcessLogins(primary), CARDSYNC_DATA_DIR=str(data))
        try:
            for kind in ("worker", "beat", "web"):
                made.start(kind)
            yield made
            made.assert_nothing_leaked()
        finally:
            made.close()


def waiting(primary: EmbeddedPostgres) -> int:
    return len(ask(primary, "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"))


def told(system: System, event: str) -> int:
    return system.processes["web"].output().count(f'"{event}"')


def test_while_the_standby_is_away_the_database_stays_lost_and_no_sessions_pile_up(
    system: System, primary: EmbeddedPostgres, standby: Standby
) -> None:
    first, reader = system.customer(), system.key("cards:read")
    system.save_card(first)
    system.until_active(first)
    # A machine that stood still for a second may have had the web lose the database, and find it again.
    until(lambda: told(system, "database_back") == told(system, "database_lost"), "the database is there")
    before = told(system, "database_lost")
    standby.kill()
    hints: dict[str, bytes] = {}
    most = 0
    began = time.monotonic()
    with ThreadPoolExecutor(4) as senders:
        while time.monotonic() - began < WATCHED_SECONDS or not told(system, "database_waits_for_standby"):
            assert time.monotonic() - began < 10 * WATCHED_SECONDS, "the web does not see that commits wait"
            customers = [system.customer() for _ in range(4)]
            sent = {customer: system.notification(customer)[0] for customer in customers}
            hints |= sent
            for answer, seconds in senders.map(lambda content: timed(system, content), sent.values()):
                assert answer.json()["status"] == "accepted"
                assert seconds < ANSWER_SECONDS
            assert system.get("/v1/cards", reader, environment="sandbox", customer_id=first).status_code == 503
            most = max(most, waiting(primary))

    def is_told() -> bool:  # on a slow machine one question may come to no answer in time
        ready = system.get("/readyz").json()
        return (ready["status"], ready["checks"]["database"]) == ("degraded", "waits for its synchronous standby")

    until(is_told, "the web says what it waits for")
    assert (told(system, "database_lost"), told(system, "database_back")) == (before + 1, before)
    assert 0 < most <= LEFT_BEHIND
    standby.start()
    until(lambda: told(system, "database_back") == before + 1, "the database is back")
    system.until_active(*hints)
    until(lambda: waiting(primary) == 0, "nobody waits")
    assert told(system, "database_lost") == before + 1
