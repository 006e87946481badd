"""Answers that are given again: once taken, a key stands for one request of one asker, and a failed one leaves nothing."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text

from cardsync.errors import Conflict
from cardsync.store.access import kept_answers
from cardsync.store.access.kept_answers import KeptAnswer

HASH, OTHER = bytes(32), bytes([1]) * 32
ANSWER = KeptAnswer(202, "/v1/x/1", '{"id": 1}')


def test_a_key_that_was_kept_gives_its_answer_again(web_engine: Engine) -> None:
    with web_engine.begin() as connection:
        assert kept_answers.take(connection, "api:shop", "charge", "k", HASH) is None
        kept_answers.keep(connection, "api:shop", "charge", "k", ANSWER)
    with web_engine.begin() as connection:
        assert kept_answers.take(connection, "api:shop", "charge", "k", HASH) == ANSWER
        with pytest.raises(Conflict) as refused:
            kept_answers.take(connection, "api:shop", "charge", "k", OTHER)
        assert refused.value.code == "idempotency_key_reused"
        # Of another asker, or for another operation, it is another key.
        assert kept_answers.take(connection, "api:desk", "charge", "k", OTHER) is None
        assert kept_answers.take(connection, "api:shop", "reconciliation", "k", OTHER) is None


def test_a_request_that_failed_leaves_its_key_free(web_engine: Engine) -> None:
    with web_engine.connect() as connection:
        assert kept_answers.take(connection, "api:shop", "charge", "k", HASH) is None
        connection.rollback()
    with web_engine.begin() as connection:
        assert kept_answers.take(connection, "api:shop", "charge", "k", OTHER) is None


def test_the_key_itself_is_not_kept(web_engine: Engine, engine: Engine) -> None:
    with web_engine.begin() as connection:
        kept_answers.take(connection, "api:shop", "charge", "order-of-Jane-Doe", HASH)
        kept_answers.keep(connection, "api:shop", "charge", "order-of-Jane-Doe", ANSWER)
    with engine.connect() as connection:
        row = connection.execute(text("SELECT to_jsonb(k)::text FROM cardsync.kept_answers AS k")).scalar_one()
    assert "Jane" not in row
