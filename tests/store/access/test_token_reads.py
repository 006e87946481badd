"""Records of token reads: one for each token, found by card and by key, kept for their days."""

from __future__ import annotations

import uuid

from sqlalchemy import Engine, text

from cardsync.store import retention
from cardsync.store.access import keys, token_reads
from tests.factories import RING, CustomerFactory, make_card


def test_reads_are_listed_newest_first_by_card_and_by_key(engine: Engine, web_engine: Engine) -> None:
    one, other = (make_card(CustomerFactory()).card_id for _ in range(2))
    with engine.begin() as connection:
        key_id, another = (
            keys.create(connection, name, keys.key_hash(name), ["tokens:read"]) for name in ("billing", "shop")
        )
    with web_engine.begin() as connection:
        token_reads.give(connection, key_id, [one, other], RING)
        token_reads.give(connection, another, [one], RING)
    with engine.begin() as connection:
        found = token_reads.listing(connection, card_id=one, key_id=None, limit=9)
        assert [(read.card_id, read.name) for read in found] == [(one, "shop"), (one, "billing")]
        by_key = token_reads.listing(connection, card_id=None, key_id=key_id, limit=9)
        assert {read.card_id for read in by_key} == {one, other}
        assert len(token_reads.listing(connection, card_id=None, key_id=None, limit=1)) == 1


def test_the_worker_forgets_old_reads_alone(engine: Engine, worker_engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO cardsync.token_reads (key_id, card_id) SELECT :id, :id FROM generate_series(1, 2)"),
            {"id": uuid.uuid4()},
        )
        connection.execute(
            text(
                "UPDATE cardsync.token_reads SET at = at - interval '91 days' WHERE read_no = (SELECT min(read_no) "
                "FROM cardsync.token_reads)"
            )
        )
    with worker_engine.begin() as connection:
        assert retention.forget(connection, "token_read", older_days=90) == 1
