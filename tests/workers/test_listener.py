"""Every request for a deletion is rung for at once; a lost connection is made again, and nothing is missed."""

from __future__ import annotations

import queue
import threading
import uuid
from collections.abc import Iterator

import pytest
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import ProgrammingError
from structlog.testing import capture_logs

from cardsync import db
from cardsync.store.deletions import requests, transitions
from tests.factories import CustomerFactory, make_card
from tests.waiting import until
from workers import listener as listeners
from workers.listener import Listener

SECONDS = 60  # a deadline: only a bug takes so long
pytestmark = pytest.mark.usefixtures("bound_factories")


@pytest.fixture(autouse=True)
def _patient_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked is whether a thread ends, and not how fast a busy machine is."""
    monkeypatch.setattr(listeners, "CLOSE_SECONDS", SECONDS)


@pytest.fixture
def heard() -> queue.Queue[uuid.UUID]:
    return queue.Queue()


@pytest.fixture
def listener(database_url: str, heard: queue.Queue[uuid.UUID]) -> Iterator[Listener]:
    made = listen(database_url, heard)
    yield made
    made.close()


def listen(database_url: str, heard: queue.Queue[uuid.UUID]) -> Listener:
    worker = db.make_engine(database_url, name="the hand", pool_size=1)

    def wake() -> None:
        with worker.begin() as connection:
            for deletion_id in transitions.claim(connection, limit=100):
                heard.put(deletion_id)

    return Listener(db.make_engine(database_url, name="the ear", pool_size=1, autocommit=True), wake)


def listening(engine: Engine) -> list[int]:
    """The sessions that listen, and look."""
    with engine.connect() as connection:
        statement = """SELECT pid FROM pg_stat_activity WHERE application_name = 'the ear'
                       AND (query LIKE '%cardsync.deletions%' OR query LIKE '%number_changes%')"""
        return list(connection.execute(text(statement)).scalars())


def ask(engine: Engine) -> uuid.UUID:
    card = make_card(CustomerFactory()).card_id
    with engine.begin() as connection:
        return requests.request(connection, card_id=card, requested_by="crm").deletion_id


def test_a_request_is_rung_for_at_its_commit(engine: Engine, listener: Listener, heard: queue.Queue[uuid.UUID]) -> None:
    until(lambda: bool(listening(engine)), "it listens")
    assert [ask(engine) for _ in range(3)] == [heard.get(timeout=SECONDS) for _ in range(3)]


def test_what_is_no_deletion_is_nothing_to_it(
    engine: Engine, listener: Listener, heard: queue.Queue[uuid.UUID]
) -> None:
    until(lambda: bool(listening(engine)), "it listens")
    with engine.begin() as connection:
        connection.execute(text("NOTIFY cardsync_deletions, 'nonsense'"))
    assert ask(engine) == heard.get(timeout=SECONDS)


def test_a_lost_connection_is_made_again_and_what_became_due_is_rung_for(
    engine: Engine, listener: Listener, heard: queue.Queue[uuid.UUID]
) -> None:
    until(lambda: bool(listening(engine)), "it listens")
    (before,) = listening(engine)
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": before})
    until(lambda: before not in listening(engine), "its connection is gone")
    missed = ask(engine)
    assert heard.get(timeout=SECONDS) == missed
    until(lambda: bool(listening(engine)), "it listens")
    later = ask(engine)
    assert heard.get(timeout=SECONDS) == later


def test_a_database_that_is_away_is_waited_for_with_a_growing_wait(
    heard: queue.Queue[uuid.UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cardsync.dev.servers.ports import free_port

    monkeypatch.setattr(listeners, "FIRST_WAIT_SECONDS", 0.01)
    away = listen(f"postgresql://nobody@127.0.0.1:{free_port()}/none", heard)
    away.close()
    assert not away._thread.is_alive()
    assert heard.empty()


def test_a_database_that_refuses_the_look_is_one_line_and_one_when_it_takes_it_again(
    heard: queue.Queue[uuid.UUID], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login that lost a right is let in, and may listen."""
    monkeypatch.setattr(listeners, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(listeners, "LONGEST_WAIT_SECONDS", 0.001)
    looks: list[bool] = []
    refuses = threading.Event()
    refuses.set()

    def look(connection: Connection) -> None:
        looks.append(refuses.is_set())
        if refuses.is_set():
            raise ProgrammingError("SELECT", {}, InsufficientPrivilege())

    monkeypatch.setattr(listeners.feed, "number_waiting", look)
    with capture_logs() as lines:
        made = listen(database_url, heard)
        until(lambda: looks.count(True) > 5, "it looked again and again")
        refuses.clear()
        until(lambda: looks.count(False) > 1, "it looks in peace")
        made.close()
    assert [(line["event"], line.get("why")) for line in lines] == [
        ("listener_lost_the_database", "permission denied"),
        ("listener_lost_the_database_ended", None),
        ("listening", None),
    ]
    assert lines[1]["repeated"] == looks.count(True) - 1


def test_closing_ends_it(engine: Engine, database_url: str, heard: queue.Queue[uuid.UUID]) -> None:
    made = listen(database_url, heard)
    until(lambda: bool(listening(engine)), "it listens")
    made.close()
    assert not made._thread.is_alive()
    until(lambda: not listening(engine), "it listens no more")
