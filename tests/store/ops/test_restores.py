"""The statements of a restore: numbers that leap, and what is held. Whole restores are in ``tests/stories/test_restores.py``."""

from __future__ import annotations

import datetime as dt

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from cardsync import db
from cardsync.store import feed
from cardsync.store.access import keys
from cardsync.store.ops import replication, restores

pytestmark = pytest.mark.usefixtures("bound_factories")
EVER = dt.datetime.max.replace(tzinfo=dt.UTC)


def test_a_clock_that_is_behind_the_numbers_lets_them_leap_all_the_same(engine: Engine) -> None:
    far = 8_000_000_000_000_000
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.feed_head SET seq = :far"), {"far": far})
        connection.execute(text("SELECT setval('cardsync.observation_no', :far)"), {"far": far})
        begun = restores.begin_epoch(connection, None)
        assert (begun.before_seq, begun.after_seq) == (far, far + restores.LEAP_AT_LEAST)
        assert feed.head(connection) == begun.after_seq
        assert restores.leap_evidence(connection) == far + restores.LEAP_AT_LEAST
    with engine.connect() as connection:
        state = replication.state(connection)
    assert state is not None
    assert (state.epoch, state.evidence_no) == (begun.epoch, far + restores.LEAP_AT_LEAST)


def test_an_epoch_is_never_changed_nor_taken_away(engine: Engine) -> None:
    for statement in (
        "UPDATE cardsync.feed_epochs SET after_seq = 7",
        "DELETE FROM cardsync.feed_epochs",
        "TRUNCATE cardsync.feed_epochs",
    ):
        with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
            connection.execute(text(statement))


def test_a_key_that_had_expired_or_was_revoked_is_not_held_and_cannot_be_released(engine: Engine) -> None:
    with engine.begin() as connection:
        made = {
            name: keys.create(connection, name, keys.key_hash(f"cs_live_{name}"), ["ops"])
            for name in ("expired", "revoked", "valid")
        }
        connection.execute(
            text(
                "UPDATE cardsync.api_keys SET expires_at = clock_timestamp() - interval '1 day' WHERE name = 'expired'"
            )
        )
        keys.revoke(connection, made["revoked"])
        assert restores.hold_keys(connection, EVER) == 1
        assert keys.release(connection) == [made["valid"]]


def test_nothing_is_held_before_the_first_restore_and_what_is_held_is_counted_after(engine: Engine) -> None:
    with engine.begin() as connection:
        keys.create(connection, "valid", keys.key_hash("cs_live_valid"), ["ops"])
        assert restores.held(connection) is None
        restores.hold_keys(connection, EVER)
        restores.begin_epoch(connection, db.moment(connection))
        held = restores.held(connection)
        assert held is not None
        assert (held.keys, held.endpoints, held.deletions, held.erasures, bool(held)) == (1, 0, 0, 0, True)
        keys.release(connection)
        assert not restores.held(connection)
