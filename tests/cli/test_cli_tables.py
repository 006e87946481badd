"""Every list on a terminal: it fits, ids are whole, and an empty one says so."""

from __future__ import annotations

import datetime as dt
import re
import uuid
from collections.abc import Iterator

import click
import pytest
from rich.cells import cell_len
from sqlalchemy import text

from cardsync.cli import (
    brake,
    console,
    deletions,
    deliveries,
    endpoints,
    erase,
    events,
    explain,
    keys,
    main,
    operators,
    secret,
    show_customers,
    spool,
)
from cardsync.store.access import token_reads
from cardsync.store.deletions import askers, requests
from tests.factories import CustomerFactory, EventFactory, make_card

WIDTH = 80
LONG = "customer-" + "x" * 55  # as long as Ottu's ids may be
ARABIC = "عميل-" * 12
STYLE = re.compile(r"\x1b\[[0-9;]*m")
TABLES = {
    "deletions list": deletions.LIST_COLUMNS,
    "deletions show": deletions.STEP_COLUMNS,
    "deliveries list": deliveries.COLUMNS,
    "endpoints list": endpoints.COLUMNS,
    "customers erase": erase.COLUMNS,
    "events list": events.LIST_COLUMNS,
    "keys list": keys.COLUMNS,
    "keys reads": keys.READ_COLUMNS,
    "operators list": operators.COLUMNS,
    "secret show": secret.COLUMNS,
    "cards list": show_customers.CARD_COLUMNS,
    "spool list": spool.LIST_COLUMNS,
    "brake show": brake.CUSTOMERS,
    "brake show, requests": brake.ASKERS,
    "explain, deletions": explain.DELETIONS,
    "explain, changes": explain.CHANGES,
    "explain, hints": explain.HINTS,
    "explain, lists": explain.OBSERVATIONS,
}
GIVEN = {"cards list": ("--customer", "sandbox", LONG)}


def commands() -> Iterator[tuple[str, ...]]:
    """The path of every command of cardsync that prints a list."""

    context = click.Context(main)

    def below(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                yield from below(found, (*path, name))
        elif path[-1] in ("list", "reads"):
            yield path

    return below(main, ())


def test_the_lists_are_found():
    assert {"events list", "deletions list", "cards list", "keys reads"} <= {" ".join(path) for path in commands()}


@pytest.fixture
def terminal(monkeypatch) -> None:
    """Standard output is a terminal of eighty columns."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(WIDTH))


def lines_of(output: str) -> list[str]:
    return STYLE.sub("", output).splitlines()


def require_fits(output: str, ids: list[uuid.UUID]) -> None:
    lines = lines_of(output)
    assert max(map(cell_len, lines)) <= WIDTH, output
    for one in ids:
        assert any(str(one) in line for line in lines), "an id of ours is on one line, so that it can be copied"


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("said", [LONG, ARABIC, "short"], ids=["long", "arabic", "short"])
def test_every_table_fits_a_terminal_with_long_ids_and_cuts_no_id_of_ours(terminal, capsys, name, said):
    moment = dt.datetime(2026, 3, 1, 22, 30, 0, 123456, tzinfo=dt.UTC)
    ids: list[uuid.UUID] = []

    def value(column: str) -> object:
        if column.endswith("_id") and column not in ("customer_id", "session_id", "agreement_id"):
            ids.append(uuid.uuid4())
            return ids[-1]
        return moment if column.endswith(("_at", "_until", "_since")) or column == "at" else said

    console.print_rows(TABLES[name], [{column: value(column) for column in TABLES[name]} for _ in range(2)])
    output = capsys.readouterr().out
    require_fits(output, ids)
    shown = "".join(lines_of(output))
    assert all(column in shown for column in TABLES[name])
    assert said in re.sub(r"\s", "", shown) or said[:8] in shown  # folded, and not left out


def test_what_fits_stays_a_table_and_what_does_not_is_told_row_by_row(terminal, capsys):
    console.print_rows(("name", "role"), [{"name": "Amal", "role": "admin"}, {"name": "Omar", "role": "viewer"}])
    assert [line.split() for line in lines_of(capsys.readouterr().out)] == [
        ["name", "role"],
        ["Amal", "admin"],
        ["Omar", "viewer"],
    ]
    one, other = uuid.uuid4(), uuid.uuid4()
    console.print_rows(("deletion_id", "card_id", "error"), [{"deletion_id": one, "card_id": other, "error": LONG}])
    assert [line.split() for line in lines_of(capsys.readouterr().out)] == [
        ["deletion_id", str(one)],
        ["card_id", str(other)],
        ["error", LONG],
    ]


@pytest.fixture
def rows(engine, bound_factories) -> None:
    """Something long in every list that the database has."""
    customer = CustomerFactory(environment="sandbox", customer_id=LONG)
    cards = [make_card(customer, token=f"99990000000{n}") for n in range(2)]
    EventFactory(environment="sandbox", customer_id=LONG, token="99990001", status="failed", last_error="why " * 200)
    asker = "api:" + "shop-" * 18
    with engine.begin() as connection:
        askers.keep_limits(connection, share=0.01, floor=1)
        for card in cards:
            requests.request(connection, card_id=card.card_id, requested_by=asker, asker=asker)
        for statement in (
            (
                "INSERT INTO cardsync.endpoints (endpoint_id, name, url, kind, secret, last_error) VALUES (gen_random_uuid(),"
                " repeat('name-', 10), 'https://shop.example/' || repeat('path/', 40), 'notifications', 'x', repeat('why ', 40))"
            ),
            (
                "INSERT INTO cardsync.deliveries (endpoint_id, event_id, last_error) SELECT endpoint_id, event_id,"
                " repeat('why ', 40) FROM cardsync.endpoints, cardsync.events"
            ),
            "INSERT INTO cardsync.operators (name, role) VALUES (repeat('Amal ', 12), 'admin')",
        ):
            connection.execute(text(statement))


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_every_list_command_fits_a_terminal(terminal, cardsync, rows, monkeypatch, path):
    if path == ("keys", "list"):
        assert cardsync("keys", "create", "--name", "shop-" * 10, "--scope", "cards:read").exit_code == 0
    if path == ("keys", "reads"):
        read = token_reads.TokenRead(dt.datetime.now(dt.UTC), uuid.uuid4(), "shop-" * 10, uuid.uuid4())
        monkeypatch.setattr(token_reads, "listing", lambda *_, **__: [read])
    if path == ("spool", "list"):
        row = dict.fromkeys(spool.LIST_COLUMNS, LONG)
        monkeypatch.setattr(spool, "_set_aside", lambda _: [row])
        monkeypatch.setattr(spool, "_spool", lambda: None)
        monkeypatch.setattr(spool, "_shown", lambda one: one)
    done = cardsync(*path, *GIVEN.get(" ".join(path), ()))
    assert done.exit_code == 0, done.output
    assert len(lines_of(done.stdout)) > 1
    require_fits(done.stdout, [])
    assert "There is none." not in done.stderr


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_every_list_command_says_that_a_list_is_empty(terminal, cardsync, bound_factories, path):
    CustomerFactory(environment="sandbox", customer_id=LONG)
    done = cardsync(*path, *GIVEN.get(" ".join(path), ()))
    assert done.exit_code == 0
    assert done.stderr.startswith(("There is none.", "There are no "))
