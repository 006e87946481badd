"""Requests for deletions, in SQL and from the code: who may ask, what it does in its own transaction, and when it rings."""

from __future__ import annotations

import uuid
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from cardsync.core.cards import Token
from cardsync.core.deletion import STATUS
from cardsync.errors import Conflict, NotFound, Refused
from cardsync.store import feed
from cardsync.store.deletions import receipts, requests, transitions
from tests.factories import SECRET, CustomerFactory, make_card
from tests.waiting import WAIT_SECONDS

TOKEN = "9999000000000001"
ROLES = ("cardsync_reader", "cardsync_charger", "cardsync_deleter")
ASK = text("SELECT registry.request_deletion(:card_id, :requested_by, :key)")


def ask(connection: Connection, card_id: uuid.UUID, **wish: Any) -> uuid.UUID:
    connection.execute(text("SET LOCAL ROLE cardsync_deleter"))
    asked = {"requested_by": "crm", "key": None, **wish}
    deletion_id: uuid.UUID = connection.execute(ASK, {"card_id": card_id, **asked}).scalar_one()
    connection.execute(text("RESET ROLE"))
    return deletion_id


def seen_by(engine: Engine, role: str, statement: str) -> list[Any]:
    with engine.begin() as connection:
        connection.execute(text(f"SET LOCAL ROLE {role}"))
        return list(connection.execute(text(statement)))


@pytest.fixture
def card_id(engine: Engine) -> uuid.UUID:
    card: uuid.UUID = make_card(CustomerFactory(), token=TOKEN).card_id
    return card


def test_a_service_asks_in_its_own_transaction_and_sees_the_card_leave(engine: Engine, card_id: uuid.UUID) -> None:
    with engine.begin() as connection:
        deletion_id = ask(connection, card_id, key="k")
        assert ask(connection, card_id, key="k") == deletion_id
        assert connection.execute(text("SELECT 1 FROM registry.active_cards")).all() == []
    assert seen_by(engine, "cardsync_reader", "SELECT 1 FROM registry.active_cards") == []
    (row,) = seen_by(engine, "cardsync_reader", "SELECT * FROM registry.deletions")
    assert (row.deletion_id, row.card_id, row.status, row.requested_by) == (deletion_id, card_id, "pending", "crm")
    with engine.begin() as connection:  # as the worker does, rung at the commit
        assert feed.number_waiting(connection) == 1
    (change,) = seen_by(engine, "cardsync_reader", "SELECT change, cause FROM registry.card_changes WHERE seq = 2")
    assert (change.change, change.cause) == ("deleting", "deletion")


def test_it_is_rolled_back_with_that_transaction_and_does_not_ring(
    engine: Engine, database_url: str, card_id: uuid.UUID
) -> None:
    with psycopg.connect(database_url, autocommit=True) as listener:
        listener.execute("LISTEN cardsync_deletions")
        with engine.connect() as connection:
            ask(connection, card_id)
            connection.rollback()
        with engine.begin() as connection:
            deletion_id = ask(connection, card_id)
        rung = [notice.payload for notice in listener.notifies(timeout=WAIT_SECONDS, stop_after=1)]
    assert rung == [str(deletion_id)]
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM cardsync.deletions")).scalar_one() == 1


@pytest.mark.parametrize("role", ROLES)
def test_only_the_deleter_may_ask_and_everybody_may_look(engine: Engine, role: str, card_id: uuid.UUID) -> None:
    seen_by(engine, role, "SELECT * FROM registry.deletions")
    statement = f"SELECT registry.request_deletion('{card_id}', 'crm', NULL)"
    if role == "cardsync_deleter":
        seen_by(engine, role, statement)
    else:
        with pytest.raises(DBAPIError, match="permission denied"):
            seen_by(engine, role, statement)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM registry.card_tokens",
        "SELECT token FROM cardsync.cards",
        "SELECT * FROM cardsync.deletions",
        "SELECT * FROM cardsync.deletion_steps",
        "SELECT cardsync.request_deletion(gen_random_uuid(), 'x', NULL, NULL, NULL, false)",
        "SELECT cardsync.chain_deletion_step()",
        "SELECT cardsync.number_changes()",
        "SELECT cardsync.number_waiting_changes('{1}')",
        "SELECT cardsync.is_asking_transaction()",
        "UPDATE registry.deletions SET status = 'done'",
        "DELETE FROM registry.deletions",
    ],
)
def test_the_deleter_can_do_nothing_else(engine: Engine, statement: str) -> None:
    with pytest.raises(DBAPIError, match=r"permission denied|cannot"):
        seen_by(engine, "cardsync_deleter", statement)


def test_names_of_the_callers_own_are_not_looked_at(engine: Engine, card_id: uuid.UUID) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TEMP TABLE mine (x int)"))
        connection.execute(
            text(
                "CREATE FUNCTION pg_temp.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz'"
            )
        )
        connection.execute(text("SET LOCAL search_path = pg_temp, public"))
        ask(connection, card_id)


@pytest.mark.parametrize(
    ("wish", "state"),
    [
        ({"requested_by": ""}, "22023"),
        ({"requested_by": None}, "22023"),
        ({"requested_by": "x" * 101}, "22023"),
        ({"key": ""}, "22023"),
        ({"key": "k" * 256}, "22023"),
        ({"card_id": uuid.uuid4()}, "P0002"),
        ({"card_id": None}, "P0002"),
    ],
)
def test_a_senseless_wish_has_a_state_of_its_own(
    engine: Engine, card_id: uuid.UUID, wish: dict[str, Any], state: str
) -> None:
    with pytest.raises(DBAPIError) as caught, engine.begin() as connection:
        ask(connection, **{"card_id": card_id, **wish})
    assert caught.value.orig is not None
    assert getattr(caught.value.orig, "sqlstate") == state  # noqa: B009  (the driver's attribute)
    assert TOKEN not in str(caught.value)


def test_a_card_that_is_not_active_cannot_be_asked_for(engine: Engine) -> None:
    waiting = make_card(CustomerFactory(), status="unconfirmed", awaited_no=1, awaited_at="now").card_id
    with pytest.raises(DBAPIError, match="the card is unconfirmed: only an active one"), engine.begin() as connection:
        ask(connection, waiting)


def test_the_view_and_the_machine_call_a_phase_by_the_same_status(engine: Engine, card_id: uuid.UUID) -> None:
    with engine.begin() as connection:
        deletion_id = ask(connection, card_id)
    for phase, status in STATUS.items():
        with engine.connect() as connection:
            connection.execute(
                text(
                    """UPDATE cardsync.deletions SET phase = :phase, called_at = now(),
                       due_at = CASE WHEN :phase = 'asked' THEN now() END,
                       proof_no = CASE WHEN :phase = 'done' THEN since_no + 1 END,
                       finished_at = CASE WHEN :phase IN ('done', 'blocked', 'failed') THEN now() END"""
                ),
                {"phase": phase},
            )
            shown = connection.execute(
                text("SELECT status FROM registry.deletions WHERE deletion_id = :id"), {"id": deletion_id}
            )
            assert shown.scalar_one() == status
            connection.rollback()


def test_the_database_takes_no_done_without_a_later_list(engine: Engine, card_id: uuid.UUID) -> None:
    with engine.begin() as connection:
        ask(connection, card_id)
    for proof in ("NULL", "since_no", "since_no - 1"):
        done = f"UPDATE cardsync.deletions SET phase = 'done', due_at = NULL, finished_at = now(), proof_no = {proof}"
        with (
            pytest.raises(DBAPIError, match=r"deletions_(done_is_proved|proof_is_later)"),
            engine.begin() as connection,
        ):
            connection.execute(text(done))


def change_another(engine: Engine, card_id: uuid.UUID) -> None:
    """A change of ours, as a worker makes them all day. Raises if something holds the feed's head."""
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL lock_timeout = '2s'"))
        connection.execute(
            text("UPDATE cardsync.cards SET brand = coalesce(brand, '') || 'X' WHERE card_id = :card"),
            {"card": card_id},
        )


def changes(engine: Engine) -> list[tuple[int, uuid.UUID, str]]:
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT seq, card_id, change FROM registry.card_changes ORDER BY seq"))
        return [(row.seq, row.card_id, row.change) for row in rows]


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_request_at_a_stricter_isolation_level_commits_whatever_else_changed(
    engine: Engine, card_id: uuid.UUID, level: str
) -> None:
    other = make_card(CustomerFactory(), token="9999000000000002").card_id
    with engine.connect().execution_options(isolation_level=level) as connection, connection.begin():
        connection.execute(text("SELECT count(*) FROM registry.cards")).one()  # the snapshot is taken here
        change_another(engine, other)
        ask(connection, card_id)
        change_another(engine, other)
    with engine.begin() as connection:
        feed.number_waiting(connection)
    found = changes(engine)
    assert [seq for seq, *_ in found] == list(range(1, len(found) + 1))
    assert (card_id, "deleting") in [(card, change) for _, card, change in found]
    with engine.connect() as connection:
        assert receipts.verify(connection).broken_at is None


@pytest.mark.parametrize("first", [True, False])
def test_immediate_constraints_in_an_askers_open_transaction_stop_no_other_change(
    engine: Engine, card_id: uuid.UUID, first: bool
) -> None:
    other = make_card(CustomerFactory(), token="9999000000000002").card_id
    immediate = text("SET CONSTRAINTS ALL IMMEDIATE")
    with engine.connect() as asker:
        asker.begin()
        if first:
            asker.execute(immediate)
        ask(asker, card_id)
        asker.execute(immediate)
        change_another(engine, other)
        with engine.begin() as connection:
            assert feed.number_waiting(connection) == 0
        asker.commit()
    change_another(engine, card_id)  # brings along what was committed before of that customer
    assert [change for _, _, change in changes(engine)] == ["added", "added", "updated", "deleting", "updated"]
    with engine.connect() as connection:
        assert receipts.verify(connection).broken_at is None


def test_a_service_that_asks_twice_with_one_key_leaves_nothing_behind(engine: Engine, card_id: uuid.UUID) -> None:
    for _ in range(2):
        with engine.begin() as connection:
            ask(connection, card_id, key="k")
    with engine.begin() as connection:
        feed.number_waiting(connection)
        for table in ("asking_transactions", "unnumbered_changes", "unchained_steps"):
            assert connection.execute(text(f"SELECT count(*) FROM cardsync.{table}")).scalar_one() == 0
    assert [change for _, _, change in changes(engine)] == ["added", "deleting"]


def test_other_changes_in_an_askers_transaction_reach_the_feed_in_their_order(
    engine: Engine, card_id: uuid.UUID
) -> None:
    with engine.begin() as connection:
        ask(connection, card_id)
        connection.execute(text("UPDATE cardsync.cards SET status = 'active', cause = 'deletion'"))
    change_another(engine, card_id)
    assert [change for _, _, change in changes(engine)] == ["added", "deleting", "restored", "updated"]


def test_numbering_waits_for_no_customer_that_somebody_holds(engine: Engine, card_id: uuid.UUID) -> None:
    """A worker that deletes holds the customer and then wants the feed's head: to want both the other way round deadlocks."""
    other = make_card(CustomerFactory(), token="9999000000000002").card_id
    for card in (card_id, other):
        with engine.begin() as connection:
            ask(connection, card)
    hold = text(
        "SELECT FROM cardsync.customers WHERE id = (SELECT customer FROM cardsync.cards WHERE card_id = :card) FOR UPDATE"
    )
    with engine.connect() as holder:
        holder.begin()
        holder.execute(hold, {"card": card_id})
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '2s'"))
            assert feed.number_waiting(connection) == 1  # the other one
        holder.execute(text("UPDATE cardsync.cards SET brand = 'X' WHERE card_id = :card"), {"card": card_id})
        holder.commit()
    found = changes(engine)
    assert [change for _, card, change in found if card == card_id] == ["added", "deleting", "updated"]
    assert [seq for seq, *_ in found] == list(range(1, len(found) + 1))


# The same function as the code calls it.


def request(engine: Engine, card_id: uuid.UUID, **given: Any) -> requests.Requested:
    with engine.begin() as connection:
        return requests.request(connection, card_id=card_id, requested_by="test", **given)


def test_a_second_request_gets_the_deletion_that_is_under_way(engine: Engine, card_id: uuid.UUID) -> None:
    first = request(engine, card_id)
    assert first.fresh
    assert request(engine, card_id) == requests.Requested(first.deletion_id, fresh=False)


def test_a_refusal_leaves_the_transaction_usable_and_says_what_kind_it_is(engine: Engine, card_id: uuid.UUID) -> None:
    other = make_card(CustomerFactory()).card_id
    with engine.begin() as connection:
        with pytest.raises(NotFound):
            requests.request(connection, card_id=uuid.uuid4(), requested_by="test")
        with pytest.raises(Refused):
            requests.request(connection, card_id=card_id, requested_by="")
        requests.request(connection, card_id=card_id, requested_by="test", idempotency_key="k", request_hash=bytes(32))
        with pytest.raises(Conflict):
            requests.request(
                connection, card_id=other, requested_by="test", idempotency_key="k", request_hash=bytes(31) + b"1"
            )
    with engine.connect() as connection:
        assert [d.card_id for d in requests.listing(connection, status="pending", limit=9)] == [card_id]


def test_only_a_deletion_that_ended_without_success_is_replayed_and_only_for_the_same_life(
    engine: Engine, card_id: uuid.UUID
) -> None:
    deletion = request(engine, card_id).deletion_id

    def replay() -> bool:
        with engine.begin() as connection:
            return requests.replay(connection, deletion)

    assert replay() is False
    with engine.begin() as connection:
        transitions.give_up(connection, deletion, error="x")
        connection.execute(text("UPDATE cardsync.cards SET life = life + 1"))
    assert replay() is False
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.cards SET life = life - 1"))
    assert replay() is True
    with engine.connect() as connection:
        shown = requests.show(connection, deletion)
        assert requests.replay(connection, uuid.uuid4()) is False
    assert shown is not None
    assert (shown.status, shown.error) == ("pending", None)


def test_deletions_are_listed_newest_first_by_status_and_bounded(engine: Engine) -> None:
    customer = CustomerFactory()
    asked = [request(engine, make_card(customer).card_id).deletion_id for _ in range(3)]
    with engine.connect() as connection:
        assert [d.deletion_id for d in requests.listing(connection, status=None, limit=2)] == asked[:0:-1]
        assert requests.listing(connection, status="done", limit=9) == []
        assert requests.show(connection, uuid.uuid4()) is None


def test_a_card_is_found_by_its_fingerprint_within_its_customer(engine: Engine, card_id: uuid.UUID) -> None:
    fingerprint = Token(TOKEN).fingerprint(SECRET, "sandbox")
    with engine.connect() as connection:
        customer_id = connection.execute(text("SELECT customer_id FROM cardsync.customers")).scalar_one()
        assert requests.find_card(connection, "sandbox", customer_id, fingerprint) == card_id
        assert requests.find_card(connection, "production", customer_id, fingerprint) is None
        assert requests.find_card(connection, "sandbox", "another", fingerprint) is None
