"""A notification becomes one durable row, or leaves no trace."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from cardsync.errors import InvalidSignature, MalformedBody
from cardsync.store import inbox
from tests import payloads
from tests.factories import RING
from tests.stories.shop import KEYS, Shop, receive


def rows(shop: Shop) -> str:
    """All that is kept of events, without the moments, whose digits may be any."""
    kept = "to_jsonb(e) - ARRAY['received_at', 'due_at', 'settled_at', 'shed_at']"
    return "\n".join(r[0] for r in shop.execute(f"SELECT ({kept})::text FROM cardsync.events AS e"))


def test_a_hint_is_one_pending_row_that_says_who_vouched(shop: Shop) -> None:
    receipt = shop.receive()
    (row,) = shop.execute("SELECT status, scheme, key_id, environment FROM cardsync.events")
    assert receipt.status == "accepted"
    assert (row.status, row.scheme, row.key_id, row.environment) == ("pending", "standard", KEYS.ids[0], "sandbox")


def test_the_same_bytes_again_are_a_duplicate_of_the_same_event(shop: Shop) -> None:
    first, second = shop.receive(), shop.receive()
    assert (second.status, second.event_id) == ("duplicate", first.event_id)
    assert len(shop.execute("SELECT 1 FROM cardsync.events")) == 1


def test_a_duplicate_opens_an_event_whose_work_failed(shop: Shop) -> None:
    shop.receive()
    shop.execute("UPDATE cardsync.events SET status = 'failed', attempts = 10")
    again = shop.receive()
    assert (again.status, again.to_ring) == ("duplicate", True)
    assert shop.execute("SELECT status, attempts FROM cardsync.events") == [("pending", 0)]


def test_a_duplicate_of_settled_work_asks_for_nothing(shop: Shop) -> None:
    shop.hint()
    assert not shop.receive().to_ring


def test_what_is_of_no_interest_is_kept_as_ignored_without_a_card(shop: Shop) -> None:
    body = payloads.signed(payloads.operation())
    assert receive(shop.ingest, body, KEYS).status == "ignored"
    assert receive(shop.ingest, body, KEYS).status == "ignored"
    assert shop.execute("SELECT status, token, facts FROM cardsync.events") == [("ignored", None, None)]


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"signature": "' + b"0" * 64 + b'"}', b'{"amount": "1"}'])
def test_what_is_not_authentic_leaves_no_row(shop: Shop, body: bytes) -> None:
    with pytest.raises((InvalidSignature, MalformedBody)):
        receive(shop.ingest, body, KEYS)
    assert rows(shop) == ""


def test_nothing_personal_beyond_the_card_is_kept(shop: Shop) -> None:
    shop.receive()
    receive(shop.ingest, payloads.signed(payloads.operation()), KEYS)
    payloads.assert_nothing_personal(rows(shop))


def test_a_full_card_number_is_not_kept(shop: Shop) -> None:
    payload = payloads.payment()
    payload["token"]["number"] = "4000 0000 0000 0002"
    receipt = receive(shop.ingest, payloads.signed(payload), KEYS)
    assert receipt.status == "accepted"
    assert "4000" not in rows(shop)
    with shop.worker.begin() as connection:
        (hint,) = inbox.claim(connection, [receipt.event_id], RING)
    assert hint.facts.number == "**** 0002"


def test_a_connection_that_died_unnoticed_costs_no_hint(shop: Shop) -> None:
    shop.receive("cust-1")
    with shop.engine.begin() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                "AND datname = current_database()"
            )
        )
    assert shop.receive("cust-2").status == "accepted"


def test_a_database_that_refuses_raises_and_nothing_is_said_to_be_durable(shop: Shop) -> None:
    shop.execute("ALTER TABLE cardsync.events RENAME TO elsewhere")
    with pytest.raises(Exception, match="events") as caught:
        shop.receive()
    assert not isinstance(caught.value, OperationalError)
