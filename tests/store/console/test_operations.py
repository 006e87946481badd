"""Operations: counts up to a bound, the price of a dry run, and pages (what a worker does: tests/stories/test_carry_out.py)."""

from __future__ import annotations

import uuid

from sqlalchemy import text

from cardsync.store.console import operations, operators
from tests.factories import EventFactory

UNTIL = {"until": "infinity"}


def test_a_count_stops_at_its_bound_and_customers_share_a_call(engine, monkeypatch):
    for n in range(6):
        EventFactory(status="failed", customer_id=f"customer {n % 2}")
    with engine.connect() as connection:
        assert operations.cost(connection, "replay_events", UNTIL) == operations.Cost(6, 2)
        error = {**UNTIL, "error": "another"}
        assert operations.cost(connection, "replay_events", error) == operations.Cost(0, 0)
        assert operations.cost(connection, "replay_deletions", {**UNTIL, "phase": "failed"}) == operations.Cost(0, 0)


def test_pages_of_operations_go_by_a_keyset(engine):
    with engine.begin() as connection:
        operators.invite(connection, "Amal", "admin", operators.new_secret(), by="cli:test")
        connection.execute(
            text(
                "INSERT INTO cardsync.operations (kind, subject, operator_id, actor, asked_at)"
                " SELECT 'replay_event', n::text, operator_id, name, now() FROM cardsync.operators, generate_series(1, 5) AS n"
            )
        )
        first = operations.listing(connection, limit=3)
        second = operations.listing(connection, before=(first[-1].asked_at, first[-1].operation_id), limit=3)
        assert sorted(o.subject for o in (*first, *second)) == ["1", "2", "3", "4", "5"]
        assert operations.show(connection, uuid.uuid4()) is None
