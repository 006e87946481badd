"""Marked tokens, keys and people go through the whole system; afterwards every place that somebody could read is searched.

Each test's end searches logs, figures, answers, command lines, environments and the data folder
(``System.assert_nothing_leaked``). Here what only waits or passes is looked at too: the broker's messages, NOTIFY, the feed,
receipts, PostgreSQL's own log, and what the commands print. Traces have a search of
their own (test_traces.py).
"""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from cardsync.cli import main
from cardsync.dev.servers.postgres import SETTINGS, EmbeddedPostgres
from cardsync.dev.simulator.payloads import FAKE_PERSONAL_DATA
from cardsync.store.access.keys import SCOPES, new_key
from cardsync.web.api.change_schemas import SEQ_MAX
from tests.e2e.leaks import assert_hidden
from tests.e2e.marks import BOTH_BROKERS
from tests.e2e.system import ENVIRONMENT, System, token_of
from tests.project.test_house import COMPOSE
from tests.waiting import until
from workers.app import WORK

pytestmark = BOTH_BROKERS

WITHOUT_TOKENS = tuple(scope for scope in SCOPES if scope != "tokens:read")


def hears(database_url: str) -> psycopg.Connection[Any]:
    ear = psycopg.connect(database_url, autocommit=True)
    ear.execute("LISTEN registry_card_changes")
    ear.execute("LISTEN cardsync_deletions")
    return ear


def test_what_passes_or_waits_holds_no_secret_and_no_person(system: System) -> None:
    key, customer = system.key(*WITHOUT_TOKENS), system.customer()
    with hears(system.settings["CARDSYNC_DATABASE_URL"]) as ear:
        system.save_card(customer)
        system.until_active(customer)
        (card,) = system.cards(customer)
        system.end("worker")  # nobody takes the bells from here on
        card_id, looked_at = str(card["card_id"]), system.customer()
        messages: dict[str, str] = {}
        hinted = system.save_card(customer)
        until(lambda: _bells(system, messages) >= 1, "a bell for the hint waits")
        asked = {"card_id": card_id, "reason": "a wish"}
        deletion = system.post("/v1/deletions", key, idempotency_key="marked", **asked).json()["deletion_id"]
        until(lambda: _bells(system, messages) >= 2, "a bell for the deletion waits")
        system.post("/v1/reconciliations", key, environment=ENVIRONMENT, customer_id=looked_at)
        until(lambda: _bells(system, messages) >= 3, "a bell for the look waits")
        system.start("worker")
        system.until_settled(customer)
        until(lambda: set(system.statuses(customer)) == {"removed", "active"}, "one is deleted, the other active")
        notices = [f"{notice.channel}: {notice.payload}" for notice in ear.notifies(timeout=60, stop_after=3)]
    feed = system.sql("SELECT row_to_json(f)::text AS said FROM registry.card_changes AS f")
    receipts = system.sql("SELECT row_to_json(s)::text AS said FROM cardsync.deletion_steps AS s")
    shown = system.sql("SELECT row_to_json(d)::text AS said FROM registry.deletions AS d")
    assert any(deletion in notice for notice in notices)  # what is searched is what was looked for
    assert len(receipts) >= 4
    written = {
        "the broker's messages": "\n".join(messages.values()),
        "NOTIFY": "\n".join(notices),
        "the feed": "\n".join(row["said"] for row in feed),
        "receipts": "\n".join(row["said"] for row in receipts),
        "registry.deletions": "\n".join(row["said"] for row in shown),
    }
    assert_hidden("a secret", system.all_secrets() | {token_of(hinted)}, written)
    assert_hidden("personal data", FAKE_PERSONAL_DATA, written)
    names = {place: written[place] for place in ("the broker's messages", "NOTIFY", "receipts")}
    assert_hidden("a customer's name", {customer, looked_at}, names)
    said = {"the broker's messages": written["the broker's messages"]}
    assert_hidden("what the work is about", {card_id, deletion}, said)  # a bell says that there is work, and no more


def _bells(system: System, messages: dict[str, str]) -> int:
    """Note by its id each message that waits, since one may be gone the next time; how many bells were noted so far."""
    for message in system.broker.messages():
        messages[re.findall(r"'id': '([0-9a-f-]{36})'", message)[0]] = message
    return sum(f"'task': '{WORK}'" in message for message in messages.values())


def test_what_the_commands_print_holds_no_secret_and_no_person(
    system: System, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    customer = system.customer()
    visit = system.save_card(customer)
    system.until_active(customer)
    (card,) = system.cards(customer)
    card_id = str(card["card_id"])
    event_id = str(system.sql("SELECT event_id FROM cardsync.events WHERE customer_id = %s", customer)[0]["event_id"])
    monkeypatch.chdir(tmp_path)
    for name, value in system.settings.items():
        monkeypatch.setenv(name, value)
    commands = [
        ("doctor",),
        ("doctor", "--json"),
        ("events", "list"),
        ("events", "show", event_id),
        ("explain", card_id),
        ("explain", card_id, "--json"),
        ("deletions", "request", card_id),
        ("deletions", "list"),
        ("deletions", "verify"),
        ("keys", "list"),
        ("brake", "show"),
        ("db", "current"),
        ("events", "show", token_of(visit)),  # what is no id is not repeated either
        ("explain", token_of(visit)),
    ]
    written = {}
    for command in commands:
        ran = CliRunner().invoke(main, command, prog_name="cardsync")
        # A person who types a token sees what he typed; the command adds nothing to it.
        written[" ".join(command)] = (
            ran.output.replace(token_of(visit), "") if token_of(visit) in command else ran.output
        )
        assert ran.exit_code == (2 if token_of(visit) in command else 0), ran.output
    deletion = system.sql("SELECT deletion_id FROM cardsync.deletions WHERE card_id = %s", card_id)[0]["deletion_id"]
    written["deletions show"] = CliRunner().invoke(main, ("deletions", "show", str(deletion))).output
    assert card_id in written["deletions show"]
    assert_hidden("a secret", system.all_secrets(), written)
    assert_hidden("personal data", FAKE_PERSONAL_DATA, written)
    until(lambda: system.statuses(customer) == ["removed"], "the card is proved to be gone")


def test_no_error_repeats_what_was_sent(system: System) -> None:
    content, token = system.notification(system.customer())
    system.keep_secret(token)
    reader, deleter = system.key("cards:read"), system.key("cards:delete")
    marked = {"environment": ENVIRONMENT, "customer_id": "nobody", "token": token}
    answers = {
        "a wrong signature": system.post_hint(json.dumps({**json.loads(content), "signature": "0" * 64}).encode()),
        "no JSON": system.post_hint(content[:-1]),
        "no object": system.post_hint(json.dumps([token]).encode()),
        "a key of nobody": system.get(
            "/v1/cards", system.keep_secret(new_key()), environment=ENVIRONMENT, customer_id="x"
        ),
        "a key that is none": system.get("/v1/cards", token, environment=ENVIRONMENT, customer_id="x"),
        "a key for something else": system.post("/v1/deletions", reader, idempotency_key="x", **marked),
        "no such card": system.post("/v1/deletions", deleter, idempotency_key=uuid.uuid4().hex, **marked),
        "too much": system.post("/v1/deletions", deleter, idempotency_key="x", card_id=token, **marked),
        "a long token": system.post("/v1/deletions", deleter, idempotency_key="x", **{**marked, "token": token * 9}),
        "no idempotency key": system.post("/v1/deletions", deleter, **marked),
        "no id": system.get(f"/v1/cards/{token}", reader),
        "a wrong parameter": system.get("/v1/cards", reader, environment=token, customer_id="x"),
        # A token's digits alone are a number like any other: `next_after` says it again.
        "no number": system.get("/v1/changes", reader, after=f"{token}."),
        "too great a number": system.get("/v1/changes", reader, after=f"{token}0000"),
        "too many": system.get("/v1/changes", reader, after=0, limit=token),
        "another path": system.get(f"/{token}", reader),
        "another method": system.post("/v1/cards", reader, token=token),
        "not for this key": system.get("/v1/deletions/" + token, deleter),
    }
    for what, answer in answers.items():
        assert 400 <= answer.status_code < 500, what
        assert answer.headers["Content-Type"] == "application/problem+json", what
        assert token not in answer.text, what
    described = re.sub(rf'"maximum": ?{SEQ_MAX}\b', "", system.get("/openapi.json").text)  # a bound, and no example
    assert re.findall(r"\b(?!9999)[0-9]{13,19}\b", described) == []  # no example looks like a card's number


def test_the_databases_own_log_tells_no_value(system: System, postgres: EmbeddedPostgres) -> None:
    in_compose = dict(re.findall(r"-c (log_\w+)=(\S+)", COMPOSE["services"]["postgres"]["command"]))
    ours = {
        name: value for name, value in SETTINGS.items() if name in ("log_error_verbosity", "log_min_error_statement")
    }
    assert ours.items() <= in_compose.items()
    assert (
        in_compose["log_parameter_max_length_on_error"] == "0" == _setting(system, "log_parameter_max_length_on_error")
    )
    assert in_compose["log_parameter_max_length"] == "0"
    customer = system.customer()
    visit = system.save_card(customer)
    system.until_active(customer)
    token = token_of(visit)
    for statement in (
        "UPDATE cardsync.cards SET last4 = %s WHERE token = %s",  # its detail would show the whole row
        "INSERT INTO cardsync.api_keys (name, key_hash, scopes) VALUES (%s, %s, '{}')",
        f"SELECT 'a literal {token}' FROM no_such_table WHERE %s = %s",
    ):
        with pytest.raises(psycopg.Error):
            system.sql(statement, token, token)
    log = postgres.log_path.read_text(encoding="utf-8", errors="replace")
    assert "cards_last4_is_four_digits" in log  # it does say what went wrong
    assert_hidden("a secret", system.all_secrets(), {"PostgreSQL's log": log})
    assert_hidden("personal data", FAKE_PERSONAL_DATA, {"PostgreSQL's log": log})


def _setting(system: System, name: str) -> str:
    return str(system.sql("SELECT current_setting(%s) AS value", name)[0]["value"])


def test_a_dump_of_the_database_holds_no_token_but_that_of_an_active_card(system: System) -> None:
    customer = system.customer()
    visit = system.save_card(customer)
    system.until_active(customer)
    system.end("worker")
    waiting = system.save_card(customer)  # its hint waits in the inbox
    until(lambda: system.pending_hints(customer) == 1, "the hint has a row")
    dumped = {name: "\n".join(rows) for name, rows in _tables(system).items()}
    (hint,) = system.sql(
        "SELECT token, facts FROM cardsync.events WHERE status = 'pending' AND customer_id = %s", customer
    )
    assert hint["token"].startswith("c1.")  # what is searched is what was looked for
    assert token_of(visit) in dumped["cardsync.cards"]
    assert_hidden("a waiting hint's token", {token_of(waiting)}, dumped)
    del dumped["cardsync.cards"]
    assert_hidden("a secret", system.all_secrets() | {token_of(visit), token_of(waiting)}, dumped)
    assert_hidden("personal data", FAKE_PERSONAL_DATA, dumped)
    system.start("worker")
    system.until_settled(customer)


def _tables(system: System) -> dict[str, list[str]]:
    """Every row of every private table, as a dump has them."""
    names = system.sql("SELECT relname FROM pg_stat_user_tables WHERE schemaname = 'cardsync' ORDER BY relname")
    return {
        f"cardsync.{name['relname']}": [
            row["said"] for row in system.sql(f'SELECT t::text AS said FROM cardsync."{name["relname"]}" AS t')
        ]
        for name in names
    }
