"""``cardsync operators``: who may use the console, and what verifying the journal of their actions says and shows."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import text

from cardsync.store import seals
from cardsync.stories.seal import Sealer
from tests.factories import SECRET
from tests.store.rows import change

SECRET_OF_ANOTHER = b"another secret, also of 32 bytes"


@pytest.fixture
def journal(cardsync, engine):
    """Three actions that were sealed."""
    for name in ("Amal", "Bilal", "Chitra"):
        assert cardsync("operators", "invite", "--name", name, "--role", "viewer").exit_code == 0
    Sealer(seals.JOURNAL, SECRET).seal(engine)


def verified(cardsync, *options):
    result = cardsync("operators", "verify", "--json", *options)
    return result, json.loads(result.stdout)


def as_owner(engine, statement):
    """Change what the triggers keep even from the owner, who can switch them off."""
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        assert connection.execute(text(statement)).rowcount > 0


def test_operators_are_listed_with_their_roles_disabled_ones_too(cardsync):
    empty = cardsync("operators", "list")
    assert (empty.exit_code, empty.stdout) == (0, "")
    assert "cardsync operators invite" in empty.stderr
    assert json.loads(cardsync("operators", "list", "--json").stdout) == []
    links = [
        cardsync("operators", "invite", "--name", name, "--role", role).stdout.strip().rpartition("/")[2]
        for name, role in (("Amal", "admin"), ("Bilal", "viewer"))
    ]
    assert cardsync("operators", "disable", "Bilal").exit_code == 0
    plain, as_json = cardsync("operators", "list"), cardsync("operators", "list", "--json")
    amal, bilal = sorted(json.loads(as_json.stdout), key=lambda one: one["name"])
    assert (amal["name"], amal["role"], amal["disabled_at"], amal["sessions"]) == ("Amal", "admin", None, 0)
    assert amal["invited_until"].endswith("Z")
    assert (bilal["name"], bilal["role"], bilal["invited_until"]) == ("Bilal", "viewer", None)
    assert bilal["disabled_at"].endswith("Z")
    header, *lines = plain.stdout.splitlines()
    assert header.split("\t")[:2] == ["name", "role"]
    assert sorted(line.split("\t")[:2] for line in lines) == [["Amal", "admin"], ["Bilal", "viewer"]]
    for link in links:
        assert link not in plain.output + as_json.output


def test_a_journal_that_nobody_changed_is_intact_and_says_so(cardsync, journal):
    plain = cardsync("operators", "verify")
    assert plain.exit_code == 0
    assert "Intact: 3 actions, all sealed." in plain.stderr
    result, said = verified(cardsync)
    assert (result.exit_code, said["whole"], said["broken_at"]) == (0, True, None)
    assert (said["actions"], said["sealed_to"]) == (3, 3)
    assert said["head"] in plain.stdout
    cardsync("operators", "disable", "Bilal")
    assert "Intact: 4 actions, the last 1 not sealed yet." in cardsync("operators", "verify").stderr


@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE cardsync.operator_actions SET actor = 'other' WHERE action_id = 2",
        "DELETE FROM cardsync.operator_actions WHERE action_id = 2",
        "UPDATE cardsync.operator_action_chain SET hash = sha256('x') WHERE action_no = 2",
    ],
)
def test_the_action_that_was_changed_is_named(cardsync, engine, journal, harm):
    as_owner(engine, harm)
    result, said = verified(cardsync)
    assert result.exit_code == 1
    assert (said["whole"], said["broken_at"]) == (False, 2)
    assert "the chain is broken at action 2" in result.stderr
    assert "Intact" not in result.stderr


def test_a_seal_of_another_secret_is_none(cardsync, engine):
    cardsync("operators", "invite", "--name", "Amal", "--role", "viewer")
    Sealer(seals.JOURNAL, SECRET_OF_ANOTHER).seal(engine)
    result, said = verified(cardsync)
    assert (result.exit_code, said["broken_at"]) == (1, 1)


def test_a_noted_head_shows_that_the_end_was_cut_off(cardsync, engine, journal):
    _, before = verified(cardsync)
    cardsync("operators", "disable", "Bilal")
    result, said = verified(cardsync, "--noted", before["head"])
    assert (result.exit_code, said["noted_at"]) == (0, 3)
    for table in ("operator_action_seals", "operator_action_chain", "operator_actions"):
        as_owner(engine, f"DELETE FROM cardsync.{table}")
    change(engine, "UPDATE cardsync.operator_action_head SET action_no = 0, hash = decode(repeat('00', 32), 'hex')")
    assert cardsync("operators", "verify").exit_code == 0  # an empty chain fits by itself
    result, said = verified(cardsync, "--noted", before["head"])
    assert (result.exit_code, said["noted_at"]) == (1, None)
    assert "cut off" in result.stderr
    assert cardsync("operators", "verify", "--noted", "x").exit_code == 2
