"""``cardsync keys``: a key is printed once, found by its hash, and opens nothing once it is revoked."""

from __future__ import annotations

import json
import uuid

import pytest

from cardsync.store.access import keys, token_reads
from tests.factories import RING, CustomerFactory, make_card


def test_a_key_is_printed_once_and_found_by_its_hash(cardsync, engine):
    made = json.loads(
        cardsync("keys", "create", "--name", "shop", "--scope", "ops", "--scope", "cards:read", "--json").stdout
    )
    assert set(made) == {"key", "key_id", "name", "owner", "scopes"}
    assert made["scopes"] == ["cards:read", "ops"]
    with engine.connect() as connection:
        found = keys.find(connection, keys.key_hash(made["key"]))
    assert found is not None
    assert str(found.key_id) == made["key_id"]
    shown = cardsync("keys", "list", "--json").stdout + cardsync("keys", "list").stdout
    assert made["key_id"] in shown
    assert made["key"] not in shown


def test_a_revoked_key_opens_nothing_and_cannot_be_revoked_again(cardsync, engine):
    created = cardsync("keys", "create", "--name", "shop", "--scope", "ops")
    key = created.stdout.strip()
    key_id = json.loads(cardsync("keys", "list", "--json").stdout)[0]["key_id"]
    assert cardsync("keys", "revoke", key_id).exit_code == 0
    with engine.connect() as connection:
        assert keys.find(connection, keys.key_hash(key)) is None
    again = cardsync("keys", "revoke", key_id)
    assert again.exit_code == 1
    assert key_id in again.stderr


def test_a_key_has_the_terms_that_it_was_made_with(cardsync):
    terms = ("--owner", "billing", "--expires-in", "30", "--calls-per-day", "7", "--requests-per-second", "3")
    key = cardsync("keys", "create", "--name", "shop", "--scope", "ops", *terms).stdout.strip()
    (listed,) = json.loads(cardsync("keys", "list", "--json").stdout)
    assert (listed["owner"], listed["prefix"]) == ("billing", key[:12])
    assert (listed["calls_per_day"], listed["requests_per_second"]) == (7, 3)
    assert listed["expires_at"] > listed["created_at"]
    assert listed["last_used_at"] is None


def test_a_rotation_prints_the_new_key_and_keeps_the_old_one_for_a_day(cardsync, engine):
    old = cardsync("keys", "create", "--name", "shop", "--scope", "ops", "--owner", "billing").stdout.strip()
    made = json.loads(cardsync("keys", "rotate", "shop", "--json").stdout)
    assert set(made) == {"key", "name", "key_id", "old_key_id", "old_expires_at"}
    with engine.connect() as connection:
        found = [keys.find(connection, keys.key_hash(key)) for key in (old, made["key"])]
    assert [one.owner for one in found] == ["billing", "billing"]
    assert cardsync("keys", "rotate", "unknown").exit_code == 1


def test_no_name_that_looks_like_a_card_number_is_kept(cardsync):
    for option in ("--name", "--owner"):
        result = cardsync("keys", "create", "--name", "x", "--scope", "ops", option, "4111 1111 1111 1111")
        assert result.exit_code == 2
        assert "full card number" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--scope", "ops"], ["--name", "x"], ["--name", "x", "--scope", "all"], ["--name", "", "--scope", "ops"]],
)
def test_an_incomplete_key_is_wrong_usage(cardsync, arguments):
    assert cardsync("keys", "create", *arguments).exit_code == 2


def test_reads_of_tokens_are_listed_by_key_and_by_card(cardsync, engine, web_engine, bound_factories):
    one, other = (make_card(CustomerFactory()).card_id for _ in range(2))
    with engine.begin() as connection:
        billing, shop = (
            keys.create(connection, name, keys.key_hash(name), ["tokens:read"]) for name in ("billing", "shop")
        )
    with web_engine.begin() as connection:
        token_reads.give(connection, billing, [one, other], RING)
        token_reads.give(connection, shop, [one], RING)

    def listed(*options):
        result = cardsync("keys", "reads", *options, "--json")
        assert result.exit_code == 0, result.output
        return {(read["name"], read["card_id"]) for read in json.loads(result.stdout)}

    assert listed("--key", str(billing)) == {("billing", str(one)), ("billing", str(other))}
    assert listed("--key", str(shop)) == {("shop", str(one))}
    assert listed("--card", str(one)) == {("billing", str(one)), ("shop", str(one))}
    assert listed("--key", str(billing), "--card", str(one)) == {("billing", str(one))}
    assert len(listed("--limit", "2")) == 2
    assert listed("--key", str(uuid.uuid4())) == set()
    plain = cardsync("keys", "reads", "--key", str(shop)).stdout.splitlines()
    assert [line.split("\t")[1:] for line in plain] == [["key_id", "name", "card_id"], [str(shop), "shop", str(one)]]
    assert cardsync("keys", "reads", "--key", "shop").exit_code == 2
