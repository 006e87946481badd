"""A database that is frozen, cut off or swallowed by the network: nobody waits for it, and it is used again once it is back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import pytest
from flask import Flask
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from cardsync import db
from cardsync.lifelines import Lifelines
from cardsync.receive import Receipt
from cardsync.web.drainer import Drainer
from cardsync.web.keeping import Keeping
from cardsync.web.reach import INGEST_CONNECTIONS, WRITE_SECONDS
from cardsync.web.services import Services, services
from cardsync.web.webhook import Webhook
from tests import payloads
from tests.e2e.processes import until
from tests.e2e.proxy import TcpProxy

KEEP_SECONDS: Final = 3.0  # two are promised; the rest is a busy machine


@dataclass
class Place:
    """The keeping of one web process on a loop of its own, with a network before its database that can be cut."""

    network: TcpProxy
    here: Services
    loop: asyncio.AbstractEventLoop
    keeping: Keeping
    webhook: Webhook

    def keep(self, *customers: str) -> list[Receipt]:
        """Notifications of these customers arrive at once; none waits too long."""
        authentic = [self.webhook.examine(payloads.signed(payloads.save_card(customer))) for customer in customers]

        async def all_of_them() -> list[Receipt]:
            return list(await asyncio.gather(*map(self.keeping.keep, authentic)))

        began = time.monotonic()
        receipts = asyncio.run_coroutine_threadsafe(all_of_them(), self.loop).result(30)
        assert time.monotonic() - began < KEEP_SECONDS
        assert {receipt.status for receipt in receipts} == {"accepted"}
        return receipts


@pytest.fixture
def place(make_app: Callable[..., Flask], web_engine: Engine) -> Iterator[Place]:
    url = web_engine.url
    assert url.host is not None
    assert url.port is not None
    network = TcpProxy((url.host, url.port))
    through = url.set(port=network.port).render_as_string(hide_password=False)
    engine = db.make_engine(
        through, pool_size=INGEST_CONNECTIONS, statement_timeout_ms=int(WRITE_SECONDS * 1_000), autocommit=True
    )
    app = make_app(ingest_engine=engine)
    with app.app_context():
        here = services()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    webhook = Webhook(here)
    drainer = Drainer(here)
    yield Place(network, here, loop, Keeping(webhook, here.reach), webhook)
    drainer.close()
    network.cut()
    engine.dispose()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def stored(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        return {str(row) for row in connection.execute(text("SELECT event_id FROM cardsync.events")).scalars()}


def ids(receipts: list[Receipt]) -> set[str]:
    return {str(receipt.event_id) for receipt in receipts}


def test_while_the_network_swallows_all_nobody_waits_and_all_is_stored_afterwards(place: Place, engine: Engine) -> None:
    answered = ids(place.keep("cust-0"))
    assert stored(engine) == answered
    place.network.freeze()
    answered |= ids(place.keep(*(f"cust-{n}" for n in range(1, 40))))
    assert not place.here.reach.is_there
    began = time.monotonic()
    for n in range(10):  # a second each, if they asked the database
        answered |= ids(place.keep(f"later-{n}"))
    assert time.monotonic() - began < KEEP_SECONDS
    assert len(place.here.spool.waiting()) == 49
    place.network.thaw()
    until(lambda: place.here.reach.is_there and not place.here.spool.waiting(), "it is drained")
    assert stored(engine) == answered
    place.keep("cust-41")
    assert place.here.spool.waiting() == []


def test_a_network_that_was_cut_heals_by_itself(place: Place, engine: Engine) -> None:
    answered = ids(place.keep("cust-0"))
    place.network.cut()
    answered |= ids(place.keep("cust-1", "cust-2"))
    place.network.join()
    until(lambda: not place.here.spool.waiting(), "it is drained")
    assert stored(engine) == answered


def test_a_drain_that_the_network_swallows_is_begun_again(place: Place, engine: Engine) -> None:
    answered = ids(place.keep("cust-0"))
    with engine.begin() as connection:  # the drain's statement waits for this, and then hangs on the network
        connection.execute(text("LOCK TABLE cardsync.events IN ACCESS EXCLUSIVE MODE"))
        receipts = place.webhook.set_down([place.webhook.examine(payloads.signed(payloads.save_card("cust-1")))])
        answered |= ids(receipts)
        waits = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND pid <> pg_backend_pid()")
        until(lambda: connection.execute(waits).scalar_one(), "the drain waits")
        place.network.freeze()
        until(lambda: not place.here.reach.is_there, "it is freed")
    place.network.thaw()
    until(lambda: not place.here.spool.waiting(), "it is drained")
    assert stored(engine) == answered


def test_a_table_that_somebody_locks_delays_nobody(place: Place, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("LOCK TABLE cardsync.events IN ACCESS EXCLUSIVE MODE"))
        answered = ids(place.keep("cust-0", "cust-1"))
        assert not place.here.reach.is_there
    until(lambda: not place.here.spool.waiting(), "it is drained")
    assert stored(engine) == answered


def test_what_waits_on_disk_is_rung_for_once_it_is_a_row(place: Place, engine: Engine) -> None:
    place.network.cut()
    (receipt,) = place.keep("cust-0")
    assert place.here.bells.events == []  # type: ignore[attr-defined]
    place.network.join()
    until(lambda: place.here.bells.events == [receipt.event_id], "it is rung for")  # type: ignore[attr-defined]


def test_only_what_is_in_use_for_too_long_is_cut(database_url: str) -> None:
    engine = db.make_engine(database_url, autocommit=True)
    lifelines = Lifelines(engine)
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        assert lifelines.cut(in_use_seconds=60) == 0
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
    assert lifelines.cut(in_use_seconds=0) == 0  # given back: nobody hangs on it
    errors: list[BaseException] = []

    def hang() -> None:
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT pg_sleep(4)"))
        except OperationalError as error:
            errors.append(error)

    hanging = threading.Thread(target=hang)
    hanging.start()
    until(lambda: lifelines.cut(in_use_seconds=0.1) == 1, "it is cut")
    hanging.join(3)
    assert not hanging.is_alive()
    assert [type(error).__name__ for error in errors] == ["OperationalError"]
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
    engine.dispose()
