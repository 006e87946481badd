"""A database that is frozen, cut off or swallowed by the network: nobody waits for it, and it is used again once it is back."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import pytest
from flask import Flask
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError
from werkzeug.test import Client

from cardsync import db
from cardsync.ciphers import KeyRing
from cardsync.db.connection_watchdog import ConnectionWatchdog
from cardsync.stories.receive import WebhookKeys, examine, write_to_spool
from cardsync.web import create_drainer
from cardsync.web.database_breaker import INGEST_CONNECTIONS, WRITE_SECONDS
from cardsync.web.ingest import endpoint
from cardsync.web.ingest.endpoint import PATH
from cardsync.web.services import Services
from tests import payloads
from tests.e2e.proxy import TcpProxy
from tests.waiting import until
from tests.web.conftest import SECRET
from tests.web.served import Served

KEYS: Final = WebhookKeys.of([payloads.KEY], KeyRing(SECRET.encode()))
KEEP_SECONDS: Final = 45.0  # a deadline: a network that swallows all holds for minutes


@dataclass
class Place:
    """One web process, reached by either way in, with a network before its database that can be cut."""

    network: TcpProxy
    here: Services
    client: Client

    def keep(self, *customers: str) -> set[str]:
        """Notifications of these customers arrive at once; none waits too long. Returns the ids of their events."""

        def send(customer: str) -> str:
            body = payloads.signed(payloads.save_card(customer))
            began = time.monotonic()
            answer = self.client.post(PATH, data=body, content_type="application/json")
            assert time.monotonic() - began < KEEP_SECONDS
            assert (answer.status_code, answer.json["status"]) == (200, "accepted")
            return str(answer.json["event_id"])

        with ThreadPoolExecutor(len(customers)) as senders:
            return set(senders.map(send, customers))

    def store(self, customer: str) -> set[str]:
        """A notification of this customer becomes a row, by way of the disk if a busy machine has no second for it."""
        kept = self.keep(customer)
        until(lambda: self.here.database_breaker.is_closed and not self.here.spool.waiting(), "it is a row")
        return kept


@pytest.fixture
def place(
    make_app: Callable[..., Flask], way_in: str, web_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    """A process with the database's own limit; the disk has all the time that it needs."""
    url = web_engine.url
    assert url.host is not None
    assert url.port is not None
    network = TcpProxy((url.host, url.port))
    through = url.set(port=network.port).render_as_string(hide_password=False)
    engine = db.make_engine(
        through, pool_size=INGEST_CONNECTIONS, statement_timeout_ms=int(WRITE_SECONDS * 1_000), autocommit=True
    )
    app = make_app(ingest_engine=engine)
    monkeypatch.setattr(endpoint, "WRITE_SECONDS", WRITE_SECONDS)
    here = Services.of_app(app)
    drainer = create_drainer(app)
    yield Place(network, here, Client(Served(app) if way_in == "served" else app))
    drainer.close()
    network.cut()
    engine.dispose()


def stored(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        return {str(row) for row in connection.execute(text("SELECT event_id FROM cardsync.events")).scalars()}


def test_while_the_network_swallows_all_nobody_waits_and_all_is_stored_afterwards(place: Place, engine: Engine) -> None:
    answered = place.store("cust-0")
    assert stored(engine) == answered
    place.network.freeze()
    answered |= place.keep(*(f"cust-{n}" for n in range(1, 40)))
    assert not place.here.database_breaker.is_closed
    began = time.monotonic()
    for n in range(10):  # a second each, if they asked the database
        answered |= place.keep(f"later-{n}")
    assert time.monotonic() - began < KEEP_SECONDS
    assert place.here.spool.state().waiting == 49
    place.network.thaw()
    until(lambda: place.here.database_breaker.is_closed and not place.here.spool.waiting(), "it is drained")
    assert stored(engine) == answered
    answered |= place.store("cust-41")
    assert stored(engine) == answered


def test_a_network_that_was_cut_heals_by_itself(place: Place, engine: Engine) -> None:
    answered = place.store("cust-0")
    place.network.cut()
    answered |= place.keep("cust-1", "cust-2")
    place.network.join()
    until(lambda: not place.here.spool.waiting(), "it is drained")
    assert stored(engine) == answered


def test_a_drain_that_the_network_swallows_is_begun_again(place: Place, engine: Engine) -> None:
    answered = place.store("cust-0")
    with engine.begin() as connection:  # the drain's statement waits for this, and then hangs on the network
        connection.execute(text("LOCK TABLE cardsync.events IN ACCESS EXCLUSIVE MODE"))
        one = examine(payloads.signed(payloads.save_card("cust-1")), KEYS)
        answered |= {str(r.event_id) for r in write_to_spool(place.here.spool, [one], now=dt.datetime.now(dt.UTC))}
        waits = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND pid <> pg_backend_pid()")
        until(lambda: connection.execute(waits).scalar_one(), "the drain waits")
        place.network.freeze()
        until(lambda: not place.here.database_breaker.is_closed, "it is freed")
    place.network.thaw()
    until(lambda: not place.here.spool.waiting(), "it is drained")
    assert stored(engine) == answered


def test_a_table_that_somebody_locks_delays_nobody(place: Place, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("LOCK TABLE cardsync.events IN ACCESS EXCLUSIVE MODE"))
        answered = place.keep("cust-0", "cust-1")
        assert not place.here.database_breaker.is_closed
    until(lambda: not place.here.spool.waiting(), "it is drained")
    assert stored(engine) == answered


def test_what_waits_on_disk_is_rung_for_once_it_is_a_row(place: Place, engine: Engine) -> None:
    place.network.cut()
    place.keep("cust-0")
    assert place.here.bells.rung == 0  # type: ignore[attr-defined]
    place.network.join()
    until(lambda: place.here.bells.rung == 1, "it is rung for")  # type: ignore[attr-defined]


def test_only_what_is_in_use_for_too_long_is_cut(database_url: str) -> None:
    engine = db.make_engine(database_url, statement_timeout_ms=600_000, autocommit=True)
    watchdog = ConnectionWatchdog(engine)
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        assert watchdog.cut(in_use_seconds=60) == 0
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
    assert watchdog.cut(in_use_seconds=0) == 0  # given back: nobody hangs on it
    errors: list[BaseException] = []

    def hang() -> None:
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT pg_sleep(600)"))
        except OperationalError as error:
            errors.append(error)

    hanging = threading.Thread(target=hang)
    hanging.start()
    until(lambda: watchdog.cut(in_use_seconds=0.1) == 1, "it is cut")
    hanging.join(60)
    assert not hanging.is_alive()
    assert [type(error).__name__ for error in errors] == ["OperationalError"]
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
    engine.dispose()


def test_what_the_database_did_not_take_in_time_is_spooled_as_of_its_arrival(
    place: Place, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second passes before the disk is asked; a direct hint of that second must not count as older."""
    spooled_at: list[dt.datetime] = []

    def spool(*given: Any, **named: Any) -> Any:
        spooled_at.append(dt.datetime.now(dt.UTC))
        return write_to_spool(*given, **named)

    monkeypatch.setattr(endpoint, "write_to_spool", spool)
    place.store("cust-0")
    with engine.begin() as connection:
        connection.execute(text("LOCK TABLE cardsync.events IN ACCESS EXCLUSIVE MODE"))
        spooled_at.clear()
        place.keep("cust-1")
    until(lambda: not place.here.spool.waiting(), "it is drained")
    with engine.connect() as connection:
        received_at = connection.execute(
            text("SELECT received_at FROM cardsync.events WHERE customer_id = 'cust-1'")
        ).scalar_one()
    assert received_at < spooled_at[0] - dt.timedelta(seconds=WRITE_SECONDS / 2)
