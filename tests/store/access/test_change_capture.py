"""What change data capture may be given: published tables can still be written, and rights are told apart to the column."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text

from cardsync.errors import Refused
from cardsync.store.access import change_capture
from cardsync.store.access.change_capture import NAME, PUBLISHED
from tests.factories import CustomerFactory, make_card


@pytest.fixture
def login(engine: Engine) -> Iterator[str]:
    name = f"capture_{secrets.token_hex(4)}"
    with engine.begin() as connection:
        connection.execute(text(f"CREATE ROLE {name} LOGIN"))
    yield name
    with engine.begin() as connection:
        connection.execute(text(f"DROP OWNED BY {name}"))
        connection.execute(text(f"DROP ROLE {name}"))


_KEYS = text("""
    SELECT a.attname FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
    WHERE i.indrelid = to_regclass(:name) AND i.indisprimary
""")


def test_each_published_table_has_its_key_among_its_columns(engine: Engine) -> None:
    with engine.connect() as connection:
        for table, columns in PUBLISHED.items():
            key = set(connection.execute(_KEYS, {"name": f"cardsync.{table}"}).scalars())
            assert key, table
            assert key <= set(columns), table


def test_published_tables_are_written_as_before(engine: Engine, bound_factories: None) -> None:
    with engine.begin() as connection:
        assert change_capture.publish(connection)
    card = make_card(CustomerFactory(), token="9999000000000001")
    with engine.begin() as connection:
        for statement in (
            "UPDATE cardsync.customers SET reconciled_at = clock_timestamp()",
            "UPDATE cardsync.cards SET last4 = '0002', cause = 'hint'",
            (
                "INSERT INTO cardsync.agreements (environment, agreement_id, card_id, since_no)"
                f" VALUES ('sandbox', 'a-1', '{card.card_id}', 1)"
            ),
            "UPDATE cardsync.agreements SET since_no = 2",
            "DELETE FROM cardsync.agreements",
        ):
            assert connection.execute(text(statement)).rowcount == 1, statement


def test_all_publications_of_our_tables_are_compared_with_the_list(engine: Engine) -> None:
    with engine.begin() as connection:
        assert change_capture.publications(connection) == []
        change_capture.publish(connection)
        connection.execute(text("CREATE TABLE public.shop (id int PRIMARY KEY)"))
        connection.execute(text("CREATE PUBLICATION shop FOR TABLE public.shop"))
        connection.execute(text("CREATE PUBLICATION open FOR TABLE cardsync.agreements"))
        ours, opened = change_capture.publications(connection)
    assert (ours.name, ours.beyond, ours.lacks) == (NAME, (), ())
    beyond = tuple(f"cardsync.agreements.{column}" for column in ("card_good_until", "since_at", "since_no"))
    assert (opened.name, opened.beyond) == ("open", beyond)
    assert "cardsync.cards.status" in opened.lacks


def test_a_rolled_back_transaction_leaves_nothing(engine: Engine, login: str) -> None:
    with engine.connect() as connection:
        change_capture.publish(connection)
        assert change_capture.let_capture(connection, login, connections=1) == []
        connection.rollback()
        assert change_capture.publications(connection) == []
        assert change_capture.readers(connection) == set()


def test_a_reader_of_one_column_more_is_none(engine: Engine, login: str) -> None:
    with engine.begin() as connection:
        assert change_capture.let_capture(connection, login, connections=1) == []
        assert change_capture.readers(connection) == {login}
        connection.execute(text(f"GRANT UPDATE (status) ON cardsync.cards TO {login}"))
        assert change_capture.readers(connection) == set()
        assert change_capture.lacking(connection, login, connections=1) != []
        assert change_capture.let_capture(connection, login, connections=1) == []
        assert change_capture.readers(connection) == {login}


def test_where_a_role_stands_for_the_attribute_it_is_granted(engine: Engine, login: str) -> None:
    with engine.connect() as connection:  # as on Amazon's PostgreSQL; rolled back
        connection.execute(text(f"CREATE ROLE {change_capture.RDS_ROLE}"))
        assert f'GRANT {change_capture.RDS_ROLE} TO "{login}"' in change_capture.lacking(
            connection, login, connections=1
        )
        assert change_capture.let_capture(connection, login, connections=1) == []
        has = connection.execute(text("SELECT rolreplication FROM pg_roles WHERE rolname = :login"), {"login": login})
        assert has.scalar_one() is False
        connection.rollback()


def test_the_login_of_a_process_is_refused(engine: Engine, login: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"GRANT cardsync_worker TO {login}"))
        with pytest.raises(Refused, match="cardsync_worker"):
            change_capture.let_capture(connection, login, connections=1)
