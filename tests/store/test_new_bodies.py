"""The short way into the inbox: what is new goes in, in order, and all else is left to the long way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DataError, OperationalError

from cardsync.core.cards import CardFacts
from cardsync.core.events import body_hash, event_id
from cardsync.core.kept_bodies import KeptBody
from cardsync.core.spool_format import WaitingRow
from cardsync.db import driver_cursor, make_engine, once_more_if_the_connection_was_dead
from cardsync.store.given_rows import as_parameter
from cardsync.store.intake import PIECE_BYTES, Stored, store_rows
from cardsync.store.new_bodies import store_new
from cardsync.stories import endpoints
from cardsync.stories.endpoints import NewEndpoint
from tests.factories import RING
from tests.waiting import WAIT_SECONDS, until

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


def new(name: str, **changes: Any) -> WaitingRow:
    row = WaitingRow(
        body_hash=body_hash(name.encode()),
        status="ignored",
        kind="unknown",
        ignored_because="unknown kind",
        scheme="standard",
        key_id="key",
        signature_hash=body_hash(f"signature of {name}".encode()),
    )
    return replace(row, **changes)


def store(engine: Engine, given: list[WaitingRow]) -> dict[bytes, Stored]:
    with driver_cursor(engine) as cursor:
        return store_new(cursor, given, as_parameter(given))


def counted(engine: Engine, table: str) -> int:
    with engine.connect() as connection:
        found: int = connection.execute(text(f"SELECT count(*) FROM cardsync.{table}")).scalar_one()
        return found


def test_what_is_new_is_inserted_and_numbered_in_the_order_of_arrival(ingest_engine: Engine, engine: Engine) -> None:
    given = [new(f"body {n}") for n in range(50)]
    assert given != sorted(given, key=lambda row: row.body_hash)
    found = store(ingest_engine, given)
    assert found == {row.body_hash: Stored(event_id(row.body_hash), "ignored", fresh=True) for row in given}
    with engine.connect() as connection:
        numbered = connection.execute(text("SELECT body_hash FROM cardsync.events ORDER BY received_at, evidence_no"))
        assert [bytes(hash_) for hash_ in numbered.scalars()] == [row.body_hash for row in given]


def test_work_is_to_be_rung_for(ingest_engine: Engine) -> None:
    whose: dict[str, Any] = {"environment": "sandbox", "customer_id": "c", "facts": CardFacts()}
    row = new("work", status="pending", kind="payment", ignored_because=None, **whose)
    assert store(ingest_engine, [row])[row.body_hash] == Stored(row.event_id, "pending", fresh=True, to_ring=True)


def test_known_bodies_and_known_signatures_are_left_out_and_their_neighbours_are_not(
    ingest_engine: Engine, engine: Engine
) -> None:
    known = new("known")
    store(ingest_engine, [known])
    repeat = new("altered", signature_hash=known.signature_hash)
    assert store(ingest_engine, [known, new("fresh")]).keys() == {new("fresh").body_hash}
    assert store(ingest_engine, [repeat, new("another")]).keys() == {new("another").body_hash}
    assert counted(engine, "events") == counted(engine, "signatures") == 3


@pytest.mark.parametrize(
    "beside",
    [
        new("one"),
        new("other", signature_hash=new("one").signature_hash),
        new("other", signature_hash=None),
        new("other", kept=KeptBody(None, "sealed")),
    ],
    ids=["same body", "same signature", "no signature", "only one kept body"],
)
def test_rows_that_need_the_long_way_are_not_tried(ingest_engine: Engine, engine: Engine, beside: WaitingRow) -> None:
    assert store(ingest_engine, [new("one"), beside]) == {}
    assert counted(engine, "events") == counted(engine, "signatures") == 0


def test_each_new_body_is_kept_under_its_own_id_and_a_known_one_is_left_to_the_long_way(
    ingest_engine: Engine, engine: Engine
) -> None:
    endpoints.add(engine, NewEndpoint("orders", "https://orders.example.test/hook", "notifications"), RING)
    known = new("known")
    store(ingest_engine, [known])
    fresh = [new(f"body {n}", kept=KeptBody("application/json", f"sealed {n}")) for n in range(20)]
    assert store(ingest_engine, [*fresh, replace(known, kept=KeptBody(None, "sealed"))]).keys() == {
        row.body_hash for row in fresh
    }
    with engine.connect() as connection:
        kept = connection.execute(text("SELECT event_id, signature_hash, body FROM cardsync.kept_bodies"))
        assert {(row.event_id, bytes(row.signature_hash), row.body) for row in kept} == {
            (row.event_id, row.signature_hash, row.kept.body) for row in fresh if row.kept
        }
    assert counted(engine, "deliveries") == 20


def test_bodies_that_are_large_together_go_the_long_way_in_pieces(ingest_engine: Engine, engine: Engine) -> None:
    large = KeptBody(None, "x" * (PIECE_BYTES // 2 + 1))
    assert store(ingest_engine, [new("one", kept=large), new("other", kept=large)]) == {}
    assert counted(engine, "events") == 0


def test_a_known_body_whose_signature_was_forgotten_is_found_by_the_long_way(
    ingest_engine: Engine, engine: Engine
) -> None:
    store(ingest_engine, [new("known")])
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM cardsync.signatures"))
    assert store(ingest_engine, [new("known")]) == {}
    with ingest_engine.connect() as connection:
        (found,) = store_rows(connection, [new("known")])
    assert found == Stored(event_id(new("known").body_hash), "ignored", fresh=False)


def test_a_body_that_another_transaction_inserts_is_waited_for_and_left_out(
    ingest_engine: Engine, engine: Engine
) -> None:
    def waits() -> bool:
        with engine.connect() as connection:
            return bool(connection.execute(text(WAITING)).scalar_one())

    with engine.connect() as other, ThreadPoolExecutor(1) as thread:
        store_rows(other, [new("theirs")])
        mine = thread.submit(store, ingest_engine, [new("theirs"), new("mine")])
        until(waits, "the statement waits")
        other.commit()
        assert mine.result(WAIT_SECONDS).keys() == {new("mine").body_hash}


def test_a_row_that_the_database_refuses_is_an_error_of_sqlalchemys_and_leaves_none_of_its_batch(
    ingest_engine: Engine, engine: Engine
) -> None:
    with pytest.raises(DataError) as refused:
        store(ingest_engine, [new("good"), new("bad", reference_number="\x00")])
    assert not refused.value.connection_invalidated
    assert refused.value.params is None
    assert counted(engine, "events") == counted(engine, "signatures") == 0


def test_connections_that_died_unnoticed_are_all_replaced(ingest_engine: Engine, engine: Engine) -> None:
    with driver_cursor(ingest_engine) as one, driver_cursor(ingest_engine) as other:
        ids = [cursor.connection.info.backend_pid for cursor in (one, other)]
    with engine.connect() as connection:
        connection.execute(
            text("SELECT pg_terminate_backend(id, 60000) FROM unnest(cast(:ids AS int[])) AS id"), {"ids": ids}
        )
    with pytest.raises(OperationalError) as lost:
        store(ingest_engine, [new("lost")])
    assert lost.value.connection_invalidated
    found = once_more_if_the_connection_was_dead(lambda: store(ingest_engine, [new("lost")]))
    assert found.keys() == {new("lost").body_hash}


def test_a_session_that_cannot_be_had_is_an_error_of_sqlalchemys() -> None:
    nowhere = make_engine("postgresql://web:none@127.0.0.1:9/cardsync", autocommit=True)
    with pytest.raises(OperationalError) as away:
        store(nowhere, [new("lost")])
    assert not away.value.connection_invalidated
