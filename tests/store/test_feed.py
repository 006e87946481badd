"""The feed: gap-free, in commit order, for every writer, and rung after each commit."""

from __future__ import annotations

import threading
import uuid
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, text

from cardsync.store import feed as store
from tests.factories import CustomerFactory, make_card
from tests.waiting import WAIT_SECONDS

NEW_CARD = text("""
    INSERT INTO cardsync.cards (customer, fingerprint, token, status, cause)
    VALUES (:customer, decode(md5(:token) || md5(:token || 'x'), 'hex'), :token, 'active', 'hint')
""")


def feed(engine: Engine, after: int = 0) -> list[Any]:
    with engine.connect() as connection:
        return list(
            connection.execute(
                text("SELECT * FROM registry.card_changes WHERE seq > :after ORDER BY seq"), {"after": after}
            )
        )


def add(connection: Connection, customer: int) -> None:
    connection.execute(NEW_CARD, {"customer": customer, "token": uuid.uuid4().hex})


def test_a_change_is_numbered_at_commit_so_a_slow_transaction_hides_nothing(engine: Engine) -> None:
    customer = CustomerFactory().id
    with engine.connect() as slow:
        slow.begin()
        add(slow, customer)
        with engine.begin() as quick:
            add(quick, customer)
        assert [c.seq for c in feed(engine)] == [1]
        slow.commit()
    assert [c.seq for c in feed(engine)] == [1, 2]


def test_a_rolled_back_change_leaves_no_gap(engine: Engine) -> None:
    customer = CustomerFactory().id
    with engine.connect() as connection:
        connection.begin()
        add(connection, customer)
        connection.rollback()
    with engine.begin() as connection:
        add(connection, customer)
    assert [c.seq for c in feed(engine)] == [1]


def test_a_polling_consumer_misses_nothing_while_many_write(engine: Engine) -> None:
    customers = [CustomerFactory().id for _ in range(4)]
    writers, each = 4, 40
    done = threading.Event()

    def write(customer: int) -> None:
        for n in range(each):
            with engine.connect() as connection:
                connection.begin()
                add(connection, customer)
                if n % 5 == 0:
                    connection.rollback()
                else:
                    connection.commit()

    threads = [threading.Thread(target=write, args=(customers[n],)) for n in range(writers)]
    seen: list[int] = []

    def poll() -> None:
        last_round = False
        while True:
            seen.extend(c.seq for c in feed(engine, after=seen[-1] if seen else 0))
            if last_round:
                return
            last_round = done.is_set()

    reader = threading.Thread(target=poll)
    for thread in (*threads, reader):
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    done.set()
    reader.join(WAIT_SECONDS)
    assert seen == list(range(1, writers * each * 4 // 5 + 1))


@pytest.mark.parametrize(
    ("assignment", "change"),
    [
        ("brand = 'MASTERCARD'", "updated"),
        ("status = 'deleting'", "deleting"),
        ("status = 'removed', token = NULL, removed_at = now(), removed_because = 'absent'", "removed"),
    ],
)
def test_every_way_to_change_a_card_reaches_the_feed(engine: Engine, assignment: str, change: str) -> None:
    card = make_card(CustomerFactory())
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE cardsync.cards SET {assignment}"))
    last = feed(engine)[-1]
    assert (last.card_id, last.change) == (card.card_id, change)
    assert "token" not in last.fields


@pytest.mark.parametrize("assignment", ["awaited_no = 5, awaited_at = now()", "brand = brand", "cause = 'sweep'"])
def test_what_nobody_else_can_see_does_not_reach_the_feed(engine: Engine, assignment: str) -> None:
    make_card(CustomerFactory())
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE cardsync.cards SET {assignment}"))
    assert [c.change for c in feed(engine)] == ["added"]


def test_an_unconfirmed_card_reaches_the_feed_when_it_becomes_active(engine: Engine) -> None:
    make_card(CustomerFactory(), status="unconfirmed", awaited_no=1, awaited_at="now")
    assert feed(engine) == []
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.cards SET status = 'active', cause = 'hint'"))
    assert [(c.change, c.fields) for c in feed(engine)] == [("added", [])]


def test_the_feed_rings_after_the_commit(engine: Engine, database_url: str) -> None:
    customer = CustomerFactory().id
    with psycopg.connect(database_url, autocommit=True) as listener:
        listener.execute("LISTEN registry_card_changes")
        with engine.begin() as connection:
            add(connection, customer)
            add(connection, customer)
        rung = list(listener.notifies(timeout=WAIT_SECONDS, stop_after=1))
    assert [n.channel for n in rung] == ["registry_card_changes"]


def test_the_head_is_the_number_of_the_newest_change_for_both_processes(
    engine: Engine, web_engine: Engine, worker_engine: Engine
) -> None:
    def heads() -> set[int]:
        found = set()
        for process in (web_engine, worker_engine):
            with process.connect() as connection:
                found.add(store.head(connection))
        return found

    assert heads() == {0}
    with engine.begin() as connection:
        customer = CustomerFactory().id
        add(connection, customer)
        add(connection, customer)
    assert heads() == {2}
