"""A server that acknowledges and never answers holds no thread for ever, and a commit that waits for a standby is left alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, make_url, text
from sqlalchemy.exc import OperationalError

from cardsync import db
from cardsync.db import session
from cardsync.db.connection_watchdog import WatchdogThread
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.store.ops import replication
from tests.e2e.proxy import TcpProxy
from tests.e2e.standby import set_and_reload
from tests.waiting import until

SILENT_SECONDS = 0.5
COMMIT_SECONDS = 3.0  # every commit waits for a standby for a moment: one that waits is a second old
ENDS_SECONDS = 60.0  # a deadline: without a watchdog it is for ever


@pytest.fixture
def network(database_url: str) -> Iterator[TcpProxy]:
    address = make_url(database_url)
    made = TcpProxy((str(address.host), int(address.port or 0)))
    yield made
    made.cut()


@pytest.fixture
def through(database_url: str, network: TcpProxy) -> str:
    return make_url(database_url).set(port=network.port).render_as_string(hide_password=False)


class Asking(threading.Thread):
    """One statement on a thread, and how it ended."""

    def __init__(self, engine: Engine, statement: str) -> None:
        super().__init__(daemon=True)
        self._engine, self._statement = engine, statement
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            with self._engine.begin() as connection:
                connection.execute(text(self._statement))
        except Exception as error:  # noqa: BLE001  (a thread's border)
            self.error = error


def test_a_thread_that_asks_a_silent_server_is_freed_and_the_next_one_gets_its_answer(
    through: str, network: TcpProxy
) -> None:
    engine = db.make_engine(through)
    watchdog = WatchdogThread(engine, place=None, silent_seconds=SILENT_SECONDS)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
    network.lose()
    asking = Asking(engine, "SELECT 1")
    asking.join(ENDS_SECONDS)
    assert not asking.is_alive()
    assert isinstance(asking.error, OperationalError)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
    watchdog.close()
    engine.dispose()


def test_a_long_transaction_of_short_statements_is_not_cut(database_url: str) -> None:
    engine = db.make_engine(database_url)
    watchdog = WatchdogThread(engine, place=None, silent_seconds=SILENT_SECONDS)
    with engine.begin() as connection:
        for _ in range(20):
            connection.execute(text("SELECT pg_sleep(0.1)"))
    with db.pipelined(engine) as pipeline:
        for _ in range(20):
            pipeline.execute(text("SELECT pg_sleep(0.1)")).one()
    watchdog.close()
    engine.dispose()


def test_a_server_that_is_silent_right_after_it_let_us_in_is_given_up(
    through: str, network: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = session.Sessions(lambda: through, name="silent", settings={"statement_timeout": "5000"})
    connect: Callable[[Any], psycopg.Connection[Any]] = sessions._connect

    def let_in(address: Any) -> psycopg.Connection[Any]:
        made = connect(address)
        network.lose()
        return made

    monkeypatch.setattr(sessions, "_connect", let_in)
    monkeypatch.setattr(session, "ANSWER_SECONDS", SILENT_SECONDS)
    with pytest.raises(psycopg.OperationalError) as caught:
        sessions.open()
    assert db.why(caught.value) == "no answer in time"


def test_a_commit_that_waits_for_a_standby_is_not_cut_and_leaves_no_session_behind(
    database_url: str, postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, asked = db.make_engine(database_url), threading.Event()
    place = db.Place(lambda: database_url, tmp_path)
    watchdog = WatchdogThread(engine, place=place, silent_seconds=COMMIT_SECONDS)
    commits_wait = watchdog._commits_wait

    def asks() -> bool:
        found = commits_wait()
        if found:
            asked.set()
        return found

    monkeypatch.setattr(watchdog, "_commits_wait", asks)
    set_and_reload(postgres, synchronous_standby_names="nobody")
    try:
        asking = Asking(engine, "CREATE TABLE public.waits ()")
        with db.make_engine(database_url).connect() as connection:
            until(lambda: replication.commits_that_wait(connection, longer_than_seconds=1), "the commit waits")
        assert asked.wait(ENDS_SECONDS)
        assert asking.is_alive()
    finally:
        set_and_reload(postgres, synchronous_standby_names="")
    asking.join(ENDS_SECONDS)
    assert (asking.is_alive(), asking.error) == (False, None)
    watchdog.close()
    engine.dispose()
