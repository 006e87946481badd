"""``cardsync deletions``: what it asks for, what it prints, and how it fails."""

from __future__ import annotations

import getpass
import json
import uuid

import pytest
from sqlalchemy import text

from tests.factories import CustomerFactory, make_card

NOBODY = "00000000-0000-0000-0000-000000000001"
TOKEN = "9999000000000001"
pytestmark = pytest.mark.usefixtures("bound_factories")


@pytest.fixture
def card_id(bound_factories):
    return str(make_card(CustomerFactory(customer_id="cust-1"), token=TOKEN).card_id)


def status_of(engine, card_id):
    with engine.connect() as connection:
        found = text("SELECT status FROM registry.cards WHERE card_id = :card_id")
        return connection.execute(found, {"card_id": card_id}).scalar_one()


def test_a_request_names_the_user_and_takes_the_card_out_of_use(cardsync, engine, card_id):
    result = cardsync("deletions", "request", card_id, "--reason", "ticket 1", "--when-unlocked", "--json")
    assert result.exit_code == 0
    deletion = json.loads(result.stdout)
    assert deletion["requested_by"] == f"cli:{getpass.getuser()}"
    assert (deletion["status"], deletion["reason"], deletion["when_unlocked"]) == ("pending", "ticket 1", True)
    assert status_of(engine, card_id) == "deleting"
    again = cardsync("deletions", "request", card_id)
    assert again.exit_code == 0
    assert deletion["deletion_id"] in again.stdout
    assert "asked for before" in again.stderr


def test_a_key_stands_for_one_wish(cardsync, card_id):
    first = cardsync("deletions", "request", card_id, "--idempotency-key", "k1", "--json")
    assert cardsync("deletions", "request", card_id, "--idempotency-key", "k1", "--json").stdout == first.stdout
    other = cardsync("deletions", "request", card_id, "--idempotency-key", "k1", "--reason", "x")
    assert other.exit_code == 1
    assert other.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("deletions", "request", "x"),
        ("deletions", "request", NOBODY, "--reason", "x" * 201),
        ("deletions", "request", NOBODY, "--reason", "4111 1111 1111 1111"),
        ("deletions", "request", NOBODY, "--idempotency-key", "a b"),
        ("deletions", "list", "--status", "gone"),
        ("customers", "erase", ""),
        ("customers", "erase", "x" * 65),
        ("customers", "erase", "cust-1", "--reason", "4111111111111111"),
    ],
)
def test_wrong_usage_is_said_and_a_number_is_not_repeated(cardsync, arguments):
    result = cardsync(*arguments)
    assert result.exit_code == 2
    assert "4111" not in result.output


@pytest.mark.parametrize("command", ["request", "show", "replay"])
def test_what_is_not_there_is_one_line_and_status_1(cardsync, command):
    result = cardsync("deletions", command, NOBODY)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1


def test_deletions_are_listed_by_status(cardsync, card_id):
    deletion_id = json.loads(cardsync("deletions", "request", card_id, "--json").stdout)["deletion_id"]
    listed = json.loads(cardsync("deletions", "list", "--status", "pending", "--json").stdout)
    assert [d["deletion_id"] for d in listed] == [deletion_id]
    assert json.loads(cardsync("deletions", "list", "--status", "done", "--json").stdout) == []
    assert deletion_id in cardsync("deletions", "list").stdout


def test_the_receipt_shows_who_asked_and_no_token(cardsync, card_id):
    deletion_id = json.loads(cardsync("deletions", "request", card_id, "--json").stdout)["deletion_id"]
    shown = json.loads(cardsync("deletions", "show", deletion_id, "--json").stdout)
    assert [s["step"] for s in shown["steps"]] == ["asked"]
    assert shown["steps"][0]["detail"]["requested_by"] == f"cli:{getpass.getuser()}"
    people = cardsync("deletions", "show", deletion_id)
    assert "Receipt:" in people.stdout
    assert f"cli:{getpass.getuser()}" in people.stdout
    assert TOKEN not in people.stdout + json.dumps(shown)


def test_only_what_failed_or_is_blocked_can_be_replayed(cardsync, card_id):
    deletion_id = json.loads(cardsync("deletions", "request", card_id, "--json").stdout)["deletion_id"]
    result = cardsync("deletions", "replay", deletion_id)
    assert result.exit_code == 1
    assert "pending" in result.stderr


def test_an_unchanged_chain_verifies_and_its_head_moves_with_each_step(cardsync, engine, card_id):
    before = json.loads(cardsync("deletions", "verify", "--json").stdout)
    assert (before["whole"], before["steps"]) == (True, 0)
    cardsync("deletions", "request", card_id)
    after = json.loads(cardsync("deletions", "verify", "--json").stdout)
    assert (after["whole"], after["steps"]) == (True, 1)
    assert len(after["head"]) == 64
    assert after["head"] != before["head"]
    said = cardsync("deletions", "verify")
    assert (after["head"] in said.stdout, "Intact: " in said.output) == (True, True)


def test_a_head_that_was_noted_shows_that_the_end_was_cut_off(cardsync, engine, card_id):
    empty = json.loads(cardsync("deletions", "verify", "--json").stdout)["head"]
    cardsync("deletions", "request", card_id)
    head = json.loads(cardsync("deletions", "verify", "--json").stdout)["head"]
    assert cardsync("deletions", "verify", "--noted", head).exit_code == 0
    assert cardsync("deletions", "verify", "--noted", empty).exit_code == 0
    assert cardsync("deletions", "verify", "--noted", "x").exit_code == 2
    with engine.begin() as connection:
        for table in ("receipt_chain", "deletion_steps"):
            connection.execute(text(f"ALTER TABLE cardsync.{table} DISABLE TRIGGER USER"))
            connection.execute(text(f"DELETE FROM cardsync.{table}"))
        connection.execute(text("UPDATE cardsync.receipt_head SET step_no = 0, hash = decode(repeat('00', 32), 'hex')"))
    assert cardsync("deletions", "verify").exit_code == 0
    result = cardsync("deletions", "verify", "--noted", head)
    assert result.exit_code == 1
    assert "cut off" in result.stderr


def test_a_step_that_was_changed_is_found(cardsync, engine, card_id):
    cardsync("deletions", "request", card_id)
    with engine.begin() as connection:
        for trigger in ("DISABLE", "ENABLE"):  # as somebody with the owner's rights would
            if trigger == "ENABLE":
                connection.execute(
                    text('UPDATE cardsync.deletion_steps SET detail = detail || \'{"requested_by": "x"}\'')
                )
            connection.execute(text(f"ALTER TABLE cardsync.deletion_steps {trigger} TRIGGER USER"))
    result = cardsync("deletions", "verify", "--json")
    assert result.exit_code == 1
    verified = json.loads(result.stdout)
    assert (verified["whole"], verified["broken_at"]) == (False, 1)
    assert "broken at step 1" in result.stderr


def test_where_ottu_offers_no_cards_api_nothing_is_promised(cardsync, engine, card_id, monkeypatch):
    monkeypatch.setenv("OTTU_CARDS_API", "unavailable")
    for command in (("deletions", "request", card_id), ("customers", "erase", "cust-1")):
        assert cardsync(*command).exit_code == 2
    assert status_of(engine, card_id) == "active"
    assert uuid.UUID(card_id)
