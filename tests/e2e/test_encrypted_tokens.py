"""Cards that hold their tokens encrypted, with real processes: served over HTTP, deleted at Ottu, moved to the other form.

Marked tokens are searched for in a dump of the database by PostgreSQL's own ``pg_dump``, and in its log.
"""

from __future__ import annotations

import subprocess
from typing import Any

import psycopg
import pytest

from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.dev.simulator.payloads import FAKE_PERSONAL_DATA
from tests.e2e.leaks import assert_hidden
from tests.e2e.marks import ONE_BROKER
from tests.e2e.processes import run
from tests.e2e.system import ENVIRONMENT, System, token_of
from tests.e2e.test_endpoints import receiver  # noqa: F401  (a fixture)
from tests.receivers import Receiver
from tests.waiting import until

pytestmark = ONE_BROKER
SETTINGS = {"CARDSYNC_TOKENS_AT_REST": "encrypted"}


def dump(system: System, postgres: EmbeddedPostgres) -> str:
    """The whole database, as a backup has it."""
    command = [str(postgres.program("pg_dump")), "--dbname", system.settings["CARDSYNC_DATABASE_URL"]]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def served(system: System, key: str, customer: str) -> set[str]:
    """The tokens that a service is given over HTTP."""
    answer = system.get("/v1/cards", key, environment=ENVIRONMENT, customer_id=customer).json()
    return {card["token"] for card in answer["cards"]}


def command(system: System, *arguments: str, **settings: str) -> Any:
    ran = run(system.folder, {**system.settings, **settings}, *arguments)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_a_dump_holds_no_token_services_read_them_over_http_and_deletions_work(
    system: System, postgres: EmbeddedPostgres
) -> None:
    customer = system.customer()
    kept, going = system.save_card(customer), system.save_card(customer)
    system.until_active(customer, cards=2)
    tokens = {token_of(kept), token_of(going)}
    key = system.key("cards:read", "tokens:read", "cards:delete")
    assert served(system, key, customer) == tokens
    reads = system.sql("SELECT count(*) AS n FROM cardsync.token_reads")[0]["n"]
    assert reads == 2
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="encrypted here"):
        system.sql("SELECT token FROM registry.card_tokens")
    assert_hidden(
        "a token", tokens, {"a dump": dump(system, postgres), "PostgreSQL's log": postgres.log_path.read_text("utf-8")}
    )
    asked = {"environment": ENVIRONMENT, "customer_id": customer, "token": token_of(going)}
    assert system.post("/v1/deletions", key, idempotency_key="by-token", **asked).status_code == 202
    until(lambda: sorted(system.statuses(customer)) == ["active", "removed"], "the deletion is proved")
    assert served(system, key, customer) == {token_of(kept)}


def test_cards_move_to_either_form_while_the_processes_run(system: System, postgres: EmbeddedPostgres) -> None:
    customer = system.customer()
    visit = system.save_card(customer)
    system.until_active(customer)
    key, token = system.key("cards:read", "tokens:read"), token_of(visit)
    changes = len(system.changes(customer))
    clear = {"CARDSYNC_TOKENS_AT_REST": "clear"}
    assert "hold another form" in command(system, "doctor", "--offline", **clear)
    assert "put in the clear" in command(system, "secret", "rotate", **clear)
    in_sql = system.sql(
        "SELECT token FROM registry.card_tokens JOIN registry.cards USING (card_id) WHERE customer_id = %s", customer
    )
    assert [row["token"] for row in in_sql] == [token]
    assert token in dump(system, postgres)
    assert served(system, key, customer) == {token}
    assert "hold another form" in command(system, "doctor", "--offline")
    assert "encrypted with it" in command(system, "secret", "rotate")
    assert "all cards hold them encrypted" in command(system, "doctor", "--offline")
    assert served(system, key, customer) == {token}
    assert_hidden("a token", {token}, {"a dump": dump(system, postgres)})
    assert len(system.changes(customer)) == changes


def test_a_kept_body_is_in_a_dump_only_encrypted_and_after_its_time_in_none(
    system: System,
    postgres: EmbeddedPostgres,
    receiver: Receiver,  # noqa: F811
) -> None:
    customer = system.customer()
    visit = system.save_card(customer)
    receiver.wait_for(lambda received: len(received) == 1)
    marked = {token_of(visit), *FAKE_PERSONAL_DATA}
    assert all(text.encode() in receiver.received[0].body for text in marked), "what is searched for was in the body"
    (row,) = system.sql("SELECT body FROM cardsync.kept_bodies WHERE customer_id = %s", customer)
    kept = dump(system, postgres)
    assert row["body"] in kept
    assert_hidden("what a notification held", marked, {"a dump while it is kept": kept})
    until(lambda: system.sql("SELECT status FROM cardsync.deliveries")[0]["status"] == "done", "delivered")
    system.sql("UPDATE cardsync.deliveries SET finished_at = finished_at - interval '4 days'")
    system.sql("UPDATE cardsync.kept_bodies SET kept_since = kept_since - interval '4 days'")
    until(lambda: row["body"] not in dump(system, postgres), "the body is erased in time")
    assert_hidden("what a notification held", marked, {"a dump afterwards": dump(system, postgres)})
