"""Secret keys: a database is bound to the first one, learns a new one from an older one, and keeps the fingerprints' key."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text

from cardsync.ciphers import KeyRing
from cardsync.errors import Misconfigured
from cardsync.store.access import secret_keys
from tests.factories import fingerprint_with
from tests.store.rows import beside, one, wait_until_blocked

SECRET, ANOTHER = b"a secret of 32 bytes, the first.", b"a secret of 32 bytes, not it...."


def key(engine: Engine, *secrets: bytes) -> bytes:
    with engine.begin() as connection:
        return secret_keys.fingerprint_key(connection, KeyRing(secrets[0], secrets[1:]))


def retire(engine: Engine, secret: bytes) -> int:
    with engine.begin() as connection:
        return secret_keys.retire(connection, KeyRing(secret))


def test_a_database_is_bound_to_its_first_key_and_keeps_no_key_in_the_clear(engine: Engine) -> None:
    made = key(engine, SECRET)
    assert key(engine, SECRET) == made
    with pytest.raises(Misconfigured, match="CARDSYNC_SECRET_KEY"):
        key(engine, ANOTHER)
    row = one(engine, "SELECT secret_check, k.* FROM cardsync.gate, cardsync.secret_keys AS k")
    kept = bytes(row.secret_check) + bytes(row.key_id) + bytes(row.fingerprint_key)
    assert SECRET not in kept
    assert made not in kept


def test_of_two_first_keys_at_once_one_is_refused(engine: Engine) -> None:
    with engine.begin() as connection:
        secret_keys.check_secret(connection, KeyRing(SECRET))
        with beside(engine, lambda other: secret_keys.check_secret(other, KeyRing(ANOTHER))) as second:
            wait_until_blocked(engine)
            connection.commit()
            with pytest.raises(Misconfigured):
                second()
    key(engine, SECRET)


def test_two_processes_with_the_same_first_key_get_the_same_one(engine: Engine) -> None:
    with engine.begin() as connection:
        made = secret_keys.fingerprint_key(connection, KeyRing(SECRET))
        with beside(engine, lambda other: secret_keys.fingerprint_key(other, KeyRing(SECRET))) as second:
            wait_until_blocked(engine)
            connection.commit()
            second()
    assert key(engine, SECRET) == made


def test_a_look_that_is_rolled_back_binds_nothing(engine: Engine) -> None:
    with engine.connect() as connection:
        secret_keys.check_secret(connection, KeyRing(ANOTHER))
        connection.rollback()
    key(engine, SECRET)


def test_a_new_key_beside_the_old_one_leaves_fingerprints_as_they_are_and_both_work_until_the_old_is_retired(
    engine: Engine,
) -> None:
    made = key(engine, SECRET)
    assert key(engine, ANOTHER, SECRET) == made
    assert key(engine, SECRET) == made == key(engine, ANOTHER)
    assert retire(engine, ANOTHER) == 1
    assert key(engine, ANOTHER) == made
    with pytest.raises(Misconfigured):
        key(engine, SECRET)


def test_a_database_of_an_earlier_release_keeps_its_fingerprints_and_its_key_can_be_changed(engine: Engine) -> None:
    fingerprint_with(engine, SECRET)
    with pytest.raises(Misconfigured):
        key(engine, ANOTHER)
    assert key(engine, SECRET) == SECRET
    assert key(engine, ANOTHER, SECRET) == SECRET
    retire(engine, ANOTHER)
    with pytest.raises(Misconfigured):
        key(engine, SECRET)


def test_every_process_may_make_a_new_key_known_and_none_can_change_one(
    web_engine: Engine, worker_engine: Engine
) -> None:
    made = key(web_engine, SECRET)
    assert key(worker_engine, ANOTHER, SECRET) == made
    for engine in (web_engine, worker_engine):
        for statement in ("UPDATE cardsync.secret_keys SET added_at = now()", "DELETE FROM cardsync.secret_keys"):
            with pytest.raises(Exception, match="permission denied"), engine.begin() as connection:
                connection.execute(text(statement))
