"""Errors of the database are told in a closed list of words, and no password or address is among them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from psycopg import OperationalError as DriverOperationalError
from sqlalchemy import Engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from cardsync import db
from cardsync.db.reasons import OTHER, REASONS, why

SECRET = "a-password-that-must-not-be-told"


def said(address: str, statement: str = "SELECT 1") -> str:
    engine = db.make_engine(address, pool_size=1)
    try:
        with engine.begin() as connection:
            connection.execute(text(statement))
    except SQLAlchemyError as error:
        return why(error)
    finally:
        engine.dispose()
    raise AssertionError("it was taken")


def changed(address: str, **parts: object) -> str:
    url = make_url(address).set(password=SECRET)
    return url.set(**parts).render_as_string(hide_password=False)  # type: ignore[arg-type]


CASES: dict[str, tuple[Callable[[str], str], str]] = {
    "connection refused": (lambda url: changed(url, host="127.0.0.1", port=1), "SELECT 1"),
    "password authentication failed": (changed, "SELECT 1"),
    "no such host": (lambda url: changed(url, host="no-such-host.invalid"), "SELECT 1"),
    "no such database": (
        lambda url: make_url(url).set(database="none").render_as_string(hide_password=False),
        "SELECT 1",
    ),
    "server speaks no TLS": (lambda url: changed(url) + "?sslmode=require", "SELECT 1"),
    "not migrated": (lambda url: url, "SELECT * FROM cardsync.no_such_table"),
    "read-only": (lambda url: url, "SET TRANSACTION READ ONLY; CREATE TABLE public.x ()"),
    "refused a row": (lambda url: url, "DO $$ BEGIN RAISE unique_violation; END $$"),
    "statement took too long": (lambda url: url, "SET LOCAL statement_timeout = 1; SELECT pg_sleep(1)"),
    "too many connections": (lambda url: url, "DO $$ BEGIN RAISE too_many_connections; END $$"),
}


@pytest.mark.parametrize("reason", CASES)
def test_what_the_database_said_is_told(database_url: str, reason: str) -> None:
    change, statement = CASES[reason]
    found = said(change(database_url), statement)
    assert found == reason
    assert found in REASONS


def test_a_server_that_says_nothing_is_told(engine: Engine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        address = f"postgresql://user:{SECRET}@127.0.0.1:{port}/x?connect_timeout=2"
        assert said(address) == "no answer in time"


def test_a_socket_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert said(f"postgresql://user:{SECRET}@/x?host={tmp_path}") == "no such socket"


@pytest.mark.parametrize(
    ("text_of_the_error", "reason"),
    [
        (
            "connection failed: FATAL:  unsupported startup parameter: extra_float_digits",
            "pooler refuses a startup parameter",
        ),
        ("connection failed: Connection refused\nFATAL:  sorry, too many clients already", "too many connections"),
        (
            "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
            "too many connections",
        ),
        ("SSL error: certificate verify failed", "certificate not verified"),
        ("FATAL:  the database system is starting up", "starting up or shutting down"),
        (f"something new about {SECRET}", OTHER),
    ],
)
def test_texts_of_libpq_and_poolers_lead_to_one_of_the_words(text_of_the_error: str, reason: str) -> None:
    found = why(DriverOperationalError(text_of_the_error))
    assert (found, SECRET in found) == (reason, False)
