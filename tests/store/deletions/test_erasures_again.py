"""What a receipt of an erasure takes away, and what it leaves. Whole restores are in ``tests/stories/test_restores.py``."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pytest
from sqlalchemy import Engine, text

from cardsync.core.erasure_receipt import Receipt
from cardsync.store.deletions import erasures_again
from tests.factories import CustomerFactory, make_card

pytestmark = pytest.mark.usefixtures("bound_factories")
DONE_AT = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


def receipt(
    number: int = 1, *, finished_at: dt.datetime | None = DONE_AT, requested_at: dt.datetime | None = None
) -> Receipt:
    return Receipt(
        erasure_id=uuid.UUID(int=number),
        customer_id="cust-1",
        requested_by="support",
        requested_at=requested_at or DONE_AT - DAY / 24,
        finished_at=finished_at,
    )


def cards(engine: Engine) -> dict[str, Any]:
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT brand, status, removed_at, name_on_card FROM cardsync.cards"))
        return {row.brand: (row.status, row.removed_at, row.name_on_card) for row in rows}


def test_what_was_known_before_goes_and_what_is_newer_stays(engine: Engine) -> None:
    person, other = CustomerFactory(customer_id="cust-1"), CustomerFactory(customer_id="cust-2")
    before = {"first_seen_at": DONE_AT - DAY, "confirmed_at": DONE_AT - DAY / 2, "name_on_card": "A PERSON"}
    make_card(person, token="9999000000000001", brand="OLD", **before)
    make_card(person, token="9999000000000002", brand="SHOWN SINCE", **{**before, "confirmed_at": DONE_AT + DAY})
    make_card(
        person,
        token="9999000000000003",
        brand="NAMED",
        status="unconfirmed",
        first_seen_at=DONE_AT - DAY,
        awaited_no=1,
        awaited_at=DONE_AT - DAY,
    )
    make_card(
        person,
        token="9999000000000004",
        brand="NAMED SINCE",
        status="unconfirmed",
        first_seen_at=DONE_AT - DAY,
        awaited_no=1,
        awaited_at=DONE_AT + DAY,
    )
    make_card(other, token="9999000000000005", brand="ANOTHER'S", **before)
    with engine.begin() as connection:
        assert erasures_again.do_again(connection, receipt()) == [person.id]
        assert erasures_again.status(connection, receipt()) == "done"
    assert cards(engine) == {
        "OLD": ("removed", DONE_AT, None),
        "SHOWN SINCE": ("active", None, "A PERSON"),
        "NAMED SINCE": ("unconfirmed", None, None),
        "ANOTHER'S": ("active", None, "A PERSON"),
    }


def test_an_open_erasure_of_that_number_is_done_by_its_receipt_and_an_unknown_person_is_noted(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO cardsync.erasures (erasure_id, customer_id, status, error, requested_by, due_at)"
                " VALUES (:id, 'cust-1', 'blocked', 'held', 'support', 'infinity')"
            ),
            {"id": uuid.UUID(int=1)},
        )
        assert erasures_again.status(connection, receipt()) == "blocked"
        assert erasures_again.do_again(connection, receipt()) == []
        assert erasures_again.status(connection, receipt()) == "done"
        assert [one.finished_at for one in erasures_again.receipts(connection, None)] == [DONE_AT]


def test_receipts_are_read_page_by_page_each_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasures_again, "PAGE", 2)
    with engine.begin() as connection:
        for number in range(1, 6):
            erasures_again.do_again(connection, receipt(number))  # all asked for at the same moment
        found = list(erasures_again.receipts(connection, None))
        assert sorted(one.erasure_id.int for one in found) == [1, 2, 3, 4, 5]
        assert list(erasures_again.receipts(connection, DONE_AT + DAY)) == []
