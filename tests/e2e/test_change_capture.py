"""Change data capture with real processes: a slot's reader gets what the registry shows of cards, and nothing of a token.

The reader is a login as `cardsync db grant --cdc` lets it in, and reads as Debezium does: a logical slot with ``pgoutput``. That
the search for tokens would find them is shown by a second slot, whose publication names no columns.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from psycopg import pq

from cardsync import db
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.dev.simulator.payloads import FAKE_PERSONAL_DATA
from cardsync.store.access import change_capture
from tests.e2e.brokers import valkey
from tests.e2e.leaks import assert_hidden
from tests.e2e.pgoutput import Copy
from tests.e2e.processes import run
from tests.e2e.system import System
from tests.logins import ProcessLogins, ServiceLogins
from tests.waiting import until

SECONDS: Final = 120.0
SLOT: Final = "warehouse"
ALL: Final = "all_columns"  # the publication and the slot that must not be


@pytest.fixture(scope="module")
def server(services: Path) -> Iterator[EmbeddedPostgres]:
    """A server whose log can be decoded."""
    made = EmbeddedPostgres(
        services / f"decoded-{secrets.token_hex(4)}",
        durable=False,
        settings={"wal_level": "logical", "wal_sender_timeout": "0"},
    )
    made.start()
    db.upgrade(made.url)
    yield made
    made.remove()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, services: Path, server: EmbeddedPostgres) -> Iterator[System]:
    with valkey(services / f"valkey-{secrets.token_hex(4)}") as broker:
        made = System(tmp_path_factory.mktemp("system"), server.url, broker, ProcessLogins(server))
        try:
            for kind in ("worker", "beat", "web"):
                made.start(kind)
            yield made
        finally:
            made.close()


@pytest.fixture
def system(whole: System) -> Iterator[System]:
    yield whole
    whole.assert_nothing_leaked()


@pytest.fixture
def login(server: EmbeddedPostgres) -> Iterator[str]:
    made = ServiceLogins(server.url)
    name = made.login()
    yield name
    made.close()


@pytest.fixture
def owner(server: EmbeddedPostgres, login: str) -> Iterator[psycopg.Connection[Any]]:
    """The superuser; slots and publications go at the end, and their readers before them."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        yield connection
        connection.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active_pid IS NOT NULL"
        )
        until(lambda: connection.execute(UNREAD).fetchone() == (True,), "no slot is in use", seconds=SECONDS)
        connection.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
        for name in (change_capture.NAME, ALL):
            connection.execute(f"DROP PUBLICATION IF EXISTS {name}".encode())


UNREAD: Final = "SELECT NOT coalesce(bool_or(active), false) FROM pg_replication_slots"


def as_reader(server: EmbeddedPostgres, login: str, **more: str) -> psycopg.Connection[Any]:
    return psycopg.connect(
        host="127.0.0.1", port=server.port, dbname="cardsync", user=login, password="fake", autocommit=True, **more
    )


def command(system: System, *arguments: str) -> str:
    """Run a command as the operator; what it printed, on both channels."""
    done = run(system.folder, system.settings, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    system.seen(done.stdout + done.stderr)
    return done.stdout


def doctor(system: System, check: str) -> list[str]:
    """What the doctor says under that name. Other checks may fail: no notification key of this test is bound."""
    said = run(system.folder, system.settings, "doctor", "--offline")
    system.seen(said.stdout + said.stderr)
    return [line for line in said.stdout.splitlines() if line.split("\t")[1:2] == [check]]


def read(connection: psycopg.Connection[Any], slot: str, publication: str) -> list[bytes]:
    """What the slot has kept since the last time."""
    query = (
        "SELECT data FROM pg_logical_slot_get_binary_changes(%s, NULL, NULL, 'proto_version', '1',"
        " 'publication_names', %s)"
    )
    return [bytes(row[0]) for row in connection.execute(query, [slot, publication])]


def test_a_slots_reader_gets_what_the_registry_shows_of_cards_and_nothing_of_a_token(
    system: System, server: EmbeddedPostgres, login: str, owner: psycopg.Connection[Any]
) -> None:
    assert "publishes" in command(system, "db", "publication")
    command(system, "db", "grant", "--cdc", login)
    owner.execute(f"CREATE PUBLICATION {ALL} FOR ALL TABLES".encode())
    with as_reader(server, login) as reader:
        for slot in (SLOT, ALL):
            reader.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
        customer = system.customer()
        for _ in range(2):
            system.save_card(customer)
        system.until_active(customer, cards=2)
        gone, kept = (str(card["card_id"]) for card in system.cards(customer))
        key = system.key("cards:delete")
        asked = system.post("/v1/deletions", key, idempotency_key=secrets.token_hex(8), card_id=gone)
        assert asked.status_code == 202
        until(lambda: system.statuses(customer) == ["removed", "active"], "one card is removed", seconds=SECONDS)
        system.until_settled(customer, seconds=SECONDS)
        stream, everything = read(reader, SLOT, change_capture.NAME), read(reader, ALL, ALL)

    copy = Copy()
    copy.apply(stream)
    expected = {f"cardsync.{table}": columns for table, columns in change_capture.PUBLISHED.items()}
    named = {table: set(columns) for table, columns in copy.columns.items()}
    assert named.items() <= {table: set(columns) for table, columns in expected.items()}.items()
    assert {"cardsync.cards", "cardsync.customers", "cardsync.card_changes"} <= named.keys()
    shown = {str(card["card_id"]): (card["status"], card["last4"], card["brand"]) for card in system.cards(customer)}
    copied = {row["card_id"]: row for row in copy.rows["cardsync.cards"].values()}
    assert {card: (row["status"], row["last4"], row["brand"]) for card, row in copied.items()} == shown
    assert {row["customer_id"] for row in copy.rows["cardsync.customers"].values()} == {customer}
    told = [(row["card_id"], row["change"]) for row in copy.inserted["cardsync.card_changes"]]
    feed = system.sql("SELECT card_id::text, change FROM registry.card_changes ORDER BY seq")
    assert told == [(row["card_id"], row["change"]) for row in feed]
    assert next(change for card, change in told if card == kept) == "added"

    text = b"\n".join(stream).decode(errors="replace")
    tokens = {
        *system.simulator.world.truth("sandbox", customer),
        *system.simulator.world.past_tokens("sandbox", customer),
    }
    assert len(tokens) == 2
    assert_hidden("a secret", system.all_secrets(), {"the stream": text})
    assert_hidden("personal data", FAKE_PERSONAL_DATA, {"the stream": text})
    names = {str(card["name_on_card"]) for card in system.cards(customer)} - {"None"}
    assert_hidden("a name", names, {"the stream": text})
    found = b"\n".join(everything).decode(errors="replace")
    assert all(token in found for token in tokens), "the search would not find a token"


def test_the_reader_copies_the_published_columns_first_and_may_read_no_other(
    system: System, server: EmbeddedPostgres, login: str, owner: psycopg.Connection[Any]
) -> None:
    command(system, "db", "grant", "--cdc", login)
    with as_reader(server, login) as reader:
        for table, columns in change_capture.PUBLISHED.items():
            reader.execute(f"SELECT {', '.join(columns)} FROM cardsync.{table}".encode()).fetchall()
        for forbidden in (
            *(f"SELECT {column} FROM cardsync.cards" for column in ("token", "fingerprint", "name_on_card", "number")),
            *(f"SELECT * FROM cardsync.{table}" for table in ("cards", "events", "api_keys", "endpoints")),
            "SELECT * FROM registry.card_tokens",
            "UPDATE cardsync.cards SET status = 'removed'",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(forbidden.encode())


def test_the_doctor_names_a_slot_whose_reader_is_gone_and_a_publication_of_tokens(
    system: System, server: EmbeddedPostgres, login: str, owner: psycopg.Connection[Any]
) -> None:
    command(system, "db", "publication")
    command(system, "db", "grant", "--cdc", login)
    assert doctor(system, "publication")[0].startswith("ok\t")
    assert doctor(system, "roles")[0].startswith("ok\t")
    assert doctor(system, "slots") == doctor(system, "wal level") == []
    reader = as_reader(server, login, replication="database")
    made = reader.pgconn.exec_(f"CREATE_REPLICATION_SLOT {SLOT} LOGICAL pgoutput".encode())
    assert made.status == pq.ExecStatus.TUPLES_OK, made.error_message
    options = f"proto_version '1', publication_names '{change_capture.NAME}'"
    begun = reader.pgconn.exec_(f"START_REPLICATION SLOT {SLOT} LOGICAL 0/0 ({options})".encode())
    assert begun.status == pq.ExecStatus.COPY_BOTH, begun.error_message
    assert doctor(system, "slots") == []
    reader.close()
    until(lambda: owner.execute(UNREAD).fetchone() == (True,), "its reader is gone", seconds=SECONDS)
    owner.execute(f"CREATE PUBLICATION {ALL} FOR ALL TABLES".encode())
    (slot,) = doctor(system, "slots")
    assert slot.startswith(f"warning\tslots\tno program reads the slot {SLOT}, which keeps ")
    published = {line.split("\t")[2].split()[0]: line for line in doctor(system, "publication")}
    assert published[change_capture.NAME].startswith("ok\t")
    assert published[ALL].startswith("warning\t")
    assert "cardsync.cards.token" in published[ALL]
