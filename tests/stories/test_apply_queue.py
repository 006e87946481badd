"""Lists that come in together share a transaction; the effect is that of each alone, and none holds up another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from cardsync.errors import OttuUnavailable, Superseded
from cardsync.ottu import CardList
from cardsync.stories import apply_queue
from cardsync.stories.apply_list import Applied, Listed, apply_list, apply_together
from cardsync.stories.apply_queue import TURNS, ApplyQueue
from cardsync.stories.reconcile import CountedTicket, Result, look
from tests.store.rows import wait_until_blocked
from tests.stories.fake_ottu import DeletingShop, Fault
from tests.stories.shop import POLICY
from tests.waiting import until

SECONDS = 60.0  # a deadline: only a bug takes so long
SEVERAL = 6


@pytest.fixture
def shop(engine: Engine, ingest_engine: Engine, web_engine: Engine, worker_engine: Engine) -> DeletingShop:
    return DeletingShop(engine, ingest_engine, web_engine, worker_engine)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def hinted(shop: DeletingShop, *customer_ids: str, **facts: Any) -> dict[str, CountedTicket]:
    """Customers who saved a card, and were told of; their tickets are taken."""
    for customer_id in customer_ids:
        shop.desk.world.save_card("sandbox", customer_id, token=token_of(customer_id), **facts)
        shop.hint(customer_id, token_of(customer_id), session_id=customer_id.ljust(40, "0"))
    return {one.ticket.customer_id: one for one in shop.claim(policy=POLICY)}


def token_of(customer_id: str) -> str:
    return customer_id.rjust(16, "9")


def answer(shop: DeletingShop, customer_id: str) -> CardList:
    return shop.desk.list_cards("sandbox", customer_id, deadline_seconds=10, before_call=lambda: None)


def statuses(shop: DeletingShop, customer_id: str) -> list[str]:
    return sorted(
        row.status
        for row in shop.execute(
            """SELECT c.status FROM cardsync.cards AS c JOIN cardsync.customers AS o ON o.id = c.customer
               WHERE o.customer_id = :id""",
            id=customer_id,
        )
    )


def start(
    threads: ThreadPoolExecutor, queue: ApplyQueue, shop: DeletingShop, claimed: CountedTicket
) -> Future[Applied]:
    """A thread that has its list, and applies it."""
    ticket = claimed.ticket
    return threads.submit(queue.apply, ticket, answer(shop, ticket.customer_id), jitter=0.5)


def waiting(queue: ApplyQueue) -> int:
    return len(queue._waiting)


@pytest.fixture
def commits(shop: DeletingShop) -> Iterator[Callable[[], int]]:
    """How many transactions of the worker were committed."""
    counted: list[object] = []

    def count(connection: object) -> None:
        counted.append(connection)

    event.listen(shop.worker, "commit", count)
    yield lambda: len(counted)
    event.remove(shop.worker, "commit", count)


def test_lists_that_come_in_during_a_commit_share_the_next(
    shop: DeletingShop, threads: ThreadPoolExecutor, commits: Callable[[], int]
) -> None:
    of = hinted(shop, *(f"cust-{n}" for n in range(TURNS + SEVERAL)))
    queue, before = ApplyQueue(shop.worker, POLICY), commits()
    claimed = list(of.values())
    with shop.engine.begin() as other:
        other.execute(text("SELECT FROM cardsync.feed_head FOR UPDATE"))  # each commit waits for it
        first = [start(threads, queue, shop, one) for one in claimed[:TURNS]]
        wait_until_blocked(shop.engine, TURNS)
        others = [start(threads, queue, shop, one) for one in claimed[TURNS:]]
        until(lambda: waiting(queue) == SEVERAL, "the others wait")
    assert {one.result(SECONDS).outcome for one in (*first, *others)} == {"changed"}
    assert (
        commits() - before <= 2 * TURNS < len(of)
    )  # each turn that ends gives its place to one that takes all that wait
    assert all(statuses(shop, customer_id) == ["active"] for customer_id in of)
    numbers = [row.seq for row in shop.execute("SELECT seq FROM cardsync.card_changes ORDER BY seq")]
    assert numbers == list(range(1, len(of) + 1))


def test_a_list_that_finds_nobody_is_applied_at_once(shop: DeletingShop, commits: Callable[[], int]) -> None:
    (claimed,) = hinted(shop, "cust-1").values()
    queue, before = ApplyQueue(shop.worker, POLICY), commits()
    assert queue.apply(claimed.ticket, answer(shop, "cust-1"), jitter=0.5).outcome == "changed"
    assert commits() - before == 1


def test_a_customer_who_is_locked_elsewhere_holds_up_no_other(shop: DeletingShop, threads: ThreadPoolExecutor) -> None:
    of = hinted(shop, "cust-1", "cust-2", "cust-3")
    queue = ApplyQueue(shop.worker, POLICY)
    with shop.engine.begin() as other:
        other.execute(
            text("SELECT FROM cardsync.customers WHERE id = :id FOR UPDATE"), {"id": of["cust-1"].ticket.customer}
        )
        locked = start(threads, queue, shop, of["cust-1"])
        wait_until_blocked(shop.engine)
        assert [start(threads, queue, shop, of[one]).result(SECONDS).outcome for one in ("cust-2", "cust-3")] == [
            "changed",
            "changed",
        ]
        assert not locked.done()
    assert locked.result(SECONDS).outcome == "changed"


def test_a_ticket_that_stands_no_more_fails_alone(shop: DeletingShop) -> None:
    of = hinted(shop, "cust-1", "cust-2")
    shop.execute("UPDATE cardsync.customers SET lease_until = 'epoch' WHERE customer_id = 'cust-1'")
    queue = ApplyQueue(shop.worker, POLICY)
    lists = [Listed(of[one].ticket, answer(shop, one), 0.5) for one in ("cust-1", "cust-2")]
    late, applied = apply_together(shop.worker, lists, POLICY)
    assert (late, applied and applied.outcome) == (None, "changed")
    with pytest.raises(Superseded):
        queue.apply(of["cust-1"].ticket, answer(shop, "cust-1"), jitter=0.5)
    assert statuses(shop, "cust-1") == ["unconfirmed"]


def test_of_two_tickets_of_one_customer_the_newer_one_stands(shop: DeletingShop) -> None:
    older = hinted(shop, "cust-1")["cust-1"].ticket
    shop.execute("UPDATE cardsync.customers SET lease_until = 'epoch'")
    (newer,) = shop.claim(policy=POLICY)
    shop.desk.world.save_card("sandbox", "cust-1", token="9999000000000002")
    lists = [Listed(ticket, answer(shop, "cust-1"), 0.5) for ticket in (older, newer.ticket)]
    late, applied = apply_together(shop.worker, lists, POLICY)
    assert (late, applied and applied.outcome) == (None, "changed")
    assert shop.customer().applied_no == newer.ticket.number


def test_what_the_database_refuses_of_one_list_is_that_lists_trouble_alone(
    shop: DeletingShop, threads: ThreadPoolExecutor
) -> None:
    shop.execute("ALTER TABLE cardsync.cards ADD CONSTRAINT no_odd_brands CHECK (brand <> 'ODD')")
    of = hinted(shop, "cust-1", "cust-2") | hinted(shop, "odd", brand="ODD")
    queue = ApplyQueue(shop.worker, POLICY)
    with shop.engine.begin() as other:
        other.execute(text("SELECT FROM cardsync.feed_head FOR UPDATE"))
        blocking = hinted(shop, *(f"first-{n}" for n in range(TURNS)))
        first = [start(threads, queue, shop, one) for one in blocking.values()]
        wait_until_blocked(shop.engine, TURNS)
        looks: dict[str, Future[Result]] = {
            one: threads.submit(look, shop.worker, shop.desk, of[one], POLICY, jitter=0.5, queue=queue) for one in of
        }
        until(lambda: waiting(queue) == len(of), "the others wait")
    assert {one: looks[one].result(SECONDS).outcome for one in of} == {
        "cust-1": "changed",
        "cust-2": "changed",
        "odd": "failed",
    }
    assert {one.result(SECONDS).outcome for one in first} == {"changed"}
    assert "InvalidAnswer" in shop.customer("odd").last_error


def test_the_next_thread_has_the_turn_of_one_that_ends(
    shop: DeletingShop, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = hinted(shop, *(f"cust-{n}" for n in range(SEVERAL)))
    monkeypatch.setattr(apply_queue, "TOGETHER_MAX", 1)
    queue = ApplyQueue(shop.worker, POLICY)
    applied = [start(threads, queue, shop, one) for one in of.values()]
    assert {one.result(SECONDS).outcome for one in applied} == {"changed"}
    assert (queue._turns, waiting(queue)) == (TURNS, 0)


# What each situation does: before the ticket is taken, a customer with two cards that are active; then this.
def nothing(shop: DeletingShop, customer_id: str) -> None:
    pass


def one_is_new(shop: DeletingShop, customer_id: str) -> None:
    shop.desk.world.save_card("sandbox", customer_id, token=f"new-{customer_id}".rjust(16, "9"))


def one_is_hinted(shop: DeletingShop, customer_id: str) -> None:
    token = f"new-{customer_id}".rjust(16, "9")
    shop.desk.world.save_card("sandbox", customer_id, token=token)
    shop.hint(customer_id, token, session_id=f"h-{customer_id}".ljust(40, "0"))


def one_is_gone(shop: DeletingShop, customer_id: str) -> None:
    shop.desk.world.delete("sandbox", customer_id, token_of(customer_id))


def a_deletion_is_under_way(shop: DeletingShop, customer_id: str) -> None:
    deletion_id = shop.ask(shop.card(token_of(customer_id), customer_id).card_id)
    shop.delete(deletion_id)


def an_agreement_is_new(shop: DeletingShop, customer_id: str) -> None:
    shop.desk.world.pay("sandbox", customer_id, token_of(customer_id), agreement_id=f"agr-{customer_id}")


def an_audit_waits(shop: DeletingShop, customer_id: str) -> None:
    shop.execute(
        "INSERT INTO cardsync.audits (customer) SELECT id FROM cardsync.customers WHERE customer_id = :id",
        id=customer_id,
    )


SITUATIONS = (
    nothing,
    one_is_new,
    one_is_hinted,
    one_is_gone,
    a_deletion_is_under_way,
    an_agreement_is_new,
    an_audit_waits,
)


def effect(shop: DeletingShop, customer_id: str) -> list[Any]:
    """What others can see of a customer, but for ids, numbers, moments, and the facts that the stand-in throws dice for."""
    said = []
    for query in (
        """SELECT status, awaited_no IS NULL, removed_because, cause, life, cardinality(agreements)
           FROM cardsync.cards WHERE customer = :id ORDER BY 1, 2, 3, 4, 5, 6""",
        """SELECT due_at IS NULL, lane, dirty_since IS NULL, failures, list_oddities, removals_held, cadence, silent_changes > 0
           FROM cardsync.customers WHERE id = :id""",
        "SELECT change, cause, 'agreements' = ANY(fields) FROM cardsync.card_changes WHERE customer = :id ORDER BY seq",
        """SELECT outcome, listed, changed, removed, suspicious
           FROM cardsync.observations WHERE customer = :id ORDER BY observation_no""",
        "SELECT verdict FROM cardsync.audits WHERE customer = :id",
        "SELECT phase FROM cardsync.deletions WHERE customer = :id",
    ):
        said += [tuple(row) for row in shop.execute(query, id=shop.customer(customer_id).id)]
    return said


def test_together_lists_do_what_each_does_alone(shop: DeletingShop) -> None:
    pairs = [(f"a-{n}", f"b-{n}") for n in range(len(SITUATIONS))]
    for (alone, together), happens in zip(pairs, SITUATIONS, strict=True):
        for customer_id in (alone, together):
            shop.stock(token_of(customer_id), f"2{customer_id}".rjust(16, "9"), customer_id=customer_id)
            happens(shop, customer_id)
    shop.later(300)
    for customer_id in (one for pair in pairs for one in pair):
        shop.make_due(customer_id)
    of = {one.ticket.customer_id: one.ticket for one in shop.claim(policy=POLICY)}
    assert len(of) == 2 * len(pairs)
    lists = [Listed(of[one], answer(shop, one), 0.5) for _, one in pairs]
    for listed, applied in zip(lists, apply_together(shop.worker, lists, POLICY), strict=True):
        if applied is None:
            apply_list(shop.worker, listed.ticket, listed.answer, POLICY, jitter=0.5)
    for one, _ in pairs:
        apply_list(shop.worker, of[one], answer(shop, one), POLICY, jitter=0.5)
    for (alone, together), happens in zip(pairs, SITUATIONS, strict=True):
        assert effect(shop, together) == effect(shop, alone), happens.__name__


def test_only_what_takes_no_further_locks_is_written_together(shop: DeletingShop) -> None:
    plain = {nothing, one_is_new, one_is_hinted}
    for happens in SITUATIONS:
        shop.stock(token_of(happens.__name__), customer_id=happens.__name__)
        happens(shop, happens.__name__)
    for happens in SITUATIONS:
        shop.make_due(happens.__name__)
    of = {one.ticket.customer_id: one.ticket for one in shop.claim(policy=POLICY)}
    lists = [Listed(of[happens.__name__], answer(shop, happens.__name__), 0.5) for happens in SITUATIONS]
    applied = apply_together(shop.worker, lists, POLICY)
    assert {happens for happens, one in zip(SITUATIONS, applied, strict=True) if one is not None} == plain


def test_while_the_gate_remembers_failures_each_list_tells_it_alone(shop: DeletingShop) -> None:
    shop.desk.faults["list"].append(Fault(OttuUnavailable("no answer")))
    failed, good = hinted(shop, "cust-1", "cust-2").values()
    assert shop.ask_about(failed).outcome == "failed"
    listed = Listed(good.ticket, answer(shop, good.ticket.customer_id), 0.5)
    assert apply_together(shop.worker, [listed], POLICY) == [None]
