"""Before a call: the budget's lanes, the pace after a 429, the breaker; what is told, and that nobody's attempts are used up.

On a real PostgreSQL, over the stand-in's world; time passes by shifting what is stored.
"""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from sqlalchemy import Engine

from cardsync import db
from cardsync.core.backoff import LONGEST_OF_A_CUSTOMER_SECONDS
from cardsync.core.throttle import SLOWEST_PER_SECOND
from cardsync.errors import CredentialsRefused, InvalidAnswer, OttuFault, OttuThrottled, OttuUnavailable
from cardsync.store.calls import gate
from cardsync.stories.delete import DeletePolicy, delete
from cardsync.stories.reconcile import Result, reconcile
from tests.factories import RING
from tests.machine import clock
from tests.stories.fake_ottu import DeletingShop, Fault
from tests.stories.shop import POLICY
from tests.waiting import WAIT_SECONDS

pytestmark = pytest.mark.usefixtures("still_clock")  # a busy machine may need longer than waits of two seconds

T1 = "9999000000000001"
OTHERS = tuple(f"cust-{n}" for n in range(2, 8))


@pytest.fixture
def shop(engine: Engine, ingest_engine: Engine, web_engine: Engine, worker_engine: Engine) -> DeletingShop:
    return DeletingShop(engine, ingest_engine, web_engine, worker_engine)


def state(engine: Engine) -> gate.GateState:
    with engine.connect() as connection:
        return gate.state(connection)


def due(shop: DeletingShop, *customer_ids: str) -> list[int]:
    """Customers with a hint that has just come."""
    return [shop.hint(customer_id, session_id=customer_id.ljust(40, "0"))[0] for customer_id in customer_ids]


def go_down(shop: DeletingShop) -> None:
    """Ottu goes away, and three customers' calls find it out."""
    for call in ("list", "delete"):
        shop.desk.always[call] = lambda: OttuUnavailable("no answer")
    for customer in due(shop, "down-1", "down-2", "down-3"):
        assert shop.look(customer).outcome == "failed"
    assert state(shop.engine).reason == "down"


# The breaker.


def test_when_ottu_is_down_calls_stop_for_everybody_and_hints_are_still_taken(shop: DeletingShop) -> None:
    go_down(shop)
    made = shop.desk.lists
    for customer in due(shop, *OTHERS):
        assert shop.look(customer).outcome == "paused"
    assert shop.desk.lists == made
    waiting = shop.execute(
        "SELECT failures, lane FROM cardsync.customers WHERE customer_id = ANY(:ids)", ids=list(OTHERS)
    )
    assert waiting == [(0, "hint")] * len(OTHERS)


def test_an_hour_of_outage_costs_few_calls_and_then_everybody_goes_on(shop: DeletingShop) -> None:
    go_down(shop)
    made = shop.desk.lists
    due(shop, *OTHERS)
    shop.work_for(3_600, step=10)
    assert 3_600 / 30 <= shop.desk.lists - made <= 3_600 / 20 + 10  # one in 20 s, but for the first
    failures = shop.execute("SELECT sum(failures)::int AS n FROM cardsync.customers")[0].n
    assert failures == shop.desk.lists  # those that were not called have failed nobody
    shop.desk.always.clear()
    shop.work_for(60)
    assert state(shop.engine).reason is None
    calm = shop.execute("SELECT 1 FROM cardsync.customers WHERE last_error LIKE 'CallsPaused%'")
    assert calm == []


def test_while_ottu_is_down_one_of_many_is_claimed_as_the_probe_and_then_all(shop: DeletingShop) -> None:
    go_down(shop)
    due(shop, *(f"cust-{n}" for n in range(40)))
    shop.later(15)
    assert len(shop.claim(limit=10)) == 1
    assert shop.claim(limit=10) == []
    shop.open_gate()
    waiting = 43 - 10 - 10  # of 40 and the three that failed, those that were put off wait for their time
    assert len(shop.claim()) == waiting


def test_one_probe_at_a_time_is_let_through_and_two_workers_share_what_it_finds(
    shop: DeletingShop, database_url: str
) -> None:
    go_down(shop)
    shop.desk.always.clear()
    first, second, third = due(shop, *OTHERS[:3])
    another = db.make_engine(database_url)  # of another process
    clock.go_by_it(another)

    def elsewhere(customer: int) -> Result:
        return reconcile(another, shop.desk, customer, POLICY, jitter=0.5)

    assert elsewhere(second).outcome == "paused"
    shop.later(3)
    beside: list[str] = []
    shop.desk.before["list"] = lambda: beside.append(elsewhere(third).outcome)
    assert shop.look(first).outcome == "unchanged"
    assert beside == ["paused"]
    shop.later(6)
    assert (elsewhere(second).outcome, elsewhere(third).outcome) == ("unchanged", "unchanged")
    another.dispose()


def test_of_many_who_ask_at_once_one_is_the_probe(shop: DeletingShop) -> None:
    go_down(shop)
    customers = due(shop, *OTHERS)
    shop.later(3)
    made, begin = shop.desk.lists, threading.Barrier(len(customers))
    outcomes: list[str] = []

    def ask(customer: int) -> None:
        begin.wait(WAIT_SECONDS)
        outcomes.append(shop.look(customer).outcome)

    threads = [threading.Thread(target=ask, args=(c,)) for c in customers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert shop.desk.lists - made == 1
    assert sorted(outcomes) == ["failed"] + ["paused"] * (len(customers) - 1)


def test_a_probe_whose_process_dies_holds_nobody_up_for_longer_than_a_call(shop: DeletingShop) -> None:
    go_down(shop)
    first, second = due(shop, *OTHERS[:2])
    shop.later(3)

    class Dies(BaseException):
        pass

    shop.desk.faults["list"].append(Fault(Dies()))
    shop.desk.always.clear()
    with pytest.raises(Dies):
        shop.look(first)
    assert shop.look(second).outcome == "paused"
    shop.later(POLICY.lease_seconds)
    assert shop.look(second).outcome == "unchanged"


def test_one_customer_whose_list_is_always_odd_stops_nobody(shop: DeletingShop) -> None:
    odd, good = due(shop, *OTHERS[:2])
    for _ in range(20):
        shop.desk.faults["list"].append(Fault(InvalidAnswer("another customer's card")))
        assert shop.look(odd).outcome == "failed"
        shop.later(LONGEST_OF_A_CUSTOMER_SECONDS)
    assert shop.look(good).outcome == "unchanged"
    assert state(shop.engine).reason is None


def test_a_deletion_is_no_probe_while_ottu_is_down_and_asks_for_a_list_instead(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    go_down(shop)
    shop.later(30)
    shop.desk.always.clear()
    result = shop.delete(deletion)
    assert (result.outcome, result.customer, shop.desk.statuses) == ("paused", shop.customer().id, [])
    assert (shop.show(deletion).status, shop.show(deletion).attempts) == ("pending", 0)
    shop.work_for(30)
    assert (shop.show(deletion).status, shop.show(deletion).attempts) == ("done", 1)


def test_an_outage_longer_than_a_day_uses_up_no_attempts_of_deletions_that_were_not_called(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    go_down(shop)
    deletion = shop.ask(card)
    shop.work_for(25 * 3_600, step=900)
    shown = shop.show(deletion)
    assert (shown.status, shown.attempts) == ("pending", 0)
    shop.desk.always.clear()
    shop.work_for(120)
    assert shop.show(deletion).status == "done"


def test_refused_credentials_are_probed_by_one_call_at_a_time(shop: DeletingShop) -> None:
    shop.desk.always["list"] = lambda: CredentialsRefused("401", status_code=401)
    first, *others = due(shop, *OTHERS)
    assert shop.look(first).outcome == "failed"
    assert state(shop.engine).reason == "credentials"
    shop.work_for(120)
    assert shop.desk.lists <= 15
    shop.desk.always.clear()
    shop.work_for(45)
    assert shop.execute("SELECT count(reconciled_at)::int FROM cardsync.customers") == [(len(others) + 1,)]


# An operator's pause.


def operator_pauses(shop: DeletingShop, by: str | None = "Amal") -> None:
    shop.execute(
        "UPDATE cardsync.gate SET operator_paused_by = cast(:by AS text),"
        " operator_paused_at = CASE WHEN cast(:by AS text) IS NOT NULL THEN clock_timestamp() END",
        by=by,
    )


def test_while_an_operator_pauses_calls_none_is_made_and_all_goes_on_after(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion, made = shop.ask(card), shop.desk.lists
    counted = "SELECT sum(calls)::int AS n FROM cardsync.call_minutes"
    before = shop.execute(counted)
    operator_pauses(shop)
    due(shop, *OTHERS)
    assert shop.delete(deletion).outcome == "paused"
    shop.work_for(25 * 3_600, step=900)
    assert (shop.desk.lists, shop.desk.statuses) == (made, [])
    assert (shop.show(deletion).status, shop.show(deletion).attempts) == ("pending", 0)
    waiting = (
        "SELECT sum(failures)::int AS failures, count(*) FILTER (WHERE last_error LIKE 'CallsPaused%')::int AS told"
    )
    found = shop.execute(f"{waiting} FROM cardsync.customers WHERE customer_id = ANY(:ids)", ids=list(OTHERS))
    assert found == [(0, len(OTHERS))]
    operator_pauses(shop, by=None)
    shop.work_for(60)
    assert shop.show(deletion).status == "done"
    assert shop.execute("SELECT FROM cardsync.customers WHERE reconciled_at IS NULL") == []
    assert shop.execute(counted) > before


def test_a_list_that_is_under_way_when_an_operator_pauses_calls_is_believed(shop: DeletingShop) -> None:
    first, second = due(shop, *OTHERS[:2])
    shop.desk.before["list"] = lambda: operator_pauses(shop)
    assert shop.look(first).outcome == "unchanged"
    assert shop.look(second).outcome == "paused"


# The pace.


def throttle(shop: DeletingShop, customer_id: str, seconds: float | None = None) -> None:
    (customer,) = due(shop, customer_id)
    shop.desk.faults["list"].append(Fault(OttuThrottled("429", retry_after_seconds=seconds, status_code=429)))
    assert shop.look(customer).outcome == "failed"


def test_a_429_closes_the_gate_for_as_long_as_ottu_asked_and_slows_everybody_down_after(shop: DeletingShop) -> None:
    throttle(shop, "cust-1", 60)
    seen = state(shop.engine)
    assert (seen.reason, seen.calls_per_second) == ("throttled", SLOWEST_PER_SECOND)
    first, second = due(shop, *OTHERS[:2])
    shop.later(58)
    assert shop.look(first).outcome == "paused"
    shop.later(70)
    assert state(shop.engine).reason is None
    assert state(shop.engine).calls_per_second is not None
    assert shop.look(first).outcome == "unchanged"
    assert shop.look(second).outcome == "paused"  # its turn comes later
    shop.later(3)
    assert shop.look(second).outcome == "unchanged"


def test_the_pace_grows_back_until_nothing_is_limited(shop: DeletingShop) -> None:
    throttle(shop, "cust-1")
    shop.later(5 + 200)
    assert state(shop.engine).calls_per_second is None
    assert [shop.look(customer).outcome for customer in due(shop, *OTHERS)] == ["unchanged"] * len(OTHERS)
    throttle(shop, "cust-9")
    assert state(shop.engine).calls_per_second == SLOWEST_PER_SECOND


def test_while_the_pace_is_limited_sweeps_stand_back_and_a_deletion_goes_first(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    throttle(shop, "cust-9")
    shop.later(6)
    hinted, hinted_too, swept = due(shop, *OTHERS[:3])
    shop.execute("UPDATE cardsync.customers SET lane = 'sweep' WHERE id = :id", id=swept)
    assert shop.look(swept).outcome == "paused"
    assert shop.look(hinted).outcome == "unchanged"
    assert shop.look(hinted_too).outcome == "paused"
    shop.later(0.1)
    assert shop.delete(deletion).outcome == "gone"  # the next turn, in advance


def test_ten_calls_that_are_throttled_at_once_shrink_the_pace_once(shop: DeletingShop) -> None:
    customers = due(shop, *OTHERS)
    shop.execute(
        """INSERT INTO cardsync.call_minutes
           SELECT date_trunc('minute', clock_timestamp()) - make_interval(mins => m), 'read', 600 FROM generate_series(0, 1) m"""
    )
    shop.policy = replace(shop.policy, daily_calls=90_000)

    def the_others_are_throttled_too() -> None:
        shop.desk.faults["list"].append(Fault(OttuThrottled("429")))
        if len(customers) > 1:
            shop.desk.before["list"] = the_others_are_throttled_too
        policy = replace(POLICY, daily_calls=90_000)
        assert reconcile(shop.worker, shop.desk, customers.pop(), policy, jitter=0.5).outcome == "failed"

    the_others_are_throttled_too()
    rate = state(shop.engine).calls_per_second
    assert rate is not None
    assert rate > 4


# The budget.


def test_where_sweeps_want_everything_a_hint_and_a_deletion_get_through(shop: DeletingShop) -> None:
    daily_calls = 20
    lists, deletes = (
        replace(POLICY, daily_calls=daily_calls),
        DeletePolicy(RING, daily_calls=daily_calls, call_seconds=10.0),
    )

    def look(customer: int) -> str:
        return reconcile(shop.worker, shop.desk, customer, lists, jitter=0.5).outcome

    (card,) = shop.stock(T1)  # one call
    everybody = due(shop, *(f"swept-{n}" for n in range(30)))
    shop.execute("UPDATE cardsync.customers SET lane = 'sweep' WHERE due_at IS NOT NULL")
    swept = [look(customer) for customer in everybody]
    assert swept == ["unchanged"] * 16 + ["paused"] * 14
    (hinted,) = due(shop, "hinted")
    assert look(hinted) == "unchanged"
    deletion = shop.ask(card)
    assert delete(shop.worker, shop.desk, deletion, deletes, jitter=0.5).outcome == "gone"
    assert look(shop.customer().id) == "changed"
    assert shop.show(deletion).status == "done"
    assert shop.execute("SELECT sum(calls)::int FROM cardsync.call_minutes") == [(daily_calls,)]


def test_a_deletions_proof_may_use_the_reserve_whatever_is_hinted_or_fails_meanwhile(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    spent = shop.execute("SELECT sum(calls)::int AS n FROM cardsync.call_minutes")[0].n
    daily_calls = 10
    shop.execute("UPDATE cardsync.call_minutes SET calls = calls + :n", n=daily_calls - 3 - spent)
    lists, deletes = (
        replace(POLICY, daily_calls=daily_calls),
        DeletePolicy(RING, daily_calls=daily_calls, call_seconds=10.0),
    )
    assert delete(shop.worker, shop.desk, deletion, deletes, jitter=0.5).outcome == "gone"
    (other,) = due(shop, "cust-2")
    assert reconcile(shop.worker, shop.desk, other, lists, jitter=0.5).outcome == "paused"
    shop.hint(token=T1, session_id="b" * 40)
    shop.desk.faults["list"].append(Fault(OttuFault("503")))
    assert reconcile(shop.worker, shop.desk, shop.customer().id, lists, jitter=0.5).outcome == "failed"
    shop.later(30)
    assert reconcile(shop.worker, shop.desk, shop.customer().id, lists, jitter=0.5).outcome == "changed"
    assert shop.show(deletion).status == "done"


def test_a_call_that_was_counted_too_long_ago_is_not_made(shop: DeletingShop, monkeypatch: pytest.MonkeyPatch) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    monkeypatch.setattr(
        "cardsync.stories.delete.COMMIT_SECONDS", 0.0
    )  # every process is as slow as one that was stopped
    assert shop.delete(deletion).outcome == "not_done"
    assert (shop.desk.statuses, shop.show(deletion).attempts) == ([], 0)
    monkeypatch.undo()
    shop.work_for(10)
    assert shop.show(deletion).status == "done"
