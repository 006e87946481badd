"""The database itself refuses what must never be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

from tests.factories import CustomerFactory, EventFactory, make_card

WRONG_CARDS: dict[str, dict[str, object]] = {
    "cards_number_is_masked": {"number": "4000 0000 0000 0002"},
    "cards_name_is_no_number": {"name_on_card": "4000-0000-0000-0002"},
    "cards_removed_holds_no_token": {"status": "removed", "removed_at": "now", "removed_because": "absent"},
    "cards_removed_says_when": {"removed_because": "absent"},
    "cards_status_known": {"status": "gone"},
    "cards_unconfirmed_is_awaited": {"status": "unconfirmed"},
    "cards_last4_is_four_digits": {"last4": "008"},
}


@pytest.mark.parametrize("constraint", WRONG_CARDS)
def test_a_card_that_breaks_a_rule_is_refused(constraint: str) -> None:
    customer = CustomerFactory()
    with pytest.raises(IntegrityError, match=constraint):
        make_card(customer, **WRONG_CARDS[constraint])


def test_a_customer_has_a_token_once() -> None:
    customer = CustomerFactory()
    make_card(customer, token="9999000000000001")
    with pytest.raises(IntegrityError, match="cards_identity"):
        make_card(customer, token="9999000000000001")


def test_two_customers_may_have_the_same_token() -> None:
    make_card(CustomerFactory(), token="9999000000000001")
    make_card(CustomerFactory(), token="9999000000000001")


@pytest.mark.parametrize(
    "half", ["operator_paused_at = now()", "operator_paused_by = 'x'", "operator_paused_why = 'x'"]
)
def test_an_operator_s_pause_is_whole(engine: Engine, half: str) -> None:
    with engine.begin() as connection, pytest.raises(IntegrityError, match="gate_operator_paused"):
        connection.execute(text(f"UPDATE cardsync.gate SET {half}"))


WRONG_ROWS: dict[str, Callable[[], object]] = {
    "events_settled_holds_no_token": lambda: EventFactory(status="done"),
    "events_ignored_says_why": lambda: EventFactory(status="ignored", token=None, facts=None),
    "events_job_is_whole": lambda: EventFactory(customer_id=None),
    "customers_dirty_is_due": lambda: CustomerFactory(dirty_since="now"),
    "customers_ticket_is_whole": lambda: CustomerFactory(ticket_no=5),
    "customers_ticket_is_newer": lambda: CustomerFactory(ticket_no=5, applied_no=5, asked_at="now", lease_until="now"),
}


@pytest.mark.parametrize("constraint", WRONG_ROWS)
def test_a_row_that_breaks_a_rule_is_refused(constraint: str) -> None:
    with pytest.raises(IntegrityError, match=constraint):
        WRONG_ROWS[constraint]()


@pytest.mark.parametrize(
    "statement", ["UPDATE cardsync.card_changes SET cause = 'x'", "DELETE FROM cardsync.card_changes"]
)
def test_the_feed_is_append_only(engine: Engine, statement: str) -> None:
    make_card(CustomerFactory())
    with pytest.raises(IntegrityError, match="append-only"), engine.begin() as connection:
        connection.execute(text(statement))
