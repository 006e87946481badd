"""Asking for a deletion by SQL: who may, what it does in the caller's own transaction, and that it rings at the commit."""

from __future__ import annotations

import uuid
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from cardsync.core.deletion import STATUS
from tests.factories import CustomerFactory, make_card

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
        rung = [notice.payload for notice in listener.notifies(timeout=5, stop_after=1)]
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
