"""Deletions and lists of one customer, at once: real connections, held at named points."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from cardsync.store.deletions import requests
from cardsync.stories.claim import claim_deletions
from tests.store.rows import wait_until_blocked
from tests.stories.deleting import T1, T2, in_thread, statuses
from tests.stories.fake_ottu import DeletingShop, Point
from tests.waiting import WAIT_SECONDS

pytestmark = pytest.mark.usefixtures("still_clock")  # a busy machine may need longer than waits of two seconds


@pytest.fixture
def shop(engine: Engine, ingest_engine: Engine, web_engine: Engine, worker_engine: Engine) -> DeletingShop:
    return DeletingShop(engine, ingest_engine, web_engine, worker_engine)


def test_a_deletion_does_not_call_while_a_list_is_asked_for(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion, point = shop.ask(card), Point()
    shop.desk.after["list"] = point
    shop.make_due()
    thread, results = in_thread(shop.look)
    point.wait()
    assert shop.delete(deletion).outcome == "not_due"
    point.release()
    thread.join(WAIT_SECONDS)
    # The deletion that waited for the ticket may be claimed at once.
    assert results[0].deletions
    assert claim_deletions(shop.worker, shop.policy, limit=9).deletion_ids == (deletion,)
    assert (shop.show(deletion).status, statuses(shop)) == ("pending", "deleting")
    assert shop.desk.statuses == []


def test_a_list_asked_for_before_the_call_never_brings_the_card_back(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion, point = shop.ask(card), Point()
    shop.desk.after["list"] = point  # Ottu has made up its answer, with the card in it
    shop.make_due()
    thread, results = in_thread(shop.look)
    point.wait()
    shop.later(16)  # its lease runs out
    assert shop.delete(deletion).outcome == "gone"
    assert shop.look().outcome == "changed"
    assert shop.show(deletion).status == "done"
    point.release()
    thread.join(WAIT_SECONDS)
    assert results[0].outcome == "superseded"
    assert (statuses(shop), shop.show(deletion).status) == ("removed", "done")


def test_nobody_lists_while_a_deletion_calls_and_a_list_follows_it(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion, point = shop.ask(card), Point()
    shop.desk.before["delete"] = point
    thread, results = in_thread(lambda: shop.delete(deletion))
    point.wait()
    shop.hint(token=T1, session_id="e" * 40)
    assert shop.look().outcome == "not_due"
    assert shop.delete(deletion).outcome == "not_due"
    point.release()
    thread.join(WAIT_SECONDS)
    assert (results[0].outcome, results[0].customer) == ("gone", shop.customer().id)
    shop.work()
    assert shop.show(deletion).status == "done"
    assert shop.desk.statuses == [204]


def test_an_answer_that_comes_after_its_lease_is_noted_and_a_list_decides(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion, point = shop.ask(card), Point()
    shop.desk.after["delete"] = point
    thread, results = in_thread(lambda: shop.delete(deletion))
    point.wait()
    shop.later(16)
    shop.work()
    assert shop.show(deletion).status == "done"
    point.release()
    thread.join(WAIT_SECONDS)
    assert results[0].outcome == "superseded"
    assert shop.show(deletion).status == "done"
    assert shop.details(deletion, "answered")[0]["late"] is True
    assert shop.desk.statuses == [204]


def test_a_list_asked_for_before_the_request_proves_nothing(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    point, asked = Point(), []
    shop.desk.world.delete("sandbox", "cust-1", T1)
    shop.desk.after["list"] = point
    shop.make_due()
    thread, results = in_thread(shop.look)
    point.wait()
    asked.append(shop.ask(card))
    point.release()
    thread.join(WAIT_SECONDS)
    assert results[0].outcome == "unchanged"
    assert (shop.show(asked[0]).status, statuses(shop)) == ("pending", "deleting")
    shop.work()
    assert shop.show(asked[0]).status == "done"


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "rolled back"])
def test_a_list_is_believed_only_when_a_request_under_way_has_ended(shop: DeletingShop, committed: bool) -> None:
    """The list lacks the card; the service that asks for its deletion has not committed when it comes to be believed."""
    (card,) = shop.stock(T1)
    point = Point()
    shop.desk.world.delete("sandbox", "cust-1", T1)
    shop.desk.after["list"] = point
    shop.make_due()
    thread, results = in_thread(shop.look)
    point.wait()
    with shop.engine.connect() as service:
        deletion = requests.request(service, card_id=card, requested_by="a service").deletion_id
        point.release()
        wait_until_blocked(shop.engine)
        assert results == []
        if committed:
            service.commit()
    thread.join(WAIT_SECONDS)
    assert results[0].outcome == ("unchanged" if committed else "changed")
    assert statuses(shop) == ("deleting" if committed else "removed")
    if committed:
        shop.work()
        assert shop.show(deletion).status == "done"
    assert shop.card(T1).removed_because == ("requested" if committed else "absent")


def test_two_deletions_of_one_customer_take_turns(shop: DeletingShop) -> None:
    one, other = shop.stock(T1, T2)
    first, second, point = shop.ask(one), shop.ask(other), Point()
    shop.desk.before["delete"] = point
    thread, _ = in_thread(lambda: shop.delete(first))
    point.wait()
    assert shop.delete(second).outcome == "not_due"
    point.release()
    thread.join(WAIT_SECONDS)
    assert shop.look().deletions
    shop.work()
    assert {shop.show(first).status, shop.show(second).status} == {"done"}
