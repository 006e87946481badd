"""From a request to its proof: one call at a time, a list after each, and a receipt of every step."""

from __future__ import annotations

import threading
import uuid

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Engine

from cardsync.core.deletion import LOOKS_AFTER_CALL_SECONDS
from cardsync.errors import (
    Conflict,
    NotFound,
    OttuFault,
    OttuUnavailable,
    Refused,
)
from cardsync.store.deletions import requests
from tests.clocks import host_off_by
from tests.stories.deleting import (
    T1,
    T2,
    statuses,
)
from tests.stories.fake_ottu import DeletingShop, Fault, Killed
from tests.waiting import WAIT_SECONDS

pytestmark = pytest.mark.usefixtures("still_clock")  # a busy machine may need longer than waits of two seconds


@pytest.fixture
def shop(engine: Engine, ingest_engine: Engine, web_engine: Engine, worker_engine: Engine) -> DeletingShop:
    return DeletingShop(engine, ingest_engine, web_engine, worker_engine)


# Asking.


def test_the_card_leaves_active_in_the_transaction_that_asks(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    assert shop.execute("SELECT 1 FROM registry.active_cards") == []
    assert shop.execute("SELECT 1 FROM registry.card_tokens") == []
    assert shop.feed() == ["added", "deleting"]
    shown = shop.show(deletion)
    assert (shown.status, shown.attempts, shown.requested_by, shown.error) == ("pending", 0, "support", None)
    assert shown.next_attempt_at is not None
    assert shop.desk.statuses == []


def test_a_request_is_rolled_back_with_its_transaction(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    with shop.engine.connect() as connection:
        requests.request(connection, card_id=card, requested_by="support")
        connection.rollback()
    assert statuses(shop) == "active"
    assert (
        shop.execute("SELECT 1 FROM cardsync.deletions") == shop.execute("SELECT 1 FROM cardsync.deletion_steps") == []
    )
    assert shop.feed() == ["added"]


def test_asking_again_while_it_is_under_way_gives_the_same_deletion(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    first = shop.ask(card)
    second = shop.ask(card, requested_by="billing", idempotency_key="another", when_unlocked=True)
    assert second == first
    assert shop.steps(first) == ["asked", "asked_again"]
    assert shop.show(first).when_unlocked
    shop.delete(first)
    assert shop.ask(card) == first


@pytest.mark.parametrize("minutes", [-10, 10])
def test_how_long_a_deletion_took_is_told_by_the_databases_clock(shop: DeletingShop, minutes: int) -> None:
    def seconds() -> float:
        return REGISTRY.get_sample_value("cardsync_deletion_proved_seconds_sum") or 0.0

    (card,) = shop.stock(T1)
    asked = shop.ask(card)
    shop.execute("UPDATE cardsync.deletions SET tried_since = tried_since - interval '7 seconds'")
    before = seconds()
    with host_off_by(minutes):
        shop.work()
    assert shop.show(asked).status == "done"
    assert 7 <= seconds() - before < 300


def test_a_key_gives_the_same_deletion_also_after_its_end(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    first = shop.ask(card, idempotency_key="k-1", request_hash=b"1" * 32)
    assert shop.ask(card, idempotency_key="k-2", request_hash=b"2" * 32) == first
    shop.work()
    assert shop.show(first).status == "done"
    for key, request_hash in (("k-1", b"1" * 32), ("k-2", b"2" * 32)):
        assert shop.ask(card, idempotency_key=key, request_hash=request_hash) == first
    with pytest.raises(Conflict, match="another request"):
        shop.ask(card, idempotency_key="k-1", request_hash=None)


def test_a_key_with_another_request_is_a_conflict(shop: DeletingShop) -> None:
    card, other = shop.stock(T1, T2)
    shop.ask(card, idempotency_key="k-1", request_hash=b"1" * 32)
    with pytest.raises(Conflict, match="another request"):
        shop.ask(card, idempotency_key="k-1", request_hash=b"2" * 32)
    with pytest.raises(Conflict, match="another request"):
        shop.ask(other, idempotency_key="k-1", request_hash=b"1" * 32)
    assert statuses(shop, T2) == "active"


def test_two_who_ask_with_one_key_at_once_get_one_deletion(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    got: list[uuid.UUID] = []
    with shop.engine.connect() as first:
        wish = {"idempotency_key": "k", "asker": "api:shop"}
        got.append(requests.request(first, card_id=card, requested_by="a", **wish).deletion_id)
        thread = threading.Thread(target=lambda: got.append(shop.ask(card, **wish)))
        thread.start()
        first.commit()
        thread.join(WAIT_SECONDS)
    assert len(set(got)) == 1
    assert shop.steps(got[0]) == ["asked"]


def test_what_cannot_be_deleted_is_refused_and_the_transaction_stays_usable(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    shop.hint(token=T2, session_id="f" * 40)
    unconfirmed = shop.card(T2).card_id
    with shop.engine.begin() as connection:
        with pytest.raises(NotFound, match="no such card"):
            requests.request(connection, card_id=uuid.uuid4(), requested_by="support")
        with pytest.raises(Conflict, match="unconfirmed"):
            requests.request(connection, card_id=unconfirmed, requested_by="support")
        with pytest.raises(Refused, match="requested_by"):
            requests.request(connection, card_id=card, requested_by="")
        with pytest.raises(Refused):
            requests.request(connection, card_id=card, requested_by="support", reason="card 4000 0000 0000 0002")
        assert requests.request(connection, card_id=card, requested_by="support", reason="moved away").fresh
    shop.work()
    with pytest.raises(Conflict, match="removed"):
        shop.ask(card)


# From the call to the proof.


def test_a_deletion_is_done_when_a_list_has_proved_it(shop: DeletingShop) -> None:
    card, _ = shop.stock(T1, T2)
    deletion = shop.ask(card, idempotency_key="k")
    assert shop.delete(deletion).outcome == "gone"
    assert (shop.show(deletion).status, statuses(shop)) == ("in_progress", "deleting")
    assert shop.look().outcome == "changed"
    shown, row = shop.show(deletion), shop.card(T1)
    assert (shown.status, shown.attempts, shown.error, shown.next_attempt_at) == ("done", 1, None, None)
    assert shown.finished_at is not None
    assert (row.status, row.removed_because, row.token) == ("removed", "requested", None)
    assert shop.feed() == ["added", "added", "deleting", "removed"]
    assert shop.steps(deletion) == ["asked", "called", "answered", "absent", "done"]
    (answered,), (absent,) = shop.details(deletion, "answered"), shop.details(deletion, "absent")
    (called,) = shop.details(deletion, "called")
    assert answered["status_code"] == 204
    assert absent["observation_no"] > called["call_no"] == answered["call_no"]
    assert statuses(shop, T2) == "active"
    assert shop.desk.statuses == [204]


def test_404_leads_to_the_same_proof(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    shop.desk.world.delete("sandbox", "cust-1", T1)
    shop.work()
    assert shop.show(deletion).status == "done"
    assert shop.desk.statuses == [404]
    assert shop.card(T1).removed_because == "requested"


def test_a_404_that_is_not_true_is_found_out_and_called_again(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    shop.desk.faults["delete"].append(404)
    shop.work_for(140, step=5)
    assert shop.show(deletion).status == "done"
    assert shop.desk.statuses == [404, 204]
    assert shop.show(deletion).attempts == 2


def test_a_card_that_lags_is_looked_at_again_and_not_called_again(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    shop.desk.world.knobs = shop.desk.knobs.turned(delete_lag_seconds=40)
    deletion = shop.ask(card)
    shop.work_for(61, step=0.5)
    assert shop.show(deletion).status == "done"
    assert shop.desk.statuses == [204]
    assert shop.steps(deletion).count("listed") == 1 + sum(1 for look in LOOKS_AFTER_CALL_SECONDS if look < 40)


def test_a_card_that_lags_for_very_long_is_called_again_and_never_deleted_twice(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    shop.desk.world.knobs = shop.desk.knobs.turned(delete_lag_seconds=300)
    deletion = shop.ask(card)
    shop.work_for(400, step=5)
    assert shop.show(deletion).status == "done"
    assert shop.desk.statuses[:2] == [204, 404]
    assert shop.desk.deleted == 1
    assert statuses(shop) == "removed"


def test_a_call_that_timed_out_and_succeeded_is_not_made_again(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    shop.desk.faults["delete"].append(Fault(OttuUnavailable("timed out"), after=True))
    assert shop.delete(deletion).outcome == "no_answer"
    assert shop.delete(deletion).outcome == "not_due"
    shop.work()
    assert shop.show(deletion).status == "done"
    assert shop.desk.statuses == [204]
    assert shop.steps(deletion) == ["asked", "called", "no_answer", "absent", "done"]


@pytest.mark.parametrize("error", [OttuUnavailable("cut"), OttuFault("Ottu failed: 502", status_code=502)])
def test_a_call_that_failed_is_made_again_after_a_list_has_shown_the_card(shop: DeletingShop, error: Exception) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    shop.desk.faults["delete"].append(Fault(error))
    shop.work()
    shown = shop.show(deletion)
    assert (shown.status, shown.attempts) == ("pending", 1)
    assert str(error) in (shown.error or "")
    assert shop.delete(deletion).outcome == "not_due"  # backoff
    shop.work_for(5)
    assert shop.show(deletion).status == "done"
    assert shop.desk.statuses == [204]
    assert shop.show(deletion).error is None


def test_a_card_that_went_by_itself_needs_no_call(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    shop.desk.world.delete("sandbox", "cust-1", T1)
    shop.reconcile_now()
    assert shop.show(deletion).status == "done"
    assert shop.desk.statuses == []
    assert shop.card(T1).removed_because == "requested"


# Crashes.


@pytest.mark.parametrize("after", [False, True], ids=["before the call", "after the call"])
def test_a_worker_that_is_killed_around_the_call_loses_nothing(shop: DeletingShop, after: bool) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    shop.desk.faults["delete"].append(Fault(Killed(), after=after))
    with pytest.raises(Killed):
        shop.delete(deletion)
    assert shop.show(deletion).status == "in_progress"
    shop.work()
    assert shop.show(deletion).status == "in_progress"  # the lease of the dead
    shop.work_for(25)
    assert shop.show(deletion).status == "done"
    assert shop.desk.statuses == [204]


def test_a_worker_that_is_killed_after_the_list_loses_nothing(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    shop.delete(deletion)
    shop.desk.faults["list"].append(Fault(Killed(), after=True))
    with pytest.raises(Killed):
        shop.look()
    assert (shop.show(deletion).status, statuses(shop)) == ("in_progress", "deleting")
    shop.work_for(20)
    assert shop.show(deletion).status == "done"
    assert shop.desk.statuses == [204]
