"""Deletions, end to end: asked for over HTTP, in SQL and on the command line; each ends in proof, whatever dies meanwhile."""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
import signal
import time
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from cardsync.dev.simulator.calls import Point
from cardsync.dev.simulator.knobs import Knobs
from cardsync.store.deletions.transitions import CLAIMED_SECONDS
from tests.e2e.marks import BOTH_BROKERS, ONE_BROKER
from tests.e2e.processes import run
from tests.e2e.system import ENVIRONMENT, Row, System, token_of
from tests.waiting import until

# Long enough that no call gives up by itself while a test holds it.
SETTINGS = {"OTTU_TIMEOUT_S": "30"}
# Longer than any wait for a dead worker (its lease, its lost bells), and the time for which Ottu is away here.
A_WHILE_SECONDS = 60
# In this order: a call that is held at the last point would not get to the others.
KILLED_AT: tuple[Point, ...] = ("list:after", "delete:after", "delete:before")
REFUSED_FOR_SECONDS = 3_601  # longer than a refusal is the answer to further requests (migration 0018)
DELETE_LAG_SECONDS = 3_600  # until the test ends it


@BOTH_BROKERS
def test_a_card_asked_to_be_deleted_over_http_is_gone_with_proof(system: System) -> None:
    customer, token, card_id = saved(system)
    assert tables_with(system, token) != []
    key, reader = system.key("cards:delete"), system.key("cards:read")
    wish = {"idempotency_key": f"key-{card_id}", "card_id": card_id, "reason": "the customer asked for it"}
    asked = system.post("/v1/deletions", key, **wish)
    assert (asked.status_code, asked.headers["Location"]) == (202, f"/v1/deletions/{asked.json()['deletion_id']}")
    until_status(system, card_id, "done")

    receipt = system.get(asked.headers["Location"], reader).json()
    assert (receipt["status"], receipt["attempts"], receipt["requested_by"]) == ("done", 1, "test")
    asked_for, called, answered, absent, done = receipt["steps"]
    assert [s["step"] for s in receipt["steps"]] == ["asked", "called", "answered", "absent", "done"]
    assert asked_for["detail"]["requested_by"] == "test"
    assert answered["detail"]["status_code"] == 204
    assert absent["detail"]["observation_no"] == done["detail"]["observation_no"] > called["detail"]["call_no"]

    assert system.get("/v1/cards", reader, environment=ENVIRONMENT, customer_id=customer).json()["cards"] == []
    shown = system.get(f"/v1/cards/{card_id}", reader).json()
    assert (shown["status"], shown["removed_because"]) == ("removed", "requested")
    assert system.changes(customer) == ["added", "deleting", "removed"]
    assert tables_with(system, token) == []
    assert system.post("/v1/deletions", key, **wish).json()["deletion_id"] == receipt["deletion_id"]
    assert answers_to_deletes(system, customer) == [204]
    assert verified(system, noted=done["hash"])["noted_at"] == done["step_no"]


@BOTH_BROKERS
def test_a_deletion_asked_for_in_sql_is_heard_when_its_transaction_commits(system: System) -> None:
    system.processes["worker"].says("listening")
    # Far beyond what it takes (some 20 ms), and far below what the sweep would need to notice. A machine that stands still for a
    # moment delays one; a notice that is not heard would delay each.
    assert any(_heard_after(system) < CLAIMED_SECONDS / 2 for _ in range(5))


def _heard_after(system: System) -> float:
    """Ask for a deletion in SQL, take that back, ask again; how long after the commit Ottu is asked for it."""
    customer, _, card_id = saved(system)
    request = "SELECT registry.request_deletion(%s, %s, %s)"
    parameters = (card_id, "a service", f"key-{card_id}")
    with deleter(system) as service:
        service.execute(request, parameters)
        seen = service.execute("SELECT status FROM registry.cards WHERE card_id = %s", (card_id,)).fetchone()
        assert seen == ("deleting",)
        service.rollback()
        assert (system.statuses(customer), deletions(system, card_id)) == (["active"], [])
        service.execute(request, parameters)
        service.commit()
    committed_at = time.time()
    until_status(system, card_id, "done")
    (call,) = system.simulator.calls("delete", customer_id=customer)
    assert system.changes(customer) == ["added", "deleting", "removed"]
    (deletion,) = deletions(system, card_id)
    assert deletion["requested_by"] == "a service"
    return call.began_at - committed_at


@ONE_BROKER
def test_a_worker_killed_around_the_call_and_after_the_list_deletes_once(system: System) -> None:
    """The call that was held before Ottu took it is the worst: it takes effect after all, when another is on its way."""
    worker = system.processes["worker"]
    (before, _, card_before), (after, _, card_after), (listed, _, card_listed) = (saved(system) for _ in range(3))
    gates = system.simulator.gates
    try:
        for card_id, point in zip((card_listed, card_after, card_before), KILLED_AT, strict=True):
            gates.hold(point)
            ask(system, card_id)
            gates.wait_until_waiting(point)
        worker.signal(signal.SIGKILL)
        worker.wait()
        gates.release("list:after", "delete:after")
        assert [status_of(system, c) for c in (card_before, card_after, card_listed)] == ["in_progress"] * 3
        worker.start()
        let_time_pass(system)
        gates.wait_until_waiting("delete:before", 2)
    finally:
        gates.release()
    for card_id in (card_before, card_after, card_listed):
        until_status(system, card_id, "done")
    until(lambda: sorted(answers_to_deletes(system, before), key=str) == [204, 404], "one took effect")
    assert (answers_to_deletes(system, after), answers_to_deletes(system, listed)) == ([204], [204])
    for customer in (before, after, listed):
        assert system.changes(customer) == ["added", "deleting", "removed"]


@ONE_BROKER
def test_a_worker_killed_with_a_call_that_never_takes_effect_makes_another(system: System) -> None:
    worker = system.processes["worker"]
    customer, _, card_id = saved(system)
    system.simulator.script_delete("cut")
    with system.simulator.held("delete:before") as gates:
        ask(system, card_id)
        gates.wait_until_waiting("delete:before")
        worker.signal(signal.SIGKILL)
        worker.wait()
    worker.start()
    let_time_pass(system)
    until_status(system, card_id, "done")
    assert answers_to_deletes(system, customer) == [None, 204]
    assert steps(system, card_id) == ["asked", "called", "listed", "called", "answered", "absent", "done"]


@ONE_BROKER
def test_an_ottu_that_goes_away_in_the_middle_ends_no_deletion(system: System) -> None:
    (heeded, _, card_heeded), (unheard, _, card_unheard) = (saved(system) for _ in range(2))
    with system.simulator.held("delete:after") as gates:
        ask(system, card_heeded)
        gates.wait_until_waiting("delete:after")
        system.simulator.go_away()
    try:
        ask(system, card_unheard)
        for _ in range(2):  # the second time after a while that was no better
            let_time_pass(system)
            until_another_list_fails(system, heeded, unheard)
        assert [status_of(system, c) for c in (card_heeded, card_unheard)] == ["in_progress"] * 2
        assert [system.statuses(customer) for customer in (heeded, unheard)] == [["deleting"]] * 2
    finally:
        system.simulator.come_back()
    let_time_pass(system)
    until_status(system, card_heeded, "done")
    until_status(system, card_unheard, "done")
    assert [answers_to_deletes(system, customer) for customer in (heeded, unheard)] == [[204], [204]]
    # Lists failed for one reason: that is one step, however many of them failed.
    away = ["asked", "called", "no_answer", "unlisted"]
    assert steps(system, card_heeded) == [*away, "absent", "done"]
    assert steps(system, card_unheard) == [*away, "listed", "called", "answered", "absent", "done"]


@ONE_BROKER
def test_refused_credentials_pause_everybody_use_no_attempt_and_end_by_themselves(system: System) -> None:
    customer, _, card_id = saved(system)
    system.sql("UPDATE cardsync.observations SET asked_at = asked_at - interval '1 hour'")  # no list has worked lately
    with turned(system, credentials="refuse_401"):
        ask(system, card_id)
        until(lambda: "credentials refused" in str(system.get("/readyz").json()["checks"]["ottu"]), "the web says so")
        # Figures are kept for a second.
        until(lambda: system.metrics()["cardsync_ottu_calls_paused", ()] == 1, "the alert's figure says so")
        calls = len(system.simulator.calls("delete"))
        let_time_pass(system)  # due again, and nobody calls
        until(lambda: "CallsPaused" in str(deletions(system, card_id)[0]["error"]), "the deletion waits for the others")
        assert len(system.simulator.calls("delete")) == calls
        (waiting,) = deletions(system, card_id)
        assert (waiting["status"], waiting["attempts"], system.statuses(customer)) == ("pending", 0, ["deleting"])
    let_time_pass(system)
    system.sql("UPDATE cardsync.gate SET paused_until = clock_timestamp()")
    until_status(system, card_id, "done")
    assert answers_to_deletes(system, customer) == [401, 204]
    (done,) = deletions(system, card_id)
    assert done["attempts"] == 1
    until(lambda: system.metrics()["cardsync_ottu_calls_paused", ()] == 0, "the alert is over")


@ONE_BROKER
def test_a_locked_card_is_active_again_and_goes_by_itself_once_another_took_over(system: System) -> None:
    customer, first, card_id = saved(system)
    agreement_id = f"agr-{customer}"
    system.delivered(system.simulator.checkout().agree(ENVIRONMENT, customer, first, agreement_id=agreement_id))
    system.until_settled(customer)
    for locked_status in (403, 400):
        let_a_refusal_age(system, card_id)
        with turned(system, locked_status=locked_status):
            ask(system, card_id, when_unlocked=locked_status == 400)
            until_status(system, card_id, "blocked")
        (blocked, *_) = deletions(system, card_id)
        assert blocked["error"] == f"Ottu refuses ({locked_status})"  # none of its free text, which may name the payer
        assert system.statuses(customer) == ["active"]
        assert system.changes(customer)[-2:] == ["deleting", "restored"]

    second = token_of(system.save_card(customer))
    system.until_active(customer, cards=2)
    system.delivered(system.simulator.checkout().agree(ENVIRONMENT, customer, second, agreement_id=agreement_id))
    until_status(system, card_id, "done")
    assert system.statuses(customer) == ["removed", "active"]
    assert [d["status"] for d in deletions(system, card_id)] == ["done", "blocked"]
    assert steps(system, card_id)[-5:] == ["unlocked", "called", "answered", "absent", "done"]
    assert answers_to_deletes(system, customer) == [403, 400, 204]


@ONE_BROKER
def test_a_card_that_ottu_still_lists_is_not_done_until_a_list_lacks_it(system: System) -> None:
    customer, token, card_id = saved(system)
    with turned(system, delete_lag_seconds=DELETE_LAG_SECONDS):
        ask(system, card_id)
        until(lambda: "listed" in steps(system, card_id), "a list still shows it")
        assert (status_of(system, card_id), system.statuses(customer)) == ("in_progress", ["deleting"])
        assert tables_with(system, token) != []
        system.simulator.world.end_lags()
        until_status(system, card_id, "done")
    told = [step for step, _ in itertools.groupby(steps(system, card_id))]  # several looks may have shown it
    assert told == ["asked", "called", "answered", "listed", "absent", "done"]
    assert answers_to_deletes(system, customer) == [204]
    assert tables_with(system, token) == []


@ONE_BROKER
def test_a_person_is_erased_in_both_environments(system: System) -> None:
    name = f"ERASED HOLDER {uuid.uuid4().hex[:8]}"
    customer, token, card_id = saved(system, name_on_card=name)
    elsewhere = token_of(  # no notification ever named it
        system.simulator.checkout().save_card("production", customer, notify=False, name_on_card=name)
    )
    (known,) = system.cards(customer)
    assert (known["name_on_card"], known["number"] is None) == (name, False)
    erased = cli(system, "customers", "erase", customer, "--wait", "--json")
    assert (erased["status"], {d["status"] for d in erased["deletions"]}) == ("done", {"done"})
    assert {d["environment"] for d in erased["deletions"]} == {"sandbox", "production"}
    for card in system.cards(customer):
        assert (card["status"], card["removed_because"]) == ("removed", "requested")
        assert {card[n] for n in ("name_on_card", "number", "last4", "expiry_month", "expiry_year")} == {None}
    for text in (name, token, elsewhere):
        assert tables_with(system, text) == []
    assert steps(system, card_id)[-1] == "done"  # the receipt stays
    verified(system)


# Cards and deletions.


def saved(system: System, **facts: Any) -> tuple[str, str, str]:
    """A customer with one active card and nothing left to do: the customer's id, the token and our id of the card."""
    customer = system.customer()
    token = token_of(system.save_card(customer, **facts))
    system.until_active(customer)
    system.until_settled(customer)
    (card,) = system.cards(customer)
    return customer, token, str(card["card_id"])


def ask(system: System, card_id: str, **wish: Any) -> None:
    """Ask for a deletion as a service does."""
    key = system.key("cards:delete")
    asked = system.post("/v1/deletions", key, idempotency_key=secrets.token_hex(8), card_id=card_id, **wish)
    assert asked.status_code == 202, asked.text


def deletions(system: System, card_id: str) -> list[Row]:
    """A card's deletions as services see them, the newest first."""
    return system.sql("SELECT * FROM registry.deletions WHERE card_id = %s ORDER BY requested_at DESC", card_id)


def status_of(system: System, card_id: str) -> str:
    """The state of the card's newest deletion."""
    return str(deletions(system, card_id)[0]["status"])


def until_status(system: System, card_id: str, status: str) -> None:
    """Wait until the card's newest deletion has come so far."""
    until(lambda: status_of(system, card_id) == status, f"the deletion is {status}")


def steps(system: System, card_id: str) -> list[str]:
    """The names of the steps of the card's newest deletion."""
    rows = system.sql(
        "SELECT step FROM cardsync.deletion_steps WHERE deletion_id = %s ORDER BY step_id",
        deletions(system, card_id)[0]["deletion_id"],
    )
    return [row["step"] for row in rows]


def answers_to_deletes(system: System, customer: str) -> list[int | None]:
    """What Ottu answered to each DELETE for this customer; nothing where the call was cut."""
    return [call.status for call in system.simulator.calls("delete", customer_id=customer)]


def until_another_list_fails(system: System, *customers: str) -> None:
    """Wait until one more list has failed for each of these customers."""

    def failures() -> list[int]:
        rows = system.sql(
            "SELECT failures FROM cardsync.customers WHERE customer_id = ANY(%s) ORDER BY id", list(customers)
        )
        return [row["failures"] for row in rows]

    before = failures()
    until(lambda: all(now > then for now, then in zip(failures(), before, strict=True)), "lists have failed")


def let_time_pass(system: System) -> None:
    """What a dead worker held is free after a while, and what failed is due again; the test does not wait so long."""
    system.sql(
        "UPDATE cardsync.customers SET due_at = due_at - make_interval(secs => %s),"
        " lease_until = lease_until - make_interval(secs => %s), rung_at = rung_at - make_interval(secs => %s)"
        " WHERE due_at IS NOT NULL",
        *[A_WHILE_SECONDS] * 3,
    )
    system.sql(
        "UPDATE cardsync.deletions SET due_at = due_at - make_interval(secs => %s),"
        " rung_at = rung_at - make_interval(secs => %s) WHERE phase = 'asked'",
        *[A_WHILE_SECONDS] * 2,
    )


def let_a_refusal_age(system: System, card_id: str) -> None:
    """For an hour a card that Ottu has refused to delete is not asked for again; the test does not wait so long."""
    system.sql(
        "UPDATE cardsync.deletions SET finished_at = finished_at - make_interval(secs => %s)"
        " WHERE card_id = %s AND phase = 'blocked'",
        REFUSED_FOR_SECONDS,
        card_id,
    )


# What was left behind.


def tables_with(system: System, text: str) -> list[str]:
    """The tables in which the text stands in any row, plain or as bytes."""
    tables = system.sql(
        "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables"
        " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    )
    found = "SELECT 1 FROM {} AS t WHERE strpos(t::text, %s) > 0 OR strpos(t::text, %s) > 0 LIMIT 1"
    return [t["name"] for t in tables if system.sql(found.format(t["name"]), text, text.encode().hex())]


# The command line, other services, the simulator.


def cli(system: System, *arguments: str) -> Row:
    """Run a command that ends well, and read its JSON."""
    ran = run(system.folder, system.settings, *arguments)
    system.seen(ran.stdout + ran.stderr)
    assert ran.returncode == 0, ran.stderr
    answer: Row = json.loads(ran.stdout)
    return answer


def verified(system: System, *, noted: str | None = None) -> Row:
    """Verify the chain of receipts as an operator does."""
    answer = cli(system, "deletions", "verify", *(() if noted is None else ("--noted", noted)), "--json")
    assert answer["whole"] is True
    return answer


@contextlib.contextmanager
def deleter(system: System) -> Iterator[psycopg.Connection]:
    """A service's own login, which may ask for deletions."""
    name, password = f"deleter_{secrets.token_hex(4)}", system.keep_secret(secrets.token_hex(16))
    login = {"name": sql.Identifier(name), "password": sql.Literal(password)}
    made = sql.SQL("CREATE ROLE {name} LOGIN PASSWORD {password} IN ROLE cardsync_deleter").format(**login)
    database_url = system.settings["CARDSYNC_DATABASE_URL"]
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute(made)
        try:
            with psycopg.connect(make_conninfo(database_url, user=name, password=password)) as connection:
                yield connection
        finally:
            owner.execute(sql.SQL("DROP ROLE {name}").format(**login))


@contextlib.contextmanager
def turned(system: System, **knobs: Any) -> Iterator[None]:
    """The simulator with these knobs, for the block."""
    before: Knobs = system.simulator.knobs
    system.simulator.turn(**knobs)
    try:
        yield
    finally:
        system.simulator.turn(**before.model_dump(include=set(knobs)))
