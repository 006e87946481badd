"""The merchant's calendar: whose day it is, and what the feed is told of cards that expire."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pytest
from sqlalchemy import Engine, text

from cardsync.errors import Misconfigured
from cardsync.store import calendar
from tests.factories import CustomerFactory, make_card
from tests.store.rows import change, one


def today(engine: Engine) -> dt.date:
    with engine.connect() as connection:
        return calendar.today(connection)


def expires_in(engine: Engine, days: int, **more: Any) -> uuid.UUID:
    """An active card whose last day is a given number of days away; what matters here is the distance, not that a month ends."""
    card = make_card(CustomerFactory(), expires_on=today(engine) + dt.timedelta(days=days), **more)
    return card.card_id


def tell(engine: Engine, limit: int = 100) -> list[int]:
    with engine.begin() as connection:
        return calendar.tell(connection, limit=limit)


def told(engine: Engine, card_id: uuid.UUID) -> list[tuple[str, list[str], str]]:
    """What the calendar said of a card."""
    rows = text(
        "SELECT change, fields, cause FROM registry.card_changes"
        " WHERE card_id = :card_id AND change IN ('expiring', 'expired') ORDER BY seq"
    )
    with engine.connect() as connection:
        return [(row.change, row.fields, row.cause) for row in connection.execute(rows, {"card_id": card_id})]


def move(engine: Engine, card_id: uuid.UUID, days: int) -> None:
    """Let days pass for one card: its last day and what was told of it are nearer."""
    change(
        engine,
        "UPDATE cardsync.cards SET expires_on = expires_on - :days, told_for = told_for - :days, cause = 'test'"
        " WHERE card_id = :card_id",
        days=days,
        card_id=card_id,
    )


def test_a_card_is_told_of_once_at_60_30_and_7_days_and_when_it_has_expired(engine: Engine) -> None:
    card_id = expires_in(engine, 61)
    found = []
    for days in (1, 1, 28, 1, 1, 22, 1, 6, 1, 1, 1):  # 60, 59, 31, 30, 29, 7, 6, 0, -1, -2 and -3 days are left
        found.append(tell(engine))
        assert tell(engine) == []
        move(engine, card_id, days)
    found.append(tell(engine))
    assert [days for days in found if days] == [[60], [30], [7], [0]]
    assert told(engine, card_id) == [
        ("expiring", ["60"], "calendar"),
        ("expiring", ["30"], "calendar"),
        ("expiring", ["7"], "calendar"),
        ("expired", [], "calendar"),
    ]


@pytest.mark.parametrize(
    ("days", "expected"), [(61, []), (60, ["60"]), (31, ["60"]), (30, ["30"]), (7, ["7"]), (0, ["7"])]
)
def test_a_card_that_becomes_known_late_is_told_of_once_for_the_nearest_day(
    engine: Engine, days: int, expected: list[str]
) -> None:
    card_id = expires_in(engine, days)
    tell(engine)
    tell(engine)
    assert [fields for _, (fields), _ in told(engine, card_id)] == [[one_] for one_ in expected]


def test_a_card_that_has_expired_already_is_told_of_once(engine: Engine) -> None:
    card_id = expires_in(engine, -400)
    tell(engine)
    tell(engine)
    assert told(engine, card_id) == [("expired", [], "calendar")]


def test_a_card_whose_expiry_changes_begins_again(engine: Engine) -> None:
    card_id = expires_in(engine, 5)
    tell(engine)
    new = "UPDATE cardsync.cards SET expires_on = expires_on + :days, cause = 'hint' WHERE card_id = :card_id"
    change(engine, new, days=40, card_id=card_id)
    tell(engine)
    change(engine, new, days=1_000, card_id=card_id)
    assert tell(engine) == []
    assert [fields for _, fields, _ in told(engine, card_id)] == [["7"], ["60"]]


def test_a_change_of_other_facts_is_an_update_and_says_nothing_of_what_was_told(engine: Engine) -> None:
    card_id = expires_in(engine, 5)
    tell(engine)
    change(engine, "UPDATE cardsync.cards SET brand = 'MC', cause = 'hint' WHERE card_id = :card_id", card_id=card_id)
    newest = one(engine, "SELECT change, fields FROM registry.card_changes ORDER BY seq DESC LIMIT 1")
    assert tuple(newest) == ("updated", ["brand"])
    assert tell(engine) == []


def test_only_active_cards_are_told_of(engine: Engine) -> None:
    removed = {"status": "removed", "token": None, "removed_at": dt.datetime.now(dt.UTC), "removed_because": "absent"}
    gone = make_card(CustomerFactory(), fingerprint=b"x" * 32, expires_on=today(engine), **removed).card_id
    deleting = expires_in(engine, 3, status="deleting")
    assert tell(engine) == []
    change(engine, "UPDATE cardsync.cards SET status = 'active', cause = 'test' WHERE card_id = :id", id=deleting)
    assert tell(engine) == [7]
    assert told(engine, gone) == []


def test_a_customer_that_another_transaction_holds_waits_for_the_next_time(engine: Engine) -> None:
    held, free = expires_in(engine, 3), expires_in(engine, 3)
    with engine.begin() as other:
        whose = text(
            "SELECT 1 FROM cardsync.customers AS o JOIN cardsync.cards AS c ON c.customer = o.id"
            " WHERE c.card_id = :id FOR UPDATE OF o"
        )
        other.execute(whose, {"id": held})
        tell(engine)
        assert (len(told(engine, free)), len(told(engine, held))) == (1, 0)
    tell(engine)
    assert len(told(engine, held)) == 1


def test_a_batch_is_bounded(engine: Engine) -> None:
    for _ in range(3):
        expires_in(engine, 3)
    assert (len(tell(engine, 2)), len(tell(engine, 2)), len(tell(engine, 2))) == (2, 1, 0)


# Far east and far west of UTC: at any moment at least one of the two has another date than UTC.
@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12", "Asia/Kuwait"])
def test_a_card_is_good_until_its_last_day_is_over_in_the_merchants_time_zone(engine: Engine, zone: str) -> None:
    with engine.begin() as connection:
        calendar.keep_time_zone(connection, zone)
        assert calendar.time_zone(connection) == zone
    local = one(engine, "SELECT (now() AT TIME ZONE :zone)::date AS day", zone=zone).day
    last, over = (make_card(CustomerFactory(), expires_on=local - dt.timedelta(days=d)).card_id for d in (0, 1))
    rows = one(
        engine,
        "SELECT array_agg(card_id) AS active, min(expires_in_days) AS days FROM registry.expiring_cards",
    )
    assert (rows.active, rows.days) == ([last], 0)
    expired = one(engine, "SELECT array_agg(card_id) AS ids FROM registry.cards WHERE is_expired")
    assert expired.ids == [over]
    tell(engine)
    assert [change_ for change_, _, _ in told(engine, over)] == ["expired"]
    assert [change_ for change_, _, _ in told(engine, last)] == ["expiring"]


def test_a_zone_that_postgresql_does_not_know_is_refused(engine: Engine) -> None:
    with pytest.raises(Misconfigured, match="CARDSYNC_TIME_ZONE"), engine.begin() as connection:
        calendar.keep_time_zone(connection, "Mars/Olympus")


def test_the_view_of_expiring_cards_ends_after_sixty_days(engine: Engine) -> None:
    inside, _outside = expires_in(engine, 60), expires_in(engine, 61)
    row = one(engine, "SELECT card_id, expires_in_days FROM registry.expiring_cards")
    assert tuple(row) == (inside, 60)
