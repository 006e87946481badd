"""A deletion that Ottu refuses, throttles or does not answer: what waits, what is given up, and what an operator sees."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from cardsync.core.deletion import GIVE_UP_SECONDS
from cardsync.errors import (
    CredentialsRefused,
    OttuFault,
    OttuRejected,
    OttuThrottled,
    OttuUnavailable,
    UnusableCard,
)
from cardsync.store.deletions import requests
from cardsync.stories.delete import DeletePolicy, delete
from tests.factories import RING
from tests.stories.deleting import (
    HOUR,
    T1,
    T2,
    an_ottu_without_empty_lists,
    locked,
    make_known,
    others_lists_work,
    served,
    statuses,
)
from tests.stories.fake_ottu import DELETE_POLICY, DeletingShop, Fault

pytestmark = pytest.mark.usefixtures("still_clock")  # a busy machine may need longer than waits of two seconds


@pytest.fixture
def shop(engine: Engine, ingest_engine: Engine, web_engine: Engine, worker_engine: Engine) -> DeletingShop:
    return DeletingShop(engine, ingest_engine, web_engine, worker_engine)


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
    shop.desk.world.delete("sandbox", "cust-1", T1)
    shop.reconcile_now()
    assert statuses(shop) == "removed"
    shop.desk.world.save_card("sandbox", "cust-1", token=T1)
    shop.reconcile_now()
    shop.work()
    assert (statuses(shop), shop.card(T1).life) == ("active", 2)
    assert shop.show(deletion).status == "blocked"
    with shop.engine.begin() as connection:
        assert not requests.replay(connection, deletion)


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


def test_a_refused_list_explains_no_400_and_the_card_is_not_called_for_again(shop: DeletingShop) -> None:
    """The list is refused for this customer alone, while the card's own refusal is not about credentials at all."""
    card = locked(shop, 400)
    deletion = shop.ask(card)
    assert shop.delete(deletion).outcome == "declined"
    shop.desk.always["list"] = lambda: CredentialsRefused("401", status_code=401)
    shop.work_for(600, step=60)
    assert (shop.show(deletion).status, shop.show(deletion).attempts) == ("in_progress", 1)
    assert len(shop.desk.statuses) == 1
    shop.desk.always.clear()
    shop.work_for(3_600, step=60)
    assert (shop.show(deletion).status, statuses(shop)) == ("blocked", "active")
    assert len(shop.desk.statuses) == 1


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
        assert requests.replay(connection, deletion)
        assert not requests.replay(connection, deletion)
    assert (shop.show(deletion).status, statuses(shop)) == ("pending", "deleting")
    shop.work()
    assert shop.show(deletion).status == "done"
    assert shop.feed() == ["added", "deleting", "restored", "deleting", "removed"]


@pytest.mark.parametrize(("said", "still_there"), [(204, True), (404, True), (None, True), (204, False), (None, False)])
def test_a_card_that_may_be_gone_stays_out_of_active_until_a_list_can_be_had(
    shop: DeletingShop, said: int | None, still_there: bool
) -> None:
    """After "gone", or no answer: for as long as no list comes, and that is longer than the 24 hours of tries."""
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    shop.desk.always["list"] = lambda: OttuFault("Ottu failed: 502", status_code=502)
    if still_there:
        shop.desk.faults["delete"].append(Fault(OttuUnavailable("no answer")) if said is None else said)
    elif said is None:
        shop.desk.faults["delete"].append(Fault(OttuUnavailable("no answer"), after=True))
    shop.work_for(GIVE_UP_SECONDS + 3 * HOUR, step=HOUR)
    shown = shop.show(deletion)
    assert (shown.status, statuses(shop), served(shop)) == ("in_progress", "deleting", [])
    assert shown.error == "no list: OttuFault: Ottu failed: 502"
    assert shop.details(deletion, "unlisted") == [
        {"error": "OttuFault: Ottu failed: 502"}
    ]  # one, however often it was tried
    assert len(shop.desk.statuses) <= 1
    shop.desk.always.clear()
    shop.work_for(HOUR, step=60)
    if still_there:
        assert (shop.show(deletion).status, statuses(shop), served(shop)) == ("failed", "active", [T1])
    else:
        assert (shop.show(deletion).status, statuses(shop)) == ("done", "removed")
    assert len(shop.desk.statuses) <= 1


def test_a_404_to_the_list_proves_a_deletion_that_ottu_confirmed_while_other_lists_work(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    an_ottu_without_empty_lists(shop)
    deletion = shop.ask(card)
    shop.work()
    waiting = shop.show(deletion)  # the other list is older than the call
    assert (waiting.status, statuses(shop)) == ("in_progress", "deleting")
    assert waiting.error == "no list: ListNotFound: Ottu rejects the list: 404"
    others_lists_work(shop)
    shop.work_for(30)
    assert (shop.show(deletion).status, statuses(shop)) == ("done", "removed")
    reasons = [detail["error"] for detail in shop.details(deletion, "unlisted")]
    assert reasons[0] == "ListNotFound: Ottu rejects the list: 404"
    assert reasons[1].startswith("404 to the list, read as an empty one")
    assert shop.reconcile_now().outcome == "unchanged"  # nor does a customer without cards fail for ever


@pytest.mark.parametrize(
    "why", ["the deletion was answered with 404", "no JSON", "a card that nobody deleted", "a hint"]
)
def test_a_404_to_the_list_proves_nothing_otherwise(shop: DeletingShop, why: str) -> None:
    card, *_ = shop.stock(T1, "9999000000000003") if why == "a card that nobody deleted" else shop.stock(T1)
    an_ottu_without_empty_lists(shop, in_json=why != "no JSON")
    if why == "a card that nobody deleted":
        shop.desk.world.delete("sandbox", "cust-1", "9999000000000003")
    if why == "the deletion was answered with 404":
        shop.desk.world.delete("sandbox", "cust-1", T1)
    deletion = shop.ask(card)
    assert shop.delete(deletion).outcome == "gone"
    if why == "a hint":
        shop.hint(token=T1, session_id="d" * 40)
    others_lists_work(shop)
    shop.work_for(60, step=10)
    shown = shop.show(deletion)
    assert (shown.status, statuses(shop)) == ("in_progress", "deleting")
    assert shown.error == "no list: ListNotFound: Ottu rejects the list: 404"


def test_a_404_that_was_read_as_an_empty_list_is_no_witness_for_the_next(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    an_ottu_without_empty_lists(shop)
    make_known(shop, "cust-3")
    deletion = shop.ask(card)
    assert shop.delete(deletion).outcome == "gone"
    assert shop.reconcile_now("cust-3").outcome == "unchanged"  # a 404, and nothing is known of this customer
    assert shop.look().outcome == "failed"


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
    spent = DeletePolicy(RING, daily_calls=1, call_seconds=10.0)
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
