"""The brake on requests for deletions: whose requests are held, from which on, and what ends it."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, Engine, event, text

from cardsync.core.deletion import STATUS
from cardsync.store.deletions import askers, receipts, requests
from cardsync.store.deletions.requests import Requested
from cardsync.stories.release_deletions import Released, release_deletions
from tests.factories import CustomerFactory, make_card
from tests.waiting import until

CARDS = 6


@pytest.fixture
def cards(engine: Engine) -> list[uuid.UUID]:
    made = [make_card(CustomerFactory(), token=f"999900000000000{n}").card_id for n in range(CARDS)]
    with engine.begin() as connection:
        askers.keep_limits(connection, share=0.01, floor=2)
    return made


def ask(engine: Engine, card_id: uuid.UUID, asker: str = "api:shop") -> Requested:
    with engine.begin() as connection:
        return requests.request(connection, card_id=card_id, requested_by="test", asker=asker)


def shown(engine: Engine, deletion_id: uuid.UUID) -> requests.Deletion:
    with engine.connect() as connection:
        found = requests.show(connection, deletion_id)
    assert found is not None
    return found


def status_of(engine: Engine, card_id: uuid.UUID) -> str:
    with engine.connect() as connection:
        found: str = connection.execute(
            text("SELECT status FROM registry.cards WHERE card_id = :card_id"), {"card_id": card_id}
        ).scalar_one()
    return found


def test_what_one_asker_asks_for_beyond_the_floor_is_held_and_anothers_is_not(
    engine: Engine, cards: list[uuid.UUID]
) -> None:
    asked = [ask(engine, card) for card in cards[:4]]
    assert [one.held for one in asked] == [False, False, True, True]
    assert not ask(engine, cards[4], asker="api:support").held
    held = shown(engine, asked[2].deletion_id)
    assert (held.status, held.error, held.next_attempt_at, held.asker) == ("pending", "held", None, "api:shop")
    assert status_of(engine, cards[2]) == "deleting"
    with engine.connect() as connection:
        (who,) = askers.held(connection)
        assert (who.asker, who.asked, who.deletions_held) == ("api:shop", 4, 2)
        assert receipts.steps(connection, asked[2].deletion_id)[0].detail["held"] is True
    again = ask(engine, cards[2])
    assert (again.deletion_id, again.fresh, again.held) == (asked[2].deletion_id, False, True)


def test_one_statement_of_a_service_takes_no_more_than_single_requests(engine: Engine, cards: list[uuid.UUID]) -> None:
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL ROLE cardsync_deleter"))
        connection.execute(
            text("SELECT registry.request_deletion(card_id, 'a service', NULL) FROM registry.active_cards")
        ).all()
    with engine.connect() as connection:
        login = connection.execute(text("SELECT session_user")).scalar_one()
        (who,) = askers.held(connection)
        errors = connection.execute(text("SELECT error FROM registry.deletions")).scalars()
        assert sorted(error or "" for error in errors) == ["", "", *["held"] * (CARDS - 2)]
    assert (who.asker, who.deletions_held) == (f"sql:{login}", CARDS - 2)


def test_a_share_of_the_active_cards_may_be_more_than_the_floor(engine: Engine, cards: list[uuid.UUID]) -> None:
    with engine.begin() as connection:
        connection.execute(text("ANALYZE cardsync.cards"))
        askers.keep_limits(connection, share=0.5, floor=1)
        assert connection.execute(text("SELECT cardsync.active_cards_estimate()")).scalar_one() == CARDS
    assert [ask(engine, card).held for card in cards] == [False] * 3 + [True] * 3


def test_an_asker_stays_held_the_next_day_and_one_who_is_not_counts_from_zero(
    engine: Engine, cards: list[uuid.UUID]
) -> None:
    for card in cards[:3]:
        ask(engine, card)
    ask(engine, cards[3], asker="api:support")
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.deletion_askers SET day = day - 1"))
    assert ask(engine, cards[4]).held
    assert not ask(engine, cards[5], asker="api:support").held
    with engine.connect() as connection:
        asked = connection.execute(text("SELECT asked FROM cardsync.deletion_askers WHERE asker = 'api:support'"))
        assert asked.scalar_one() == 1


def test_each_held_asker_is_told_of_once_and_no_open_transaction_is_waited_for(
    engine: Engine, worker_engine: Engine, cards: list[uuid.UUID]
) -> None:
    for card in cards[:3]:
        ask(engine, card)
    with engine.begin() as asking:
        requests.request(asking, card_id=cards[3], requested_by="test", asker="api:shop")
        with worker_engine.begin() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '5s'"))
            assert askers.to_tell(connection) == []
    with worker_engine.begin() as connection:
        assert askers.to_tell(connection) == [("api:shop", 4)]
        assert askers.to_tell(connection) == []


def test_a_release_makes_due_what_was_held_and_counts_from_zero(
    engine: Engine, worker_engine: Engine, cards: list[uuid.UUID]
) -> None:
    asked = [ask(engine, card) for card in cards[:4]]
    assert release_deletions(worker_engine, by="op", asker="api:nobody") == Released((), 0, 0)
    assert release_deletions(worker_engine, by="op") == Released(("api:shop",), 2, 0)
    for one in asked[2:]:
        now = shown(engine, one.deletion_id)
        assert (now.status, now.error) == ("pending", None)
        assert now.next_attempt_at is not None
    with engine.connect() as connection:
        last = receipts.steps(connection, asked[2].deletion_id)[-1]
        assert (last.step, last.detail) == ("replayed", {"released_by": "op"})
        assert receipts.verify(connection).broken_at is None
    assert [ask(engine, card).held for card in cards[4:]] == [False, False]


def test_a_release_waits_for_what_another_session_locks_and_says_what_is_left(
    engine: Engine, worker_engine: Engine, cards: list[uuid.UUID]
) -> None:
    asked = [ask(engine, card) for card in cards]
    patience = ["100ms"]

    def time_out(connection: Connection) -> None:
        connection.execute(text(f"SET LOCAL lock_timeout = '{patience[0]}'"))

    locked = [asked[2].deletion_id, asked[4].deletion_id]
    with engine.connect() as other:
        other.execute(
            text("SELECT FROM cardsync.deletions WHERE deletion_id = ANY(:these) FOR UPDATE"), {"these": locked}
        )
        event.listen(worker_engine, "begin", time_out)
        assert release_deletions(worker_engine, by="op") == Released(("api:shop",), 2, 2)
        patience[0] = "60s"
        # Called again, it goes on with these, and waits for them: for the other session it is as it was.
        with ThreadPoolExecutor(1) as pool:
            again = pool.submit(release_deletions, worker_engine, by="op")
            until(lambda: waits_for_a_lock(engine), "the release waits for the other session")
            other.rollback()
            assert again.result() == Released((), 2, 0)
    event.remove(worker_engine, "begin", time_out)
    assert {shown(engine, one.deletion_id).error for one in asked[2:]} == {None}


def test_what_is_held_since_a_release_stays_held_though_another_one_is_cut_short(
    engine: Engine, worker_engine: Engine, cards: list[uuid.UUID]
) -> None:
    first = [ask(engine, card) for card in cards[:3]][2]
    with worker_engine.begin() as connection:
        assert askers.release(connection) == ["api:shop"]  # and nothing after it: the process was killed
    other = [ask(engine, card, asker="api:other") for card in cards[3:]][2]
    with worker_engine.begin() as connection:
        assert askers.left(connection) == [first.deletion_id]
        assert askers.let_go(connection, by="op") == 1
    assert shown(engine, other.deletion_id).error == "held"


def waits_for_a_lock(engine: Engine) -> bool:
    with engine.connect() as connection:
        asked = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        found = connection.execute(text(asked)).first()
    return found is not None


def test_a_held_deletion_that_is_cancelled_gives_its_card_back(
    engine: Engine, worker_engine: Engine, cards: list[uuid.UUID]
) -> None:
    asked = [ask(engine, card) for card in cards[:3]][2]
    with worker_engine.begin() as connection:
        assert requests.cancel(connection, asked.deletion_id, by="op")
        assert not requests.cancel(connection, asked.deletion_id, by="op")
    ended = shown(engine, asked.deletion_id)
    assert (ended.status, ended.error) == ("failed", "cancelled")
    assert status_of(engine, cards[2]) == "active"


def test_a_deletion_that_ottu_was_called_for_cannot_be_cancelled(engine: Engine, cards: list[uuid.UUID]) -> None:
    asked = ask(engine, cards[0])
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE cardsync.deletions SET phase = 'calling', due_at = NULL, called_at = clock_timestamp()")
        )
        assert not requests.cancel(connection, asked.deletion_id, by="op")
    assert shown(engine, asked.deletion_id).status == STATUS["calling"]
