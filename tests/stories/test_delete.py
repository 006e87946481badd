"""From a request to its proof: one call at a time, a list after each, and a receipt of every step."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine

from cardsync.core.deletion import GIVE_UP_SECONDS, LOOKS_AFTER_CALL_SECONDS
from cardsync.delete import DeletePolicy, delete
from cardsync.errors import (
    Conflict,
    CredentialsRefused,
    NotFound,
    OttuFault,
    OttuRejected,
    OttuThrottled,
    OttuUnavailable,
    Refused,
    Superseded,
    UnusableCard,
)
from cardsync.store import deletions
from tests.stories.desk import DEADLINE_SECONDS, DELETE_POLICY, DeletingShop, Fault, Killed, Point

T1, T2 = "9999000000000001", "9999000000000002"
HOUR = 3_600.0


@pytest.fixture
def shop(engine: Engine, ingest_engine: Engine, web_engine: Engine, worker_engine: Engine) -> DeletingShop:
    return DeletingShop(engine, ingest_engine, web_engine, worker_engine)


def statuses(shop: DeletingShop, token: str = T1) -> str:
    return str(shop.card(token).status)


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
        deletions.request(connection, card_id=card, requested_by="support")
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


def test_a_key_gives_the_same_deletion_also_after_its_end(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    first = shop.ask(card, idempotency_key="k-1", request_hash=b"1" * 32)
    assert shop.ask(card, idempotency_key="k-2", request_hash=b"2" * 32) == first
    shop.work()
    assert shop.show(first).status == "done"
    for key, request_hash in (("k-1", b"1" * 32), ("k-2", b"2" * 32), ("k-1", None)):
        assert shop.ask(card, idempotency_key=key, request_hash=request_hash) == first


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
        got.append(deletions.request(first, card_id=card, requested_by="a", idempotency_key="k").deletion_id)
        thread = threading.Thread(target=lambda: got.append(shop.ask(card, idempotency_key="k")))
        thread.start()
        first.commit()
        thread.join(10)
    assert len(set(got)) == 1
    assert shop.steps(got[0]) == ["asked"]


def test_what_cannot_be_deleted_is_refused_and_the_transaction_stays_usable(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    shop.hint(token=T2, session_id="f" * 40)
    unconfirmed = shop.card(T2).card_id
    with shop.engine.begin() as connection:
        with pytest.raises(NotFound, match="no such card"):
            deletions.request(connection, card_id=uuid.uuid4(), requested_by="support")
        with pytest.raises(Conflict, match="unconfirmed"):
            deletions.request(connection, card_id=unconfirmed, requested_by="support")
        with pytest.raises(Refused, match="requested_by"):
            deletions.request(connection, card_id=card, requested_by="")
        with pytest.raises(Refused):
            deletions.request(connection, card_id=card, requested_by="support", reason="card 4000 0000 0000 0002")
        assert deletions.request(connection, card_id=card, requested_by="support", reason="moved away").fresh
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
    shop.desk.world.delete_silently("sandbox", "cust-1", T1)
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
    shop.desk.world.delete_silently("sandbox", "cust-1", T1)
    shop.reconcile_now()
    assert shop.show(deletion).status == "done"
    assert shop.desk.statuses == []
    assert shop.card(T1).removed_because == "requested"


# Order within one customer: real connections, held at named points.


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    return thread, results


def test_a_deletion_does_not_call_while_a_list_is_asked_for(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion, point = shop.ask(card), Point()
    shop.desk.after["list"] = point
    shop.make_due()
    thread, results = in_thread(shop.look)
    point.wait()
    assert shop.delete(deletion).outcome == "not_due"
    point.release()
    thread.join(10)
    # Whoever held the ticket rings for the deletion that waited for it.
    assert results[0].deletions == (deletion,)
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
    thread.join(10)
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
    thread.join(10)
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
    thread.join(10)
    assert results[0].outcome == "superseded"
    assert shop.show(deletion).status == "done"
    assert shop.details(deletion, "answered")[0]["late"] is True
    assert shop.desk.statuses == [204]


def test_a_list_asked_for_before_the_request_proves_nothing(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    point, asked = Point(), []
    shop.desk.world.delete_silently("sandbox", "cust-1", T1)
    shop.desk.after["list"] = point
    shop.make_due()
    thread, results = in_thread(shop.look)
    point.wait()
    asked.append(shop.ask(card))
    point.release()
    thread.join(10)
    assert results[0].outcome == "unchanged"
    assert (shop.show(asked[0]).status, statuses(shop)) == ("pending", "deleting")
    shop.work()
    assert shop.show(asked[0]).status == "done"


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "rolled back"])
def test_a_list_is_believed_only_when_a_request_under_way_has_ended(shop: DeletingShop, committed: bool) -> None:
    """The list lacks the card; the service that asks for its deletion has not committed when it comes to be believed."""
    (card,) = shop.stock(T1)
    point = Point()
    shop.desk.world.delete_silently("sandbox", "cust-1", T1)
    shop.desk.after["list"] = point
    shop.make_due()
    thread, results = in_thread(shop.look)
    point.wait()
    with shop.engine.connect() as service:
        deletion = deletions.request(service, card_id=card, requested_by="a service").deletion_id
        point.release()
        until_somebody_waits_for_a_lock(shop)
        assert results == []
        if committed:
            service.commit()
    thread.join(10)
    assert results[0].outcome == ("unchanged" if committed else "changed")
    assert statuses(shop) == ("deleting" if committed else "removed")
    if committed:
        shop.work()
        assert shop.show(deletion).status == "done"
    assert shop.card(T1).removed_because == ("requested" if committed else "absent")


def until_somebody_waits_for_a_lock(shop: DeletingShop) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while not shop.execute(waiting):
        assert time.monotonic() < deadline, "nobody waits for a lock"


def test_two_deletions_of_one_customer_take_turns(shop: DeletingShop) -> None:
    one, other = shop.stock(T1, T2)
    first, second, point = shop.ask(one), shop.ask(other), Point()
    shop.desk.before["delete"] = point
    thread, _ = in_thread(lambda: shop.delete(first))
    point.wait()
    assert shop.delete(second).outcome == "not_due"
    point.release()
    thread.join(10)
    assert shop.look().deletions == (second,)
    shop.work()
    assert {shop.show(first).status, shop.show(second).status} == {"done"}


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


# Blocked.


@pytest.mark.parametrize("locked_status", [400, 403])
def test_a_locked_card_is_active_again_with_ottus_reason(shop: DeletingShop, locked_status: int) -> None:
    card = locked(shop, locked_status)
    deletion = shop.ask(card)
    shop.work()
    shown = shop.show(deletion)
    assert (shown.status, shown.attempts) == ("blocked", 1)
    assert shown.error == f"Ottu refuses ({locked_status}): The card is tied to an agreement."
    assert statuses(shop) == "active"
    assert shop.feed()[-2:] == ["deleting", "restored"]
    assert shop.steps(deletion) == ["asked", "called", "answered", "listed", "blocked"]
    assert shop.details(deletion, "blocked") == [{"reason": shown.error}]
    shop.work_for(60)
    assert len(shop.desk.statuses) == 1


def locked(shop: DeletingShop, locked_status: int = 400) -> uuid.UUID:
    card, _ = shop.stock(T1, T2)
    shop.desk.world.knobs = shop.desk.knobs.turned(locked_status=locked_status)
    shop.desk.world.pay("sandbox", "cust-1", T1, agreement_id="agreement-1")
    shop.reconcile_now()
    return card


@pytest.mark.parametrize("when_unlocked", [True, False])
def test_a_blocked_deletion_goes_on_by_itself_when_asked_to(shop: DeletingShop, when_unlocked: bool) -> None:
    card = locked(shop)
    deletion = shop.ask(card, when_unlocked=when_unlocked)
    shop.work()
    assert shop.show(deletion).status == "blocked"
    shop.reconcile_now()
    assert shop.show(deletion).status == "blocked"  # nothing has changed
    shop.desk.world.pay("sandbox", "cust-1", T2, agreement_id="agreement-1")
    shop.reconcile_now()
    if not when_unlocked:
        assert (shop.show(deletion).status, statuses(shop)) == ("blocked", "active")
        return
    assert (shop.show(deletion).status, statuses(shop)) == ("pending", "deleting")
    shop.work()
    assert shop.show(deletion).status == "done"
    assert shop.steps(deletion)[4:] == ["blocked", "unlocked", "called", "answered", "absent", "done"]
    assert shop.desk.statuses == [400, 204]


def test_a_refusal_without_an_agreement_is_not_tried_again_and_again(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card, when_unlocked=True)
    shop.desk.faults["delete"].append(400)
    shop.work()
    shop.reconcile_now()
    shop.work_for(30)
    assert shop.show(deletion).status == "blocked"
    assert shop.desk.statuses == [400]


def test_an_old_wish_does_not_delete_a_new_life(shop: DeletingShop) -> None:
    card = locked(shop)
    deletion = shop.ask(card, when_unlocked=True)
    shop.work()
    shop.desk.world.end_agreement("sandbox", "agreement-1")
    shop.desk.world.delete_silently("sandbox", "cust-1", T1)
    shop.reconcile_now()
    assert statuses(shop) == "removed"
    shop.desk.world.save_card("sandbox", "cust-1", token=T1)
    shop.reconcile_now()
    shop.work()
    assert (statuses(shop), shop.card(T1).life) == ("active", 2)
    assert shop.show(deletion).status == "blocked"
    with shop.engine.begin() as connection:
        assert not deletions.replay(connection, deletion)


def test_a_request_that_ottu_never_takes_is_blocked_with_its_words(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    shop.desk.always["delete"] = lambda: OttuRejected("Ottu rejects the deletion: 405", status_code=405)
    shop.work()
    assert shop.show(deletion).status == "blocked"


# Trouble.


def test_throttling_waits_as_long_as_ottu_asks(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    shop.desk.faults["delete"].append(Fault(OttuThrottled("429", retry_after_seconds=30, status_code=429)))
    shop.work()
    assert shop.details(deletion, "answered")[0]["status_code"] == 429
    shop.work_for(28)
    assert (shop.show(deletion).status, shop.desk.statuses) == ("pending", [])
    shop.work_for(5)
    assert shop.show(deletion).status == "done"
    assert shop.show(deletion).attempts == 2


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_use_no_attempt_and_it_resumes_by_itself(shop: DeletingShop, status: int) -> None:
    (card,) = shop.stock(T1)
    shop.later(120)  # no list has worked lately
    deletion = shop.ask(card)
    shop.desk.always["list"] = lambda: CredentialsRefused("refused", status_code=status)
    if status == 401:
        shop.desk.always["delete"] = shop.desk.always["list"]
    else:
        shop.desk.faults["delete"].extend([403] * 1_000)
    shop.work_for(300, step=10)
    shown = shop.show(deletion)
    assert (shown.status, shown.attempts, statuses(shop)) == ("pending", 0, "deleting")
    assert shop.execute("SELECT breaker_reason FROM cardsync.gate") == [("credentials",)]
    shop.desk.always.clear()
    shop.desk.faults["delete"].clear()
    shop.work_for(60)
    assert shop.show(deletion).status == "done"
    assert shop.show(deletion).attempts == 1


def test_refused_credentials_end_no_deletion_however_long_they_last(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    shop.later(120)
    deletion = shop.ask(card)
    shop.desk.always["list"] = lambda: CredentialsRefused("401", status_code=401)
    shop.desk.always["delete"] = shop.desk.always["list"]
    shop.work_for(30 * HOUR, step=HOUR)
    assert shop.show(deletion).status == "pending"
    shop.desk.always.clear()
    shop.work_for(60)
    assert shop.show(deletion).status == "done"


def test_a_403_for_one_card_while_lists_work_is_that_cards_own(shop: DeletingShop) -> None:
    card = locked(shop, 403)
    deletion = shop.ask(card)
    shop.work()
    assert shop.show(deletion).status == "blocked"
    assert shop.execute("SELECT paused_until, breaker_reason FROM cardsync.gate") == [(None, None)]


def test_a_403_after_a_refused_list_is_not_the_cards_own(shop: DeletingShop) -> None:
    card = locked(shop, 403)
    shop.stock(T2, customer_id="cust-2")
    deletion = shop.ask(card)
    shop.later(120)

    def a_list_is_refused() -> None:
        shop.desk.faults["list"].append(Fault(CredentialsRefused("403", status_code=403)))
        assert shop.reconcile_now("cust-2").outcome == "failed"

    shop.desk.before["delete"] = a_list_is_refused  # while the call is under way, and was let through
    assert shop.delete(deletion).outcome == "not_done"
    assert shop.show(deletion).attempts == 0
    shop.work_for(60)
    assert shop.show(deletion).status == "blocked"


def test_after_24_hours_of_failures_it_is_given_up_and_can_be_replayed(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    shop.desk.always["delete"] = lambda: OttuFault("Ottu failed: 503", status_code=503)
    shop.work_for(GIVE_UP_SECONDS - HOUR, step=900)
    assert shop.show(deletion).status in ("pending", "in_progress")
    assert shop.show(deletion).attempts > 30
    shop.work_for(1.5 * HOUR, step=900)
    shown = shop.show(deletion)
    assert (shown.status, statuses(shop)) == ("failed", "active")
    assert shop.steps(deletion)[-1] == "failed"
    shop.desk.always.clear()
    with shop.engine.begin() as connection:
        assert deletions.replay(connection, deletion)
        assert not deletions.replay(connection, deletion)
    assert (shop.show(deletion).status, statuses(shop)) == ("pending", "deleting")
    shop.work()
    assert shop.show(deletion).status == "done"
    assert shop.feed() == ["added", "deleting", "restored", "deleting", "removed"]


def test_it_is_given_up_also_when_no_list_can_be_had(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    for call in ("delete", "list"):
        shop.desk.always[call] = lambda: OttuUnavailable("no answer")
    shop.work_for(GIVE_UP_SECONDS + HOUR, step=1_800)
    assert (shop.show(deletion).status, statuses(shop)) == ("failed", "active")
    assert shop.steps(deletion)[-2:] == ["unlisted", "failed"]
    shop.desk.always.clear()
    shop.work_for(HOUR, step=600)
    assert statuses(shop) == "active"


def test_throttling_for_24_hours_is_given_up(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    shop.desk.always["delete"] = lambda: OttuThrottled("429", status_code=429)
    shop.work_for(GIVE_UP_SECONDS + HOUR, step=1_800)
    assert (shop.show(deletion).status, statuses(shop)) == ("failed", "active")


def test_a_token_that_cannot_be_called_is_given_up_at_once(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    shop.desk.faults["delete"].append(Fault(UnusableCard("a token that would name another path")))
    shop.work()
    assert (shop.show(deletion).status, statuses(shop)) == ("failed", "active")


def test_over_the_budget_nothing_is_called_and_no_attempt_is_used_up(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    spent = DeletePolicy(daily_calls=1, call_seconds=10.0)
    assert delete(shop.worker, shop.desk, deletion, spent, jitter=0.5).outcome == "paused"
    shown = shop.show(deletion)
    assert (shown.status, shown.attempts) == ("pending", 0)
    assert "BudgetSpent" in (shown.error or "")
    assert shop.steps(deletion) == ["asked"]
    assert shop.customer().ticket_no is None
    assert delete(shop.worker, shop.desk, deletion, DELETE_POLICY, jitter=0.5).outcome == "not_due"


def test_every_call_is_counted(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    shop.ask(card)
    before = sum(r.calls for r in shop.execute("SELECT calls FROM cardsync.call_minutes"))
    lists = shop.desk.lists
    shop.work()
    after = sum(r.calls for r in shop.execute("SELECT calls FROM cardsync.call_minutes"))
    assert after - before == len(shop.desk.statuses) + shop.desk.lists - lists == 2


def test_where_ottu_offers_no_api_a_deletion_is_given_up_at_once(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    assert delete(shop.worker, None, deletion, DELETE_POLICY, jitter=0.5).outcome == "gave_up"
    assert delete(shop.worker, None, deletion, DELETE_POLICY, jitter=0.5).outcome == "not_due"
    assert (shop.show(deletion).status, statuses(shop)) == ("failed", "active")


# What stays, and what comes back.


def test_the_token_is_nowhere_once_the_card_is_removed(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card, idempotency_key="k", reason="moved away", request_hash=b"1" * 32)
    shop.delete(deletion)
    pending, failed = uuid.uuid4(), uuid.uuid4()

    def two_hints_arrive() -> None:
        nonlocal pending, failed
        pending = shop.receive(token=T1, session_id="d" * 40).event_id
        failed = shop.receive(token=T1, session_id="c" * 40).event_id
        shop.execute("UPDATE cardsync.events SET status = 'failed' WHERE event_id = :id", id=failed)
        assert T1 in shop.everything()

    shop.desk.after["list"] = two_hints_arrive
    assert shop.look().again
    assert (shop.show(deletion).status, statuses(shop)) == ("in_progress", "deleting")  # there is newer evidence
    shop.look()
    assert (shop.show(deletion).status, statuses(shop)) == ("done", "removed")
    assert T1 not in shop.everything()
    done = [("done", card, None), ("done", card, None)]
    hints = "SELECT status, card_id, token FROM cardsync.events WHERE event_id = ANY(:ids)"
    assert shop.execute(hints, ids=[pending, failed]) == done
    shop.work_for(200, step=10)  # the hints are looked after for their time, and the card stays removed
    assert (statuses(shop), shop.customer().due_at) == ("removed", None)


def test_a_removal_without_a_request_erases_the_token_just_so(shop: DeletingShop) -> None:
    shop.stock(T1)
    shop.desk.world.delete_silently("sandbox", "cust-1", T1)
    shop.receive(token=T1, session_id="d" * 40)
    shop.reconcile_now()
    shop.work_for(200, step=10)
    assert statuses(shop) == "removed"
    assert T1 not in shop.everything()


def test_a_card_that_is_saved_again_is_a_new_life_with_a_deletion_of_its_own(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    first = shop.ask(card)
    shop.work()
    assert shop.stock(T1) == [card]
    assert (statuses(shop), shop.card(T1).life) == ("active", 2)
    second = shop.ask(card)
    assert second != first
    shop.work()
    assert {shop.show(first).status, shop.show(second).status} == {"done"}
    assert shop.desk.statuses == [204, 204]


def test_a_card_saved_again_before_the_proof_is_proved_and_comes_back(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    shop.delete(deletion)
    shop.desk.world.knobs = shop.desk.knobs.turned(list_lag_seconds=10)
    shop.desk.world.save_card("sandbox", "cust-1", token=T1)
    shop.hint(token=T1, session_id="b" * 40)
    shop.work()
    assert (shop.show(deletion).status, statuses(shop)) == ("done", "removed")
    assert T1 not in shop.everything()
    shop.work_for(30)
    assert (statuses(shop), shop.card(T1).life) == ("active", 2)
    assert shop.desk.statuses == [204]


def test_the_sweep_rings_for_a_request_that_nobody_heard(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    assert shop.sweep().deletions == ()  # just asked for: it was rung for
    shop.later(11)
    assert shop.sweep().deletions == (deletion,)
    assert shop.sweep().deletions == ()


def test_a_deletion_moves_under_a_guard(shop: DeletingShop) -> None:
    from cardsync.store import deleting

    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    with shop.engine.begin() as connection, pytest.raises(Superseded):
        deleting.move(connection, deletion, "calling", "said_gone")
