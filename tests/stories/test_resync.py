"""A full resync: which customers are looked at, what stops it, and where it goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from cardsync.errors import OttuFault, OttuRejected, Superseded
from cardsync.store import customers, schedule
from cardsync.store.ops import resyncs
from cardsync.stories import resync as story
from cardsync.stories.resync import ResyncPolicy, ResyncResult, Step, begin, resync, seconds_to_go
from tests.factories import ESTIMATE
from tests.stories.shop import POLICY, Shop, listed

SECONDS = 120.0


@dataclass
class Walking:
    """A shop whose customers are walked over, by two threads, in pages of ten."""

    shop: Shop
    daily_calls: int = 1_000

    def make_known(self, count: int, first: int = 0) -> None:
        with self.shop.engine.begin() as connection:
            customers.add_known(connection, [("sandbox", f"cust-{n}") for n in range(first, first + count)])

    def resync(
        self,
        *,
        restart: bool = False,
        longest_wait_seconds: float | None = 0.0,
        stopping: threading.Event | None = None,
        told: Callable[[Step], None] = lambda _: None,
        threads: int = 2,
    ) -> ResyncResult:
        on, _ = begin(self.shop.engine, by="test", restart=restart)
        policy = ResyncPolicy(replace(POLICY, daily_calls=self.daily_calls), threads, longest_wait_seconds)
        stopping = stopping or threading.Event()
        deadline = threading.Timer(SECONDS, stopping.set)  # a resync that waits in vain fails, and does not hang
        deadline.start()
        try:
            return resync(self.shop.engine, self.shop.ottu, policy, on, stopping=stopping, told=told)
        finally:
            deadline.cancel()

    def asked_for(self) -> list[str]:
        return sorted(customer_id for _, customer_id in self.shop.ottu.asked_for)

    def free_the_budget(self) -> None:
        self.shop.execute("UPDATE cardsync.call_minutes SET minute = minute - interval '2 days'")


@pytest.fixture
def walking(shop: Shop, monkeypatch) -> Walking:
    monkeypatch.setattr(resyncs, "PAGE", 10)
    monkeypatch.setattr(story, "TELL_SECONDS", 0.05)
    return Walking(shop)


def test_everybody_is_looked_at_once(walking):
    walking.make_known(35)
    walking.shop.ottu.cards = listed("9999000000000001")
    walked = walking.resync()
    assert (walked.seen, walked.changed, walked.failed, walked.not_reached) == (35, 35, 0, 0)
    assert walked.stopped_because is None
    assert len(set(walking.asked_for())) == len(walking.asked_for()) == 35
    assert {r.lane for r in walking.shop.execute("SELECT lane FROM cardsync.observations")} == {"sweep"}


def test_a_walk_that_the_budget_stopped_goes_on_with_those_it_did_not_reach(walking):
    walking.make_known(34)
    walking.daily_calls = 20
    first = walking.resync()
    assert (first.seen, first.not_reached) == (17, 17)  # the sweeps' part of the budget, and not one call more
    assert first.stopped_because is not None
    assert first.stopped_because.startswith("BudgetSpent")
    walking.free_the_budget()
    second = walking.resync()
    assert (second.seen, second.not_reached, second.stopped_because) == (34, 0, None)
    assert len(set(walking.asked_for())) == len(walking.asked_for()) == 34


def test_a_walk_waits_while_the_budget_is_spent_and_says_so(walking):
    walking.make_known(12)
    walking.daily_calls = 10
    told: list[Step] = []

    def tell(step: Step) -> None:
        told.append(step)
        if step.waiting_because is not None and step.looked_at == 7:
            walking.free_the_budget()

    walked = walking.resync(longest_wait_seconds=None, told=tell)
    assert (walked.seen, walked.stopped_because) == (12, None)
    assert any("BudgetSpent" in (step.waiting_because or "") for step in told)


def test_a_waiting_walk_can_be_stopped(walking):
    walking.make_known(20)
    walking.daily_calls = 10
    stopping = threading.Event()

    def tell(step: Step) -> None:
        if step.waiting_because is not None:
            stopping.set()

    walked = walking.resync(longest_wait_seconds=None, stopping=stopping, told=tell, threads=4)
    assert (walked.seen, walked.stopped_because) == (7, "interrupted")


def test_whom_somebody_else_looked_at_since_the_walk_began_is_done(walking):
    walking.make_known(5)
    begin(walking.shop.engine, by="test", restart=False)
    for customer_id in ("cust-1", "cust-3"):
        assert walking.shop.reconcile(walking.shop.customer(customer_id).id, lane="hint").outcome == "unchanged"
    walked = walking.resync()
    assert walked.seen == 5
    assert len(walking.asked_for()) == 5


def test_who_becomes_known_later_is_no_part_of_the_walk(walking):
    walking.make_known(5)
    begin(walking.shop.engine, by="test", restart=False)
    walking.make_known(5, first=100)
    assert walking.resync().seen == 5
    assert len(walking.asked_for()) == 5


def test_a_walk_that_came_to_its_end_is_followed_by_a_new_one(walking):
    walking.make_known(5)
    walking.shop.ottu.error = OttuRejected("400", status_code=400)
    failed = walking.resync()
    assert (failed.seen, failed.failed, failed.not_reached) == (0, 5, 0)
    walking.shop.ottu.error = None
    assert not begin(walking.shop.engine, by="test", restart=False)[1]
    assert walking.resync().seen == 5


def test_many_failures_in_a_row_stop_a_walk_and_restart_begins_anew(walking):
    walking.make_known(100)
    walking.shop.ottu.error = OttuRejected("400", status_code=400)
    walked = walking.resync()
    assert walked.stopped_because is not None
    assert "in a row" in walked.stopped_because
    assert 20 <= walked.failed <= 22
    assert walked.not_reached == 100 - walked.failed
    first, _ = begin(walking.shop.engine, by="test", restart=False)
    second, resumed = begin(walking.shop.engine, by="test", restart=True)
    assert (second.walk_id > first.walk_id, resumed) == (True, False)


def test_a_walk_whom_the_breaker_stops_says_that_ottu_is_down_and_tries_no_further(walking):
    walking.make_known(100)
    walking.shop.ottu.error = OttuFault("500")
    walked = walking.resync()
    assert walked.stopped_because == "CallsPaused: calls are paused: Ottu is down"
    assert 3 <= walked.failed <= 4


def test_a_walk_that_another_one_replaced_ends(walking):
    walking.make_known(50)
    walking.shop.ottu.meanwhile = lambda: begin(walking.shop.engine, by="other", restart=True)
    with pytest.raises(Superseded):
        walking.resync()
    assert len(walking.asked_for()) < 50


def test_hints_and_their_retries_keep_their_lane_and_a_back_off_is_cut_short(walking):
    walking.shop.hint("cust-0")
    walking.make_known(2)
    walking.shop.execute(
        "UPDATE cardsync.customers SET failures = 3, lane = 'retry', due_at = now() + interval '1 hour'"
        " WHERE customer_id = 'cust-1'"
    )
    assert walking.resync().seen == 2
    lanes = walking.shop.execute(
        "SELECT c.customer_id, o.lane FROM cardsync.observations AS o JOIN cardsync.customers AS c ON c.id = o.customer"
    )
    assert {tuple(row) for row in lanes} == {("cust-0", "hint"), ("cust-1", "retry")}


def test_a_thread_that_loses_the_database_ends_the_walk_with_its_error(walking, monkeypatch):
    walking.make_known(30)

    def lose(*_: object, **__: object) -> bool:
        raise ConnectionError("lost")

    monkeypatch.setattr(resyncs, "make_due", lose)
    with pytest.raises(ConnectionError):
        walking.resync()


def test_two_walks_at_once_are_one(walking):
    walking.make_known(40)
    began = [begin(walking.shop.engine, by=f"test {n}", restart=False) for n in range(2)]
    assert [resumed for _, resumed in began] == [False, True]
    results: list[ResyncResult] = []
    threads = [threading.Thread(target=lambda: results.append(walking.resync())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert [walked.seen for walked in results] == [40, 40]
    assert len(walking.asked_for()) == 40


def test_a_ticket_that_a_worker_holds_is_waited_for_and_what_it_asked_before_is_asked_again(walking):
    walking.make_known(1)
    engine = walking.shop.engine
    with engine.begin() as connection:
        schedule.take_turns(connection, [customer := walking.shop.customer("cust-0").id])
        held = customers.take_ticket(connection, customer, lease_seconds=60)
    assert held is not None
    told: list[Step] = []

    def tell(step: Step) -> None:
        told.append(step)
        if len(told) == 3:
            assert walking.asked_for() == []
            with engine.begin() as connection:
                customers.settle(connection, held, ESTIMATE, look_again_seconds=None, removals_held=False)

    assert walking.resync(told=tell).seen == 1
    assert walking.asked_for() == ["cust-0"]


def test_the_time_to_go_is_that_of_the_pace_or_of_the_budget():
    assert seconds_to_go(0, looks_a_second=0, calls_left=0, daily_calls=100) == 0
    assert seconds_to_go(100, looks_a_second=0, calls_left=100, daily_calls=100) is None
    assert seconds_to_go(100, looks_a_second=10, calls_left=100, daily_calls=90_000) == 10
    beyond = seconds_to_go(1_000_000, looks_a_second=20, calls_left=81_000, daily_calls=90_000)
    assert beyond is not None
    assert 11 < beyond / 86_400 < 12
