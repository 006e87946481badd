"""After a deletion: the token is gone, a card that is saved again is a new life, and its token opens with its key alone."""

from __future__ import annotations

import uuid

import pytest
from sqlalchemy import Engine

from cardsync.ciphers import KeyRing
from cardsync.stories.claim import claim_deletions
from cardsync.stories.delete import DeletePolicy, delete
from tests.stories.deleting import (
    T1,
    encrypt_cards,
    statuses,
)
from tests.stories.fake_ottu import DeletingShop

pytestmark = pytest.mark.usefixtures("still_clock")  # a busy machine may need longer than waits of two seconds


@pytest.fixture
def shop(engine: Engine, ingest_engine: Engine, web_engine: Engine, worker_engine: Engine) -> DeletingShop:
    return DeletingShop(engine, ingest_engine, web_engine, worker_engine)


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
    shop.desk.world.delete("sandbox", "cust-1", T1)
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


def test_a_deletion_is_claimed_once_and_again_if_nothing_came_of_it(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)

    def claimed() -> tuple[uuid.UUID, ...]:
        return claim_deletions(shop.worker, shop.policy, limit=9).deletion_ids

    shop.later(1)  # in the very moment of the request a claim is not told from none
    assert claimed() == (deletion,)
    assert claimed() == ()
    shop.later(11)
    assert claimed() == (deletion,)


def test_an_encrypted_token_is_opened_for_the_call(shop: DeletingShop) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    encrypt_cards(shop)
    shop.work()
    assert (shop.show(deletion).status, shop.desk.deleted) == ("done", 1)


def test_a_token_that_no_key_here_opens_waits_without_an_attempt_for_a_process_that_has_the_key(
    shop: DeletingShop,
) -> None:
    (card,) = shop.stock(T1)
    deletion = shop.ask(card)
    encrypt_cards(shop)
    stranger = DeletePolicy(KeyRing(b"a secret key of another database."), daily_calls=1_000, call_seconds=10.0)
    result = delete(shop.worker, shop.desk, deletion, stranger, jitter=0.5)
    assert (result.outcome, shop.desk.deleted) == ("paused", 0)
    shown = shop.show(deletion)
    assert (shown.status, shown.attempts, T1 in str(shown.error)) == ("pending", 0, False)
    assert "CARDSYNC_SECRET_KEY" in str(shown.error)
    shop.later(60)
    shop.work()
    assert shop.show(deletion).status == "done"
