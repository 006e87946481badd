"""Readers who want a fresh list: what one call serves, and what it does not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import Engine

from cardsync import db
from cardsync.bells import Bells
from cardsync.errors import OttuFault
from cardsync.stories.refresh import Served, Wanted, refresh
from tests.stories.shop import Shop, listed
from tests.waiting import until

READERS = 50
SECONDS = 120.0


class Places(threading.BoundedSemaphore):
    """Places for waiting, that count who took one."""

    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.taken = 0

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        got = super().acquire(blocking, timeout)
        self.taken += got
        return got


class Workers:
    """Bells that workers answer, each on a thread of its own."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self.pool = ThreadPoolExecutor(4)
        self.rung = 0

    are_in_vain = False

    def ring(self) -> None:
        self.rung += 1
        for row in self._shop.execute("SELECT id FROM cardsync.customers WHERE due_at <= clock_timestamp()"):
            self.pool.submit(self._answer, row.id)

    def _answer(self, customer: int) -> None:
        while self._shop.reconcile(customer).again:
            pass


class Silence(Workers):
    """Bells that nobody answers."""

    def _answer(self, customer: int) -> None:
        pass


@pytest.fixture
def workers(shop: Shop) -> Iterator[Workers]:
    shop.policy = replace(shop.policy, call_seconds=SECONDS)  # a ticket outlasts a call during which fifty readers come
    made = Workers(shop)
    yield made
    made.pool.shutdown()


@pytest.fixture
def webs(database_url: str) -> Iterator[list[Engine]]:
    """The engines of two web processes."""
    made = [db.make_engine(database_url, pool_size=10) for _ in range(2)]
    yield made
    for engine in made:
        engine.dispose()


def read(
    engine: Engine, bells: Bells, places: Places, max_age_seconds: int = 60, wait_seconds: float = SECONDS
) -> Served:
    wanted = Wanted("sandbox", "cust-1", max_age_seconds)
    return refresh(engine, wanted, bells=bells, places=places, wait_seconds=wait_seconds)


def test_fifty_readers_in_two_processes_cost_one_call(shop, workers, webs):
    """Some come before the call, the others while it is under way."""
    shop.ottu.cards = listed("9999000000000001")
    places = Places(READERS)
    with ThreadPoolExecutor(READERS) as readers:
        answers = []

        def the_others_come() -> None:
            answers.extend(readers.submit(read, webs[n % 2], workers, places) for n in range(READERS - 20))
            until(lambda: places.taken == READERS, "every reader waits")

        shop.ottu.meanwhile = the_others_come
        answers.extend([readers.submit(read, webs[n % 2], workers, places) for n in range(20)])
        until(lambda: len(answers) == READERS, "every reader has asked")
        served = {answer.result(SECONDS) for answer in answers}
    assert served == {"waited"}
    assert shop.ottu.calls == 1
    assert shop.cards() == {"9999000000000001": "active"}
    assert read(webs[0], workers, places) == "fresh"


def test_a_call_that_began_before_a_reader_serves_it_only_within_its_max_age(shop, workers, webs):
    places = Places(READERS)
    with ThreadPoolExecutor(3) as readers:
        late = []

        def others_come() -> None:
            shop.execute("UPDATE cardsync.customers SET asked_at = asked_at - interval '100 seconds'")
            late.extend(readers.submit(read, webs[1], workers, places, age) for age in (0, 200))
            until(lambda: places.taken == 3, "three readers wait")
            until(lambda: shop.customer().dirty_no > shop.customer().ticket_no, "a list is asked for again")

        shop.ottu.meanwhile = others_come
        assert readers.submit(read, webs[0], workers, places, 0).result(SECONDS) == "waited"
        assert [answer.result(SECONDS) for answer in late] == ["waited", "waited"]
    assert shop.ottu.calls == 2


def test_a_reader_is_served_by_a_call_that_takes_longer_than_its_max_age(shop, workers, webs):
    """Asked for within a second of the read; believed when it is older than that."""
    places = Places(1)
    shop.ottu.meanwhile = lambda: shop.execute(
        "SELECT pg_sleep(greatest(0, extract(epoch FROM asked_at + interval '1.1 seconds' - clock_timestamp()))) "
        "FROM cardsync.customers"
    )
    assert read(webs[0], workers, places, max_age_seconds=1) == "waited"
    assert shop.ottu.calls == 1


def test_a_reader_does_not_ask_again_for_what_was_believed_while_it_came(shop, webs):
    bells = Silence(shop)
    customer = shop.hint()[0]

    class Late(Places):
        """It is believed after the reader looked, and before it marks."""

        def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
            shop.reconcile(customer)
            return super().acquire(blocking, timeout)

    assert read(webs[0], bells, Late(1)) == "waited"
    assert (bells.rung, shop.ottu.calls) == (0, 1)


def test_a_call_that_fails_ends_the_wait_of_all_who_share_it(shop, workers, webs):
    shop.ottu.error = OttuFault("500")
    places = Places(8)
    shop.ottu.meanwhile = lambda: until(lambda: places.taken == 8, "all eight wait")
    with ThreadPoolExecutor(8) as readers:
        served = list(readers.map(lambda n: read(webs[n % 2], workers, places), range(8)))
    assert set(served) == {"stale"}
    assert shop.ottu.calls <= 2  # the first's failure, and a retry that fell due meanwhile


def test_who_finds_no_place_to_wait_makes_nobody_known(shop, webs):
    bells = Silence(shop)
    nowhere = Places(1)
    assert nowhere.acquire(blocking=False)
    assert read(webs[0], bells, nowhere) == "crowded"
    assert shop.execute("SELECT count(*) FROM cardsync.customers")[0].count == 0
    nowhere.release()
    assert read(webs[0], bells, nowhere, wait_seconds=0) == "stale"
    assert (bells.rung, shop.customer().lane) == (1, "read")


def test_who_finds_no_place_to_wait_gets_what_is_known_and_asks_for_no_further_call(shop, webs):
    bells = Silence(shop)
    nowhere = Places(1)
    shop.execute("INSERT INTO cardsync.customers (environment, customer_id) VALUES ('sandbox', 'cust-1')")
    assert nowhere.acquire(blocking=False)
    assert [read(webs[0], bells, nowhere) for _ in range(5)] == ["crowded"] * 5
    assert bells.rung == 1
    assert shop.customer().lane == "read"


def test_a_reader_does_not_share_a_sweeps_turn_that_may_be_far_off(shop, webs):
    bells = Silence(shop)
    shop.execute(
        "INSERT INTO cardsync.customers (environment, customer_id, due_at, lane, rung_at)"
        " VALUES ('sandbox', 'cust-1', clock_timestamp(), 'sweep', clock_timestamp())"
    )
    assert read(webs[0], bells, Places(1), wait_seconds=0) == "stale"
    assert (bells.rung, shop.customer().lane) == (1, "read")
