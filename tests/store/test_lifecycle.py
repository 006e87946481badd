"""Pages of cards that expire and of agreements at risk, by the views that other services read."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pytest
from sqlalchemy import Engine

from cardsync.core.expiry import month_ends
from cardsync.store import calendar, lifecycle
from tests.factories import CustomerFactory, make_card
from tests.store.rows import change, one


@pytest.fixture
def today(engine: Engine) -> dt.date:
    with engine.connect() as connection:
        return calendar.today(connection)


def agreement(engine: Engine, agreement_id: str, card_id: uuid.UUID, environment: str = "sandbox") -> None:
    change(
        engine,
        "INSERT INTO cardsync.agreements (environment, agreement_id, card_id, since_no) VALUES (:env, :id, :card, 1)",
        env=environment,
        id=agreement_id,
        card=card_id,
    )


def card(expires_on: dt.date | None, **more: Any) -> uuid.UUID:
    return make_card(CustomerFactory(), expires_on=expires_on, **more).card_id


def risks(engine: Engine, **more: Any) -> list[tuple[str, str]]:
    with engine.connect() as connection:
        found = lifecycle.agreements_at_risk(connection, "sandbox", **{"after": None, "limit": 100, **more})
    return [(one_.agreement_id, one_.reason) for one_ in found]


def test_pages_of_expiring_cards_are_in_order_of_their_ids_and_show_each_card_once(
    engine: Engine, today: dt.date
) -> None:
    ends = month_ends(today, today + dt.timedelta(days=100))
    wanted = sorted(card(ends[n % len(ends)]) for n in range(7))
    card(today - dt.timedelta(days=1))
    card(month_ends(today, today + dt.timedelta(days=200))[-1])
    make_card(CustomerFactory(environment="production"), expires_on=ends[0])
    found: list[uuid.UUID] = []
    with engine.connect() as connection:
        while page := lifecycle.expiring_cards(
            connection, "sandbox", within_days=100, after=found[-1] if found else None, limit=3
        ):
            assert len(page) <= 3
            assert all(p.expires_in_days == (p.card.expires_on - today).days for p in page if p.card.expires_on)
            found += [p.card.card_id for p in page]
    assert found == wanted


def test_an_agreement_is_at_risk_for_the_reason_that_its_card_gives(engine: Engine, today: dt.date) -> None:
    far = today + dt.timedelta(days=400)
    for name, expires_on, more in (
        ("a well", far, {}),
        ("b in 31 days", today + dt.timedelta(days=31), {}),
        ("c in 30 days", today + dt.timedelta(days=30), {}),
        ("d today", today, {}),
        ("e yesterday", today - dt.timedelta(days=1), {}),
        ("f says Ottu", far, {"is_expired": True}),
        ("g says Ottu", None, {"is_expired": True}),
        ("h unknown", None, {}),
    ):
        agreement(engine, name, card(expires_on, **more))
    expected = [("c in 30 days", "expiring"), ("d today", "expiring"), ("e yesterday", "expired")]
    assert risks(engine) == [*expected, ("f says Ottu", "expired"), ("g says Ottu", "expired")]
    since = one(engine, "SELECT since FROM registry.agreements_at_risk WHERE agreement_id = 'e yesterday'").since
    assert since == dt.datetime.combine(today, dt.time(), dt.timezone(dt.timedelta(hours=3)))  # Kuwait's midnight


def test_an_agreement_is_at_risk_by_what_its_card_says_now(engine: Engine, today: dt.date) -> None:
    far, yesterday = today + dt.timedelta(days=400), today - dt.timedelta(days=1)
    good, bad = card(far), card(yesterday)
    agreement(engine, "A", good)
    agreement(engine, "B", good)
    assert risks(engine) == []
    for facts, reason in (
        ({"expires_on": today, "is_expired": False}, "expiring"),
        ({"expires_on": far, "is_expired": True}, "expired"),
        ({"expires_on": None, "is_expired": None}, None),
        ({"expires_on": yesterday, "is_expired": None}, "expired"),
        ({"expires_on": far, "is_expired": None}, None),
    ):
        said = "UPDATE cardsync.cards SET expires_on = :expires_on, is_expired = :is_expired WHERE card_id = :id"
        change(engine, said, id=good, **facts)
        assert risks(engine) == ([("A", reason), ("B", reason)] if reason else [])
    change(engine, "UPDATE cardsync.agreements SET card_id = :id WHERE agreement_id = 'A'", id=bad)
    assert risks(engine) == [("A", "expired")]
    change(engine, "UPDATE cardsync.agreements SET card_id = :id", id=good)
    assert risks(engine) == []


def test_a_link_from_before_links_said_until_when_their_cards_are_good_is_at_risk_by_its_card(
    engine: Engine, today: dt.date
) -> None:
    agreement(engine, "A", card(today))
    agreement(engine, "B", card(today + dt.timedelta(days=400)))
    change(engine, "UPDATE cardsync.agreements SET card_good_until = '-infinity'")  # as the migration finds it
    assert risks(engine) == [("A", "expiring")]


def test_an_agreement_whose_card_is_being_deleted_is_at_risk(engine: Engine, today: dt.date) -> None:
    card_id = card(today - dt.timedelta(days=1))
    agreement(engine, "A", card_id)
    one(engine, "SELECT registry.request_deletion(:id, 'test', 'key') AS id", id=card_id)
    change(engine, "SELECT cardsync.request_deletion(:id, 'test', NULL, 'key-2', NULL, false)", id=card_id)
    (risk,) = risks(engine)
    assert risk == ("A", "deleting")


def test_an_agreement_that_loses_its_card_stays_known_and_is_at_risk_until_it_has_one(
    engine: Engine, today: dt.date
) -> None:
    far = today + dt.timedelta(days=400)
    old, new = card(far), card(far)
    agreement(engine, "A", old)
    assert risks(engine) == []
    change(engine, "DELETE FROM cardsync.agreements")
    assert risks(engine) == [("A", "no_card")]
    row = one(engine, "SELECT card_id, since > now() - interval '1 minute' AS fresh FROM registry.agreements_at_risk")
    assert tuple(row) == (None, True)
    agreement(engine, "A", new)
    assert risks(engine) == []
    assert one(engine, "SELECT card_id FROM registry.agreements").card_id == new


def test_an_agreement_that_is_over_is_not_at_risk(engine: Engine, today: dt.date) -> None:
    agreement(engine, "A", card(today))
    agreement(engine, "B", card(today))
    change(engine, "DELETE FROM cardsync.agreements WHERE agreement_id = 'B'")
    ends = "UPDATE cardsync.known_agreements SET expires_on = :day"
    change(engine, ends, day=today)
    assert risks(engine) == [("A", "expiring"), ("B", "no_card")]
    change(engine, ends, day=today - dt.timedelta(days=1))
    assert risks(engine) == []


def test_an_agreement_whose_last_cycle_is_over_is_not_at_risk_unless_billing_told_of_a_later_charge(
    engine: Engine, today: dt.date
) -> None:
    being_deleted = card(today + dt.timedelta(days=400))
    agreement(engine, "A", card(today))
    agreement(engine, "B", card(today))
    agreement(engine, "C", being_deleted)
    change(engine, "DELETE FROM cardsync.agreements WHERE agreement_id = 'B'")
    change(engine, "SELECT cardsync.request_deletion(:id, 'test', NULL, 'key', NULL, false)", id=being_deleted)
    all_of_them = [("A", "expiring"), ("B", "no_card"), ("C", "deleting")]
    terms = (
        "UPDATE cardsync.known_agreements SET starts_on = (now() AT TIME ZONE 'UTC')::date - 21,"
        " cycle_months = 0, cycle_days = 7, total_cycles = :cycles, told_next_at = NULL"
    )
    for cycles in (None, 3, 100_000):  # the third is today; a day is left for it to come
        change(engine, terms, cycles=cycles)
        assert risks(engine) == all_of_them
    change(engine, terms, cycles=2)
    assert risks(engine) == []
    told = "UPDATE cardsync.known_agreements SET told_next_at = now() + interval '1 hour', expires_on = :day"
    change(engine, told, day=today - dt.timedelta(days=1))
    assert risks(engine) == all_of_them


def test_pages_of_agreements_at_risk_go_on_after_the_last_one(engine: Engine, today: dt.date) -> None:
    for name in ("C", "A", "D", "B"):
        agreement(engine, name, card(today))
    production = make_card(CustomerFactory(environment="production"), expires_on=today).card_id
    agreement(engine, "A2", production, environment="production")
    first = risks(engine, limit=3)
    assert [name for name, _ in first] == ["A", "B", "C"]
    assert [name for name, _ in risks(engine, limit=3, after="C")] == ["D"]
