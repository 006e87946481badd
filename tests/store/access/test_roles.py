"""What the roles of other services can read, and that they can touch nothing else."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from tests.factories import CustomerFactory, make_card

ROLES = ("cardsync_reader", "cardsync_charger", "cardsync_deleter")
OPEN_TO_ALL = ("cards", "active_cards", "agreement_cards", "customers", "card_changes")


def run_as(engine: Engine, role: str, statement: str) -> list[tuple[object, ...]]:
    with engine.begin() as connection:
        connection.execute(text(f"SET LOCAL ROLE {role}"))
        result = connection.execute(text(statement))
        return [tuple(row) for row in result] if result.returns_rows else []


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("view", OPEN_TO_ALL)
def test_every_role_reads_what_holds_no_token(engine: Engine, role: str, view: str) -> None:
    make_card(CustomerFactory())
    run_as(engine, role, f"SELECT * FROM registry.{view}")


def test_only_the_charger_reads_tokens_and_only_of_active_cards(engine: Engine) -> None:
    customer = CustomerFactory()
    active = make_card(customer, token="9999000000000001")
    make_card(customer, token="9999000000000002", status="deleting")
    make_card(customer, token="9999000000000003", status="unconfirmed", awaited_no=1, awaited_at="now")
    assert run_as(engine, "cardsync_charger", "SELECT card_id, token FROM registry.card_tokens") == [
        (active.card_id, "9999000000000001")
    ]
    for role in ("cardsync_reader", "cardsync_deleter"):
        with pytest.raises(DBAPIError, match="permission denied"):
            run_as(engine, role, "SELECT * FROM registry.card_tokens")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM cardsync.cards",
        "SELECT * FROM cardsync.events",
        "SELECT nextval('cardsync.observation_no')",
        "SELECT cardsync.refuse_change()",
        "UPDATE registry.cards SET brand = 'x'",
        "DELETE FROM registry.active_cards",
        "INSERT INTO registry.customers (environment, customer_id) VALUES ('sandbox', 'x')",
        "UPDATE registry.card_tokens SET token = 'x'",
        "CREATE TABLE registry.mine (x int)",
    ],
)
def test_no_role_reads_a_private_table_or_writes_anything(engine: Engine, role: str, statement: str) -> None:
    with pytest.raises(DBAPIError, match=r"permission denied|cannot"):
        run_as(engine, role, statement)


@pytest.mark.parametrize("role", ROLES)
def test_every_role_has_a_statement_time_out_and_no_login(engine: Engine, role: str) -> None:
    with engine.connect() as connection:
        row = connection.execute(
            text("SELECT rolcanlogin, rolconfig FROM pg_roles WHERE rolname = :role"), {"role": role}
        ).one()
    assert not row.rolcanlogin
    assert any(setting.startswith("statement_timeout=") for setting in row.rolconfig)


def test_active_cards_are_those_that_may_be_charged(engine: Engine) -> None:
    customer = CustomerFactory()
    good = make_card(customer, expires_on="2999-01-31")
    make_card(customer, expires_on="2001-01-31")
    make_card(customer, is_expired=True)
    make_card(customer, status="deleting")
    assert run_as(engine, "cardsync_reader", "SELECT card_id FROM registry.active_cards") == [(good.card_id,)]
