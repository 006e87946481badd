"""An endpoint has one name, a secret that is stored encrypted, and a row that outlives its removal."""

from __future__ import annotations

import uuid

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import ProgrammingError

from cardsync.core.delivery import Kind
from cardsync.core.webhooks import secret_bytes
from cardsync.errors import Conflict, NotFound
from cardsync.store.deliveries import endpoints
from cardsync.stories import endpoints as story
from cardsync.stories.endpoints import NewEndpoint
from tests.factories import RING
from tests.stories.shop import Shop


def add(engine: Engine, name: str = "orders", kind: Kind = "notifications", from_seq: int | None = None) -> story.Added:
    return story.add(engine, NewEndpoint(name, "https://orders.example.test/hook", kind, from_seq), RING)


def secrets(connection: Connection, endpoint_id: uuid.UUID) -> list[bytes]:
    return story.secrets_of(connection, endpoint_id, RING)


def test_a_secret_is_stored_encrypted_and_the_one_before_signs_for_a_day_beside_it(shop: Shop) -> None:
    added = add(shop.worker)
    (row,) = shop.execute("SELECT * FROM cardsync.endpoints")
    assert added.secret.removeprefix("whsec_") not in repr(row)
    rotated = story.rotate(shop.worker, "orders", RING)
    with shop.worker.begin() as connection:
        newest, before = (secret_bytes(one.secret) for one in (rotated, added))
        assert secrets(connection, added.endpoint_id) == [newest, before]
    shop.execute("UPDATE cardsync.endpoints SET previous_until = previous_until - interval '1 day'")
    with shop.worker.begin() as connection:
        assert secrets(connection, added.endpoint_id) == [newest]


def test_a_name_is_taken_until_its_endpoint_is_removed(shop: Shop) -> None:
    add(shop.worker)
    with pytest.raises(Conflict, match="of this name"):
        add(shop.worker, kind="changes")
    with shop.worker.begin() as connection:
        assert endpoints.remove(connection, "orders")
        assert not endpoints.remove(connection, "orders")
        with pytest.raises(NotFound):
            endpoints.show(connection, "orders")
    add(shop.worker, kind="changes")
    with shop.worker.begin() as connection:
        assert [one.kind for one in endpoints.listing(connection)] == ["changes"]


def test_an_endpoint_of_changes_begins_at_the_head_or_where_it_is_told(shop: Shop) -> None:
    shop.execute("UPDATE cardsync.feed_head SET seq = 41")
    add(shop.worker, "new", "changes")
    add(shop.worker, "from the start", "changes", 0)
    with shop.worker.begin() as connection:
        assert {(one.name, one.cursor, one.behind) for one in endpoints.listing(connection)} == {
            ("new", 41, 0),
            ("from the start", 0, 41),
        }


def test_disabled_and_enabled_again_it_forgets_its_trouble(shop: Shop) -> None:
    add(shop.worker)
    shop.execute(
        "UPDATE cardsync.endpoints SET failing = '{1,2}', failing_since = now(), opened_at = now(), shut_until = now()"
    )
    with shop.worker.begin() as connection:
        assert not endpoints.enable(connection, "orders")
        assert endpoints.disable(connection, "orders")
        assert not endpoints.disable(connection, "orders")
        assert endpoints.show(connection, "orders").disabled_because == "operator"
        assert endpoints.enable(connection, "orders")
        shown = endpoints.show(connection, "orders")
    assert (shown.status, shown.circuit_open_since, shown.failing_since) == ("enabled", None, None)


def test_the_web_reads_no_address_and_no_secret_and_no_body(shop: Shop) -> None:
    add(shop.worker)
    for what in ("secret FROM cardsync.endpoints", "url FROM cardsync.endpoints", "body FROM cardsync.kept_bodies"):
        with pytest.raises(ProgrammingError, match="permission denied"), shop.web.begin() as connection:
            connection.execute(text(f"SELECT {what}"))
