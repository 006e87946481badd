"""What is late though nothing fails is one line when it begins and one when it ends, from the beat that leads."""

from __future__ import annotations

import datetime as dt

import pytest
from sqlalchemy import Engine, text
from structlog.testing import capture_logs

from cardsync.store.deliveries import endpoints as rows_of_endpoints
from cardsync.stories import endpoints
from cardsync.stories.endpoints import NewEndpoint
from tests.factories import RING, CustomerFactory, EventFactory, make_card
from tests.stories.shop import Shop
from tests.waiting import until
from workers import lateness
from workers.lateness import Lateness, LatenessThread

PROMISED_DAYS = 30


@pytest.fixture
def shop(
    bound_factories: None, engine: Engine, ingest_engine: Engine, web_engine: Engine, worker_engine: Engine
) -> Shop:
    return Shop(engine, ingest_engine, web_engine, worker_engine)


def make_changes_old(shop: Shop) -> None:
    """A trigger refuses to change rows of the feed, even for their owner; so it is as where a dump is restored."""
    with shop.engine.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text("UPDATE cardsync.card_changes SET at = at - interval '1 hour'"))


def look(late: Lateness) -> list[tuple[object, ...]]:
    """Look three times; the lines."""
    with capture_logs() as lines:
        for _ in range(3):
            late.look()
    return [(line["event"], line["log_level"], line.get("endpoint")) for line in lines]


def test_forgetting_that_is_behind_is_told_when_it_begins_and_when_it_ends(shop: Shop) -> None:
    late = Lateness(shop.worker, content_days=PROMISED_DAYS)
    EventFactory(received_at=dt.datetime.now(dt.UTC) - dt.timedelta(days=PROMISED_DAYS + 1), settled=True)
    assert look(late) == []  # forgetting goes on batch by batch: a day is no trouble
    EventFactory(received_at=dt.datetime.now(dt.UTC) - dt.timedelta(days=PROMISED_DAYS + 4), settled=True)
    assert look(late) == [("forgetting_behind", "warning", None)]
    shop.execute("DELETE FROM cardsync.events")
    assert look(late) == [("forgetting_behind_ended", "warning", None)]


def test_an_operators_pause_is_told_when_it_begins_and_when_it_ends(shop: Shop) -> None:
    late = Lateness(shop.worker, content_days=PROMISED_DAYS)
    pause = "UPDATE cardsync.gate SET operator_paused_at = {0}, operator_paused_by = {1}, operator_paused_why = {1}"
    shop.execute(pause.format("now()", "'somebody'"))
    with capture_logs() as lines:
        late.look()
    assert [(line["event"], line["log_level"]) for line in lines] == [("calls_paused_by_operator", "warning")]
    assert "somebody" not in str(lines)  # who it was, and why, is for the console
    assert look(late) == []
    shop.execute(pause.format("NULL", "NULL"))
    with capture_logs() as lines:
        late.look()
    assert [(line["event"], line["log_level"]) for line in lines] == [("calls_paused_by_operator_ended", "warning")]
    assert "since" not in lines[0]  # its first line said it; this one says how long it was
    assert look(late) == []


def test_each_endpoint_that_is_behind_is_told_when_it_begins_and_when_it_ends(shop: Shop) -> None:
    late = Lateness(shop.worker, content_days=PROMISED_DAYS)
    endpoints.add(shop.worker, NewEndpoint("feed", "https://feed.example.test", "changes", 0), RING)
    endpoints.add(shop.worker, NewEndpoint("orders", "https://orders.example.test", "notifications"), RING)
    make_card(CustomerFactory())
    assert look(late) == []
    make_changes_old(shop)
    event = EventFactory()
    shop.execute(
        "INSERT INTO cardsync.deliveries (endpoint_id, event_id, made_at) "
        f"SELECT endpoint_id, '{event.event_id}', now() - interval '1 hour' FROM cardsync.endpoints WHERE name = 'orders'"
    )
    assert sorted(look(late), key=str) == [
        ("endpoint_behind", "warning", "feed"),
        ("endpoint_behind", "warning", "orders"),
    ]
    shop.execute("UPDATE cardsync.endpoints SET cursor_seq = 1 WHERE name = 'feed'")
    assert look(late) == [("endpoint_behind_ended", "warning", "feed")]
    with shop.worker.begin() as connection:  # one that an operator switches off gets nothing, as it should
        rows_of_endpoints.disable(connection, "orders")
    assert look(late) == [("endpoint_behind_ended", "warning", "orders"), ("endpoint_disabled", "warning", "orders")]


def test_a_disabled_endpoint_is_told_once_and_once_that_somebody_enabled_or_removed_it(shop: Shop) -> None:
    late = Lateness(shop.worker, content_days=PROMISED_DAYS)
    for name in ("feed", "orders"):
        endpoints.add(shop.worker, NewEndpoint(name, f"https://{name}.example.test", "changes"), RING)
    shop.execute(
        "UPDATE cardsync.endpoints SET status = 'disabled', disabled_because = 'gone', disabled_at = now()"
    )  # as a worker does after the endpoint answered 410
    assert look(late) == [("endpoint_disabled", "error", "feed"), ("endpoint_disabled", "error", "orders")]
    with shop.worker.begin() as connection:
        rows_of_endpoints.enable(connection, "feed")
        rows_of_endpoints.remove(connection, "orders")
    assert sorted(look(late), key=str) == [
        ("endpoint_disabled_ended", "warning", "feed"),
        ("endpoint_disabled_ended", "warning", "orders"),
    ]


def test_a_beat_that_stands_by_tells_nothing_and_one_that_takes_over_tells_what_is_late(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lateness, "LOOK_EVERY_SECONDS", 0.01)
    EventFactory(received_at=dt.datetime.now(dt.UTC) - dt.timedelta(days=PROMISED_DAYS + 4), settled=True)
    leads, asked = [False], []

    def ask() -> bool:
        asked.append(leads[0])
        return leads[0]

    with capture_logs() as lines:
        thread = LatenessThread(Lateness(shop.worker, content_days=PROMISED_DAYS), ask)
        try:
            until(lambda: len(asked) > 3, "it stands by")
            assert lines == []
            leads[0] = True
            until(lambda: len(lines) == 1, "it leads")
            leads[0] = False
            until(lambda: asked[-2:] == [False, False], "it stands by again")
            leads[0] = True
            until(lambda: len(lines) == 2, "it leads again")
        finally:
            thread.close()
    assert [line["event"] for line in lines] == ["forgetting_behind", "forgetting_behind"]
