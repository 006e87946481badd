"""Logins of other services: a role of ours with its limits, each in one transaction; what takes more power is named, not run."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text

from cardsync.errors import Refused
from cardsync.store.access import grants
from cardsync.store.access.grants import CONNECTIONS, TEMP_FILE_LIMIT, grant


@pytest.fixture
def login(engine: Engine) -> Iterator[str]:
    """A login whose name must be quoted."""
    name = f'service "{secrets.token_hex(4)}'
    quoted = engine.dialect.identifier_preparer.quote(name)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE ROLE {quoted} LOGIN"))
    yield name
    with engine.begin() as connection:
        connection.execute(text(f"DROP ROLE {quoted}"))


def test_a_login_gets_its_role_and_its_limits_and_a_second_time_the_new_ones(engine: Engine, login: str) -> None:
    for connections in (CONNECTIONS, 7):
        with engine.begin() as connection:
            assert grant(connection, login, "cardsync_reader", connections=connections) == []
    row = "SELECT rolconnlimit, pg_has_role(rolname, 'cardsync_reader', 'MEMBER') FROM pg_roles WHERE rolname = :name"
    settings = (
        "SELECT unnest(setconfig) FROM pg_db_role_setting JOIN pg_roles r ON r.oid = setrole WHERE rolname = :name"
    )
    with engine.connect() as connection:
        assert tuple(connection.execute(text(row), {"name": login}).one()) == (7, True)
        found = set(connection.execute(text(settings), {"name": login}).scalars())
    expected = {f"{name}={value}" for name, value in grants.SESSION_SETTINGS.items()}
    assert expected | {f"temp_file_limit={TEMP_FILE_LIMIT}"} <= found


def test_what_a_superuser_has_run_is_not_left_to_do_and_another_limit_is(
    engine: Engine, login: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE ROLE plain_owner CREATEROLE"))
        connection.execute(text("GRANT cardsync_reader TO plain_owner WITH ADMIN OPTION"))
    try:
        with engine.begin() as connection:
            printed = [
                one.as_string() for one in grants.statements(connection, login, "cardsync_reader", connections=7)
            ]
            connection.execute(text("SET LOCAL ROLE plain_owner"))
            left = grant(connection, login, "cardsync_reader", connections=7)
            # Without a superuser's right there are some left, and each of them was printed.
            assert any("temp_file_limit" in statement for statement in left)
            assert set(left) <= set(printed)
        with engine.begin() as connection:
            for statement in printed:
                connection.exec_driver_sql(statement)
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL ROLE plain_owner"))
            assert grant(connection, login, "cardsync_reader", connections=7) == []
            monkeypatch.setattr(grants, "TEMP_FILE_LIMIT", "64MB")
            (statement,) = grant(connection, login, "cardsync_reader", connections=7)
            assert "'64MB'" in statement
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP OWNED BY plain_owner"))
            connection.execute(text("DROP ROLE plain_owner"))


def test_a_transaction_that_is_rolled_back_grants_nothing(engine: Engine, login: str) -> None:
    with engine.connect() as connection:
        grant(connection, login, "cardsync_charger", connections=1)
        connection.rollback()
        member = text("SELECT pg_has_role(:name, 'cardsync_charger', 'MEMBER')")
        assert connection.execute(member, {"name": login}).scalar_one() is False


@pytest.mark.parametrize(
    ("name", "why"), [("no-such-login", "no role of that name"), ("cardsync_web", "cannot log in")]
)
def test_what_is_no_login_is_refused(engine: Engine, name: str, why: str) -> None:
    with engine.begin() as connection, pytest.raises(Refused, match=why):
        grant(connection, name, "cardsync_reader", connections=1)
