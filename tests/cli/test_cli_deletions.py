"""``cardsync deletions`` and ``cardsync customers erase``: what they ask for, what they print, and how they fail."""

from __future__ import annotations

import getpass
import json
import threading
import uuid

import pytest
from sqlalchemy import text

from cardsync import erase
from cardsync import settings as settings_module
from cardsync.delete import DeletePolicy, delete
from cardsync.ottu import OttuClient
from cardsync.reconcile import ReconcilePolicy, reconcile
from tests import factories
from tests.factories import CustomerFactory, make_card

NOBODY = "00000000-0000-0000-0000-000000000001"
TOKEN = "9999000000000001"


@pytest.fixture(autouse=True)
def rows(engine):
    factories.bind(engine)
    yield
    factories.unbind()


@pytest.fixture
def card_id(rows):
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
    assert after["head"] in cardsync("deletions", "verify").stdout


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


def test_an_erasure_takes_the_cards_out_of_use_and_says_how_far_it_is(cardsync, engine, card_id):
    other = str(make_card(CustomerFactory(customer_id="cust-1", environment="production")).card_id)
    result = cardsync("customers", "erase", "cust-1", "--reason", "ticket 2", "--json")
    assert result.exit_code == 0
    erasure = json.loads(result.stdout)
    assert (erasure["status"], erasure["reason"]) == ("pending", "ticket 2")
    assert {d["card_id"] for d in erasure["deletions"]} == {card_id, other}
    assert {status_of(engine, c) for c in (card_id, other)} == {"deleting"}
    people = cardsync("customers", "erase", "cust-1")
    assert erasure["erasure_id"] in people.stdout
    with engine.connect() as connection:  # nobody rings from here, so the sweep must
        rung = connection.execute(text("SELECT rung_at FROM cardsync.customers")).scalars().all()
    assert rung == [None, None]


def test_waiting_in_vain_ends_with_status_1_and_loses_nothing(cardsync, card_id):
    result = cardsync("customers", "erase", "cust-1", "--wait", "--timeout", "0.1", "--json")
    assert result.exit_code == 1
    assert "pending" in result.stderr
    assert json.loads(result.stdout)["status"] == "pending"


def work(engine, stopping):
    """Do what workers do, as long as it is wanted: call, look, advance."""
    loaded = settings_module.load("database", "secret", "ottu")
    client = OttuClient(loaded)
    try:
        while not stopping.wait(0.02):
            with engine.connect() as connection:
                due = "FROM {} WHERE due_at <= clock_timestamp()"
                asked = (
                    connection.execute(text("SELECT deletion_id " + due.format("cardsync.deletions"))).scalars().all()
                )
                dirty = connection.execute(text("SELECT id " + due.format("cardsync.customers"))).scalars().all()
            for deletion_id in asked:
                delete(engine, client, deletion_id, DeletePolicy.of(loaded), jitter=0.5)
            for customer in dirty:
                reconcile(engine, client, customer, ReconcilePolicy.of(loaded), jitter=0.5)
            erase.advance(engine, 10)
    finally:
        client.close()


@pytest.mark.parametrize("locked", [False, True])
def test_waiting_ends_when_the_person_is_gone_or_a_card_is_locked(cardsync, engine, ottu, locked):
    for environment in ("sandbox", "production"):
        ottu.world.save_card(environment, "cust-1")
    card = ottu.world.save_card("sandbox", "cust-1")
    if locked:
        ottu.world.pay("sandbox", "cust-1", card.token, agreement_id="agr-1")
    assert cardsync("reconcile", "--environment", "sandbox", "--customer", "cust-1").exit_code == 0
    stopping = threading.Event()
    worker = threading.Thread(target=work, args=(engine, stopping))
    worker.start()
    try:
        result = cardsync("customers", "erase", "cust-1", "--wait", "--timeout", "60", "--json")
    finally:
        stopping.set()
        worker.join()
    erasure = json.loads(result.stdout)
    if locked:
        assert (result.exit_code, erasure["status"]) == (1, "blocked")
        assert "is locked" in result.stderr
        return
    assert (result.exit_code, erasure["status"]) == (0, "done"), result.output
    assert [d["status"] for d in erasure["deletions"]] == ["done"] * 3  # also the card that nobody had heard of
    assert not ottu.world.truth("sandbox", "cust-1")
    assert not ottu.world.truth("production", "cust-1")
    assert json.loads(cardsync("deletions", "verify", "--json").stdout)["whole"]
    deletion_id = erasure["deletions"][0]["deletion_id"]
    shown = json.loads(cardsync("deletions", "show", deletion_id, "--json").stdout)
    steps = {step["step"]: step["detail"] for step in shown["steps"]}
    assert {"asked", "called", "answered", "absent", "done"} <= set(steps)
    assert steps["answered"]["status_code"] == 204
    assert isinstance(steps["absent"]["observation_no"], int)


def test_where_ottu_offers_no_cards_api_nothing_is_promised(cardsync, engine, card_id, monkeypatch):
    monkeypatch.setenv("OTTU_CARDS_API", "unavailable")
    for command in (("deletions", "request", card_id), ("customers", "erase", "cust-1")):
        assert cardsync(*command).exit_code == 2
    assert status_of(engine, card_id) == "active"
    assert uuid.UUID(card_id)
