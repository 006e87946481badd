"""What a key has used: one row, shared by all processes."""

from __future__ import annotations

import uuid

import pytest
from sqlalchemy import Engine, text

from cardsync.store.access import key_use, keys
from cardsync.store.access.key_use import CallQuota

pytestmark = pytest.mark.usefixtures("still_clock")  # a busy machine may need longer than waits of two seconds


@pytest.fixture
def key_id(engine: Engine) -> uuid.UUID:
    with engine.begin() as connection:
        return keys.create(connection, "shop", keys.key_hash(keys.new_key()), ["cards:read"])


def take(engine: Engine, key_id: uuid.UUID, permits: int = 1, per_second: int = 10) -> bool:
    with engine.begin() as connection:
        return key_use.take_requests(connection, key_id, permits=permits, per_second=per_second) is not None


def pass_time(engine: Engine, seconds: float) -> None:
    with engine.begin() as connection:
        statement = "UPDATE cardsync.key_use SET taken_until = taken_until - :seconds * interval '1 second'"
        connection.execute(text(statement), {"seconds": seconds})


def test_a_key_has_its_rate_however_many_processes_take(web_engine: Engine, engine: Engine, key_id: uuid.UUID) -> None:
    assert [take(one, key_id, permits=5, per_second=1_000_000) for one in (web_engine, engine)] == [True, True]
    pass_time(engine, 10)
    taken = [take(one, key_id, permits=500, per_second=1_000) for one in (web_engine, engine, web_engine, engine)]
    assert taken[:2] == [True, True]
    assert taken[2:] == [False, False]
    pass_time(engine, 0.6)
    assert take(web_engine, key_id, permits=500, per_second=1_000)


def test_taking_tells_how_much_is_left(engine: Engine, key_id: uuid.UUID) -> None:
    with engine.begin() as connection:
        left = [key_use.take_requests(connection, key_id, permits=50, per_second=100) for _ in range(3)]
    assert left == [50, 0, None]


def test_a_slow_rate_lets_one_request_pass_at_a_time(engine: Engine, key_id: uuid.UUID) -> None:
    assert [take(engine, key_id, per_second=1) for _ in range(3)] == [True, False, False]
    pass_time(engine, 1.1)
    assert [take(engine, key_id, per_second=1) for _ in range(2)] == [True, False]


def test_taking_notes_when_the_key_was_used_last(web_engine: Engine, engine: Engine, key_id: uuid.UUID) -> None:
    take(web_engine, key_id)
    with engine.connect() as connection:
        (listed,) = keys.listing(connection)
    assert listed.last_used_at is not None


def test_calls_of_a_day_are_counted_up_to_the_quota_and_begin_again_the_next_day(
    web_engine: Engine, engine: Engine, key_id: uuid.UUID
) -> None:
    quota = CallQuota(key_id, 3)

    def count(calls: int = 1) -> bool:
        with web_engine.begin() as connection:
            return key_use.count_calls(connection, quota, calls)

    assert [count(), count(2), count(), count(2)] == [True, True, False, False]
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.key_use SET day = day - 1"))
    assert [count(2), count(2), count()] == [True, True, False]  # a deletion is not begun by halves
    with engine.connect() as connection:
        assert 0 <= key_use.seconds_to_midnight(connection) <= 86_400


def test_a_key_without_calls_causes_none(engine: Engine, key_id: uuid.UUID) -> None:
    with engine.begin() as connection:
        assert not key_use.count_calls(connection, CallQuota(key_id, 0))
