"""``cardsync customers erase``: what it asks for, how it waits, and when that ends."""

from __future__ import annotations

import json
import threading

import pytest
from sqlalchemy import text

from cardsync import settings as settings_module
from cardsync.ottu import OttuClient
from cardsync.stories import erase
from cardsync.stories.delete import DeletePolicy, delete
from cardsync.stories.reconcile import ReconcilePolicy, reconcile
from tests import factories
from tests.factories import CustomerFactory, make_card

TOKEN = "9999000000000001"
pytestmark = pytest.mark.usefixtures("bound_factories")


@pytest.fixture
def card_id(bound_factories):
    return str(make_card(CustomerFactory(customer_id="cust-1"), token=TOKEN).card_id)


def status_of(engine, card_id):
    with engine.connect() as connection:
        found = text("SELECT status FROM registry.cards WHERE card_id = :card_id")
        return connection.execute(found, {"card_id": card_id}).scalar_one()


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
                reconcile(engine, client, customer, ReconcilePolicy.of(loaded, factories.SECRET), jitter=0.5)
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
        result = cardsync("customers", "erase", "cust-1", "--wait", "--timeout", "300", "--json")
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
