"""``cardsync reconcile`` as a process of its own, against the stand-in for Ottu."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest

from cardsync.core.cards import Token
from cardsync.store import customers
from tests.cli.conftest import COMMAND, SECONDS
from tests.factories import ESTIMATE
from tests.waiting import until


def make_known(engine, *customer_ids):
    with engine.begin() as connection:
        customers.add_known(connection, [("sandbox", c) for c in customer_ids])


def save(ottu, customer_id):
    return ottu.world.save_card("sandbox", customer_id)


def one(process, customer_id="cust-1"):
    return process("reconcile", "--environment", "sandbox", "--customer", customer_id, "--json")


def test_an_unknown_customer_is_made_known_and_has_its_cards(process, ottu, shop):
    save(ottu, "cust/é %1")
    result = one(process, "cust/é %1")
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["outcome"] == "changed"
    assert facts["reconciled_at"].endswith("Z")
    assert list(shop.cards("cust/é %1").values()) == ["active"]


def test_the_first_to_write_cards_binds_the_database_to_its_secret(process, ottu, shop, monkeypatch):
    assert one(process).returncode == 0
    monkeypatch.setenv("CARDSYNC_SECRET_KEY", "another secret of the tests, 40 characters")
    result = one(process)
    assert result.returncode == 2
    assert result.stderr.startswith("cardsync: CARDSYNC_SECRET_KEY is not the one")


def test_neither_output_nor_log_shows_a_token(process, ottu, shop):
    save(ottu, "cust-1")
    (token,) = ottu.world.truth("sandbox", "cust-1")
    result = one(process)
    assert Token(token).reveal() not in result.stdout + result.stderr


def test_a_failure_of_ottus_is_a_failure_of_the_command(process, ottu, shop):
    ottu.turn(error_rate=1.0)
    result = one(process)
    assert result.returncode == 1
    assert json.loads(result.stdout)["outcome"] == "failed"
    assert "1 customer failed: OttuFault" in result.stderr


def test_a_person_does_not_wait_for_a_back_off(process, ottu, shop):
    shop.hint()
    shop.execute("UPDATE cardsync.customers SET failures = 9, lane = 'retry', due_at = now() + interval '1 hour'")
    assert one(process).returncode == 0
    assert shop.customer().failures == 0


def test_a_ticket_of_another_process_is_waited_for(process, ottu, shop, engine):
    (customer,) = shop.hint()
    with engine.begin() as connection:
        ticket = customers.take_ticket(connection, customer, lease_seconds=2 * SECONDS)
    command = [*COMMAND, "reconcile", "--environment", "sandbox", "--customer", "cust-1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        until(lambda: shop.customer().dirty_no > ticket.number, "the command's wish is noted", seconds=SECONDS)
        assert running.poll() is None
        with engine.begin() as connection:
            customers.settle(connection, ticket, ESTIMATE, look_again_seconds=None, removals_held=False)
        # What the other asked for is older than the wish: it is asked once more, by this process itself.
        _, errors = running.communicate(timeout=SECONDS)
    assert running.returncode == 0, errors
    assert shop.customer().applied_no > ticket.number
    assert len(ottu.calls("list")) == 1


def test_all_customers_are_brought_in_line(process, ottu, shop, engine):
    make_known(engine, *(f"cust-{n}" for n in range(30)))
    for n in range(10):
        save(ottu, f"cust-{n}")
    result = process("reconcile", "--all", "--json")
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert (facts["expected"], facts["seen"], facts["changed"], facts["failed"]) == (30, 30, 10, 0)
    assert facts["calls_left"] == 81_000 - 30  # of the share that routine looks may use


def test_failures_among_all_are_counted_and_an_ottu_that_is_down_ends_the_pass(
    process, ottu, shop, engine, monkeypatch
):
    monkeypatch.setenv("CARDSYNC_WORKER_THREADS", "4")
    make_known(engine, *(f"cust-{n}" for n in range(200)))
    ottu.turn(error_rate=1.0)
    result = process("reconcile", "--all", "--json", "--max-wait", "0")
    facts = json.loads(result.stdout)
    assert result.returncode == 1
    assert 3 <= facts["failed"] == len(ottu.calls("list")) < 12  # the breaker has opened
    assert "Ottu is down" in facts["stopped_because"]


def test_a_spent_budget_ends_the_pass_where_nobody_will_wait_and_says_so(process, ottu, shop, engine, monkeypatch):
    monkeypatch.setenv("OTTU_DAILY_CALLS", "10")
    make_known(engine, *(f"cust-{n}" for n in range(50)))
    result = process("reconcile", "--all", "--json", "--max-wait", "0")
    facts = json.loads(result.stdout)
    assert result.returncode == 1
    assert (facts["seen"], facts["failed"], facts["not_reached"], len(ottu.calls("list"))) == (7, 0, 43, 7)
    assert facts["calls_left"] == 0  # never the reserve of what is urgent
    assert "43 not reached: BudgetSpent" in result.stderr


def test_the_brake_holds_for_a_pass_over_all(process, ottu, shop, engine, monkeypatch):
    monkeypatch.setenv("CARDSYNC_REMOVAL_BRAKE_FLOOR", "2")
    for n in range(12):
        save(ottu, f"cust-{n}")
    make_known(engine, *(f"cust-{n}" for n in range(12)))
    assert process("reconcile", "--all").returncode == 0
    for n in range(12):
        (token,) = ottu.world.truth("sandbox", f"cust-{n}")
        ottu.world.delete("sandbox", f"cust-{n}", token)
    result = process("reconcile", "--all", "--json")
    assert result.returncode == 1
    assert json.loads(result.stdout)["removals_held"] == 10
    assert "cardsync brake show" in result.stderr


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_pass_ends_cleanly_and_goes_on_where_it_stopped(
    settings, process, ottu, shop, engine, monkeypatch, kind
):
    monkeypatch.setenv("CARDSYNC_WORKER_THREADS", "4")
    make_known(engine, *(f"cust-{n}" for n in range(60)))
    ottu.turn(latency_seconds=1.0)  # fifteen seconds for all: a signal that comes late still comes before the end
    command = [*COMMAND, "reconcile", "--all", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        until(lambda: len(ottu.calls("list")) > 5, "some customers are asked for", seconds=SECONDS)
        running.send_signal(kind)
        output, errors = running.communicate(timeout=SECONDS)
    facts = json.loads(output)
    assert running.returncode == 1
    assert facts["stopped_because"] == "interrupted"
    assert 0 < facts["seen"] < 60
    assert facts["seen"] + facts["not_reached"] == 60
    assert "Traceback" not in errors
    assert shop.execute("SELECT count(*) FROM cardsync.customers WHERE ticket_no IS NOT NULL")[0][0] == 0
    ottu.turn(latency_seconds=0.0)
    result = process("reconcile", "--all", "--json")
    again = json.loads(result.stdout)
    assert result.returncode == 0, result.stderr
    assert (again["resumed"], again["expected"], again["seen"]) == (True, 60, 60)
    assert again["began_at"] == facts["began_at"]
    assert len(ottu.calls("list")) == 60
    assert "Going on with the resync" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--all", "--customer", "x"],
        ["--environment", "sandbox"],
        ["--customer", "x"],
        ["--environment", "test", "--customer", "x"],
        ["--environment", "sandbox", "--customer", "x" * 65],
        ["--environment", "sandbox", "--customer", "x", "--restart"],
    ],
)
def test_half_a_wish_is_wrong_usage(process, ottu, arguments):
    assert process("reconcile", *arguments).returncode == 2


def test_without_a_list_there_is_nothing_to_reconcile_with(process, monkeypatch):
    monkeypatch.setenv("OTTU_CARDS_API", "unavailable")
    result = one(process)
    assert result.returncode == 2
    assert "OTTU_CARDS_API" in result.stderr
