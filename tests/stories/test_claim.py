"""A claim that the database refuses is one line when that begins and one when it ends, however often it is tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from psycopg.errors import ReadOnlySqlTransaction
from sqlalchemy.exc import InternalError
from structlog.testing import capture_logs

from cardsync.ciphers import KeyRing
from cardsync.episodes import Episode
from cardsync.stories.process import QUIET_SECONDS
from cardsync.stories.receive import WebhookKeys
from tests import payloads
from tests.stories.shop import Shop, receive


def read_only(*_: object, **__: object) -> Any:
    raise InternalError("SELECT 'a-token'", {}, ReadOnlySqlTransaction("a-token"))


def nothing(*_: object, **__: object) -> Any:
    return []


@pytest.mark.parametrize(
    ("event", "module", "broken", "act"),
    [
        ("hints_not_claimed_together", "claim", "_claim", lambda shop: shop.claim()),
        ("hints_settled_one_by_one", "process", "_settle_together", lambda shop: shop.process()),
    ],
)
def test_hints_that_cannot_be_taken_together_are_told_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, event: str, module: str, broken: str, act: Callable[[Shop], object]
) -> None:
    name = {"claim": "_not_together", "process": "_one_by_one"}[module]
    now = [100.0]
    monkeypatch.setattr(f"cardsync.stories.{module}.{name}", Episode(event, clock=lambda: now[0]))
    monkeypatch.setattr("cardsync.stories.claim.claim_events", nothing)
    with capture_logs() as lines:
        with monkeypatch.context() as broken_database:
            broken_database.setattr(f"cardsync.stories.{module}.{broken}", read_only)
            for _ in range(20):
                act(shop)
        act(shop)
        now[0] += QUIET_SECONDS + 1
        act(shop)
        act(shop)
    assert [(line["event"], line.get("why"), line.get("repeated")) for line in lines] == [
        (event, "read-only", None),
        (f"{event}_ended", None, 19),
    ]
    assert "a-token" not in str(lines)


def test_hints_that_no_key_reads_take_no_fresh_hints_turn_and_are_told_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker without a key, or a folder whose kept hints are of a database before: there may be thousands."""
    monkeypatch.setattr("cardsync.stories.process._unreadable", Episode("hints_unreadable", level="error"))
    another = WebhookKeys.of([payloads.KEY], KeyRing(b"another-secret-key-of-at-least-32-characters"))
    for n in range(3):
        receive(
            shop.ingest,
            payloads.signed(payloads.payment(f"lost-{n}", f"999900000000010{n}", order_no=f"o{n}")),
            another,
        )
    shop.execute("UPDATE cardsync.events SET received_at = received_at - interval '10 minutes'")
    with capture_logs() as lines:
        shop.claim()
        shop.receive("cust-1")
        (ticket,) = shop.claim()
    assert ticket.ticket.customer_id == "cust-1"
    rows = shop.execute(
        """SELECT extract(epoch FROM due_at - clock_timestamp())::float AS left_seconds, attempts FROM cardsync.events
           WHERE status = 'pending'"""
    )
    assert [row.attempts for row in rows] == [0, 0, 0]
    assert all(row.left_seconds > 20 for row in rows)
    assert [line["event"] for line in lines if line["event"] in ("hint_postponed", "hints_unreadable")] == [
        "hints_unreadable"
    ]
