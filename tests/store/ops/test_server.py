"""What PostgreSQL says of itself: each figure is the server's own, and changes with it."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text

from cardsync.store.ops import server
from cardsync.store.ops.server import Durability


def test_the_version_is_the_servers_and_its_settings_are_those_that_hold_here(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("SET LOCAL synchronous_commit = off"))
        found = server.durability(connection)
        assert found.version == int(connection.execute(text("SHOW server_version_num")).scalar_one()) // 10_000
        assert "synchronous_commit" in found.turned_off
        connection.execute(text("SET LOCAL synchronous_commit = local"))
        assert "synchronous_commit" not in server.durability(connection).turned_off


@pytest.mark.parametrize(
    ("settings", "turned_off"),
    [
        (("on", "on", "on"), ()),
        (("on", "local", "on"), ()),
        (("off", "remote_apply", "off"), ("fsync", "full_page_writes")),
        (("off", "off", "off"), ("fsync", "synchronous_commit", "full_page_writes")),
    ],
)
def test_only_what_is_off_endangers_a_hint(settings: tuple[str, str, str], turned_off: tuple[str, ...]) -> None:
    assert Durability(18, *settings).turned_off == turned_off


def test_a_session_through_a_socket_or_on_this_host_without_tls_is_not_encrypted(engine: Engine) -> None:
    with engine.connect() as connection:
        assert server.session_is_encrypted(connection) is False


def test_a_session_that_may_write_nothing_is_known(engine: Engine) -> None:
    with engine.connect() as connection:
        assert server.is_read_only(connection) is False
        connection.execute(text("SET TRANSACTION READ ONLY"))
        assert server.is_read_only(connection) is True


def test_without_a_forgotten_transaction_none_is_counted(engine: Engine) -> None:
    with engine.connect() as connection:
        assert server.prepared_transactions(connection, older_than_seconds=0) == 0


def test_what_the_log_may_hold_is_read_as_it_is_set(engine: Engine) -> None:
    with engine.connect() as connection:
        found = server.logging_settings(connection)
        assert found["log_statement"] in ("none", "ddl", "mod", "all")
        assert {"log_parameter_max_length", "log_min_duration_statement", "log_error_verbosity"} <= set(found)
