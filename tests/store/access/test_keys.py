"""API keys: only a hash is kept, a revoked key opens nothing, and no other text is a key."""

from __future__ import annotations

import dataclasses
import datetime as dt
import uuid

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

from cardsync.errors import Conflict, NotFound
from cardsync.store.access import keys
from tests.store.rows import one


def create(engine: Engine, key: str, *scopes: keys.Scope) -> uuid.UUID:
    with engine.begin() as connection:
        return keys.create(connection, "billing", keys.key_hash(key), scopes or ("cards:read",))


def find(engine: Engine, key: str) -> keys.ApiKey | None:
    with engine.connect() as connection:
        return keys.find(connection, keys.key_hash(key))


def test_a_key_is_found_by_its_hash_and_is_nowhere_in_its_row(engine: Engine) -> None:
    key = keys.new_key()
    key_id = create(engine, key, "tokens:read", "cards:read", "cards:read")
    assert find(engine, key) == keys.ApiKey(key_id, "billing", frozenset({"cards:read", "tokens:read"}), "billing")
    assert find(engine, keys.new_key()) is None
    assert key not in one(engine, "SELECT api_keys::text FROM cardsync.api_keys")[0]


def test_a_revoked_key_opens_nothing_and_is_revoked_once(engine: Engine) -> None:
    key = keys.new_key()
    key_id = create(engine, key)
    with engine.begin() as connection:
        assert [keys.revoke(connection, one_id) for one_id in (key_id, key_id, uuid.uuid4())] == [True, False, False]
        (listed,) = keys.listing(connection)
    assert find(engine, key) is None
    assert listed.revoked_at is not None


def test_one_key_is_one_row(engine: Engine) -> None:
    key = keys.new_key()
    create(engine, key)
    with pytest.raises(IntegrityError):
        create(engine, key)


def test_the_database_takes_no_scope_that_does_not_exist(engine: Engine) -> None:
    with pytest.raises(IntegrityError, match="api_keys_scopes_known"):
        create(engine, keys.new_key(), "cards:charge")  # type: ignore[arg-type]


def test_keys_are_all_different_and_well_formed() -> None:
    made = {keys.new_key() for _ in range(100)}
    assert len(made) == 100
    assert all(keys.is_well_formed(key) for key in made)


@pytest.mark.parametrize(
    "tried",
    [
        "",
        "cs_",
        "cs_" + "a" * 42,
        "cs_live_" + "a" * 42,
        "cs_live_" + "a" * 44,
        "csk_",
        "csk_" + "a" * 42,
        "csk_" + "a" * 44,
        "key_" + "a" * 43,
        "csk_" + "ä" * 43,
        "csk_" + "a" * 43 + "\n",
    ],
)
def test_other_texts_are_not_well_formed(tried: str) -> None:
    assert not keys.is_well_formed(tried)


@pytest.mark.parametrize("mark", ["csk_", "cs_"])
def test_keys_of_earlier_releases_stay_valid(engine: Engine, mark: str) -> None:
    key = mark + "a" * 43
    assert keys.is_well_formed(key)
    with engine.begin() as connection:  # as the release before inserts it
        connection.execute(
            text("INSERT INTO cardsync.api_keys (name, key_hash, scopes) VALUES ('old', :hash, '{cards:read}')"),
            {"hash": keys.key_hash(key)},
        )
    found = find(engine, key)
    assert found is not None
    assert (found.owner, found.asker, found.requests_per_second) == ("old", "api:old", keys.REQUESTS_PER_SECOND)
    with engine.connect() as connection:
        (listed,) = keys.listing(connection)
    assert (listed.prefix, listed.owner, listed.last_used_at) == (None, "old", None)


def test_a_key_begins_with_cs_and_its_first_characters_are_listed(engine: Engine) -> None:
    key = keys.new_key()
    assert key.startswith("cs_live_")
    with engine.begin() as connection:
        keys.create(connection, "shop", keys.key_hash(key), ["ops"], prefix=keys.shown_prefix(key))
        (listed,) = keys.listing(connection)
    assert listed.prefix == key[:12]


def test_an_expired_key_opens_nothing(engine: Engine) -> None:
    key = keys.new_key()
    with engine.begin() as connection:
        terms = keys.Terms(expires_in_days=30)
        keys.create(connection, "shop", keys.key_hash(key), ["ops"], terms=terms)
    assert find(engine, key) is not None
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.api_keys SET expires_at = expires_at - interval '31 days'"))
    assert find(engine, key) is None


def test_a_rotated_key_keeps_its_owner_and_quotas_and_the_old_one_works_for_a_day(engine: Engine) -> None:
    old, new = keys.new_key(), keys.new_key()
    terms = keys.Terms(owner="billing", expires_in_days=90, calls_per_day=7, requests_per_second=3)
    with engine.begin() as connection:
        keys.create(connection, "shop", keys.key_hash(old), ["cards:read", "ops"], terms=terms)
    with engine.begin() as connection:
        rotated = keys.rotate(connection, "shop", new)
    before, after = find(engine, old), find(engine, new)
    assert before is not None
    assert after is not None
    assert dataclasses.replace(after, key_id=before.key_id) == before
    assert (after.owner, after.calls_per_day, after.requests_per_second) == ("billing", 7, 3)
    with engine.begin() as connection:
        listed = {one.key_id: one for one in keys.listing(connection)}
        life = listed[rotated.key_id].expires_at - listed[rotated.key_id].created_at  # type: ignore[operator]
        assert dt.timedelta(days=89) < life < dt.timedelta(days=91)
        left = rotated.old_expires_at - listed[rotated.key_id].created_at
        assert dt.timedelta(hours=23) < left < dt.timedelta(hours=25)
        connection.execute(text("UPDATE cardsync.api_keys SET expires_at = expires_at - interval '25 hours'"))
    assert find(engine, old) is None
    assert find(engine, new) is not None


def test_only_one_valid_key_of_a_name_can_be_rotated(engine: Engine) -> None:
    with engine.begin() as connection:
        with pytest.raises(NotFound):
            keys.rotate(connection, "shop", keys.new_key())
        ids = [keys.create(connection, "shop", keys.key_hash(keys.new_key()), ["ops"]) for _ in range(2)]
        with pytest.raises(Conflict, match="2 keys"):
            keys.rotate(connection, "shop", keys.new_key())
        keys.revoke(connection, ids[0])
        for _ in range(3):  # the one that was replaced is not another key of that name
            keys.rotate(connection, "shop", keys.new_key())
