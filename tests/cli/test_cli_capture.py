"""``cardsync db publication`` and ``db grant --cdc``: what they make, also a second time, print and refuse."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from cardsync.store.access import change_capture
from cardsync.store.access.change_capture import NAME, PUBLISHED


@pytest.fixture
def owner(engine) -> Iterator[psycopg.Connection]:
    with psycopg.connect(engine.url.set(drivername="postgresql").render_as_string(False), autocommit=True) as made:
        yield made


@pytest.fixture
def login(owner) -> Iterator[str]:
    """A role that may log in, under a name that wants quoting."""
    name = f'cdc "%s" {uuid.uuid4().hex[:8]}'
    quoted = sql.Identifier(name)
    owner.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'fake-password'").format(quoted))
    yield name
    owner.execute(sql.SQL("DROP OWNED BY {}").format(quoted))
    owner.execute(sql.SQL("DROP ROLE {}").format(quoted))


def published(owner: psycopg.Connection, name: str = NAME) -> dict[str, set[str]]:
    query = "SELECT schemaname || '.' || tablename, attnames::text[] FROM pg_publication_tables WHERE pubname = %s"
    return {table: set(columns) for table, columns in owner.execute(query, [name])}


WANTED = {f"cardsync.{table}": set(columns) for table, columns in PUBLISHED.items()}


def test_it_is_made_once_with_its_columns_and_a_second_time_there_is_nothing_to_do(cardsync, owner):
    made = cardsync("db", "publication")
    assert (made.exit_code, "now." in made.stdout) == (0, True)
    assert "wal_level is replica" in made.stderr
    assert published(owner) == WANTED
    assert "nothing to do" in cardsync("db", "publication").stdout
    columns = set.union(*WANTED.values())
    assert columns.isdisjoint(
        {"token", "fingerprint", "name_on_card", "number", "body", "facts", "key_hash", "last_error"}
    )


@pytest.mark.parametrize(
    "made",
    [
        "FOR TABLE cardsync.cards",
        "FOR TABLE cardsync.cards (card_id, status, token), cardsync.events",
        "FOR TABLE cardsync.cards (card_id, status) WHERE (status = 'active') WITH (publish = 'insert')",
        "",
    ],
)
def test_one_that_holds_other_columns_or_tables_of_ours_is_put_right(cardsync, owner, made):
    owner.execute(f'CREATE PUBLICATION "Ware""house%s" {made}'.encode())
    assert cardsync("db", "publication", "--name", 'Ware"house%s').exit_code == 0
    assert published(owner, 'Ware"house%s') == WANTED
    tells = owner.execute("SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate FROM pg_publication").fetchone()
    assert tells == (True,)
    filters = owner.execute("SELECT count(prqual) FROM pg_publication_rel").fetchone()
    assert filters == (0,)
    assert "nothing to do" in cardsync("db", "publication", "--name", 'Ware"house%s').stdout


@pytest.mark.parametrize("made", ["FOR ALL TABLES", "FOR TABLES IN SCHEMA cardsync", "FOR TABLE public.shop"])
def test_one_that_holds_what_is_not_ours_is_left_as_it_is(cardsync, owner, made):
    owner.execute("CREATE TABLE public.shop (id int PRIMARY KEY)")
    owner.execute(f"CREATE PUBLICATION {NAME} {made}".encode())
    before = published(owner)
    for arguments in ((), ("--sql",)):
        refused = cardsync("db", "publication", *arguments)
        assert (refused.exit_code, "--name" in refused.stderr, refused.stdout) == (1, True, "")
    assert published(owner) == before


@pytest.mark.parametrize("name", ["", "x" * 64])
def test_a_name_that_postgresql_would_alter_is_refused(cardsync, name):
    assert cardsync("db", "publication", "--name", name).exit_code == 2


def test_the_printed_statements_do_the_same_and_printing_does_nothing(cardsync, owner, login):
    for arguments in (("publication",), ("grant", "--cdc", login)):
        script = cardsync("db", *arguments, "--sql")
        assert (script.exit_code, published(owner) == {}) == (0, arguments[0] == "publication")
        owner.execute(script.stdout.encode())
        again = cardsync("db", *arguments, "--sql")
        assert (again.exit_code, again.stdout) == (0, "")
    assert published(owner) == WANTED
    assert "nothing to do" in cardsync("db", "publication").stdout


def test_a_login_reads_exactly_the_published_columns_and_loses_what_it_had_beyond_them(cardsync, owner, engine, login):
    quoted = sql.Identifier(login)
    owner.execute(sql.SQL("GRANT USAGE ON SCHEMA cardsync TO {}").format(quoted))
    owner.execute(sql.SQL("GRANT SELECT ON cardsync.cards, cardsync.events TO {}").format(quoted))
    done = cardsync("db", "grant", "--cdc", login, "--connections", "3")
    assert (done.exit_code, "may capture changes now" in done.stdout) == (0, True)
    assert "REPLICATION belongs to the whole server" in done.stderr
    assert cardsync("db", "grant", "--cdc", login, "--connections", "3").exit_code == 0
    found = owner.execute("SELECT rolreplication, rolconnlimit FROM pg_roles WHERE rolname = %s", [login]).fetchone()
    assert found == (True, 3)
    url = engine.url
    with psycopg.connect(
        host=url.host, port=url.port, dbname=url.database, user=login, password="fake-password", autocommit=True
    ) as reader:
        for table, columns in PUBLISHED.items():
            reader.execute(f"SELECT {', '.join(columns)} FROM cardsync.{table}".encode())
        for column in ("token", "fingerprint", "name_on_card", "number"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(f"SELECT {column} FROM cardsync.cards".encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute("SELECT * FROM cardsync.events")
        assert reader.execute("SHOW statement_timeout").fetchone() == (
            "0",
        )  # a first copy of the tables takes its time


def test_only_a_login_of_its_own_is_let_in_and_one_kind_of_right_is_named(cardsync, owner, login):
    assert cardsync("db", "grant", login).exit_code == 2
    assert cardsync("db", "grant", login, "--cdc", "--role", "reader").exit_code == 2
    for name, why in (("cardsync", "owns the tables"), ("no-such-login", "no role of that name")):
        refused = cardsync("db", "grant", name, "--cdc")
        assert (refused.exit_code, why in refused.stderr) == (1, True)
    assert cardsync("db", "grant", login, "--role", "reader").exit_code == 0
    refused = cardsync("db", "grant", login, "--cdc")
    assert (refused.exit_code, "is a cardsync_reader" in refused.stderr) == (1, True)
    replicates = owner.execute("SELECT rolreplication FROM pg_roles WHERE rolname = %s", [login]).fetchone()
    assert replicates == (False,)


def test_a_roles_statements_are_printed_too(cardsync, owner, login):
    script = cardsync("db", "grant", login, "--role", "reader", "--connections", "7", "--sql")
    assert script.stdout.startswith("GRANT ")
    member = "SELECT pg_has_role(%s, 'cardsync_reader', 'MEMBER'), rolconnlimit FROM pg_roles WHERE rolname = %s"
    assert owner.execute(member, [login, login]).fetchone() == (False, -1)
    owner.execute(script.stdout.encode())
    assert owner.execute(member, [login, login]).fetchone() == (True, 7)


def checks(cardsync, name):
    found = json.loads(cardsync("doctor", "--offline", "--json").stdout)["checks"]
    return [check for check in found if check["name"] == name]


def test_the_doctor_tells_of_tokens_that_are_published_and_of_a_log_that_cannot_be_decoded(cardsync, owner):
    assert checks(cardsync, "publication") == checks(cardsync, "wal level") == []
    cardsync("db", "publication")
    owner.execute("CREATE PUBLICATION few FOR TABLE cardsync.cards (card_id, status)")
    owner.execute("CREATE PUBLICATION whole FOR TABLE cardsync.cards")
    exact, few, whole = sorted(checks(cardsync, "publication"), key=lambda check: check["found"])
    assert (exact["status"], few["status"], whole["status"]) == ("ok", "ok", "warning")
    assert "cardsync db publication --name few" in few["advice"]
    assert "cardsync.cards.token" in whole["found"]
    (level,) = checks(cardsync, "wal level")
    assert (level["status"], "wal_level is replica" in level["found"]) == ("warning", True)


def test_a_login_that_captures_changes_is_no_stranger_to_the_doctor_until_it_may_read_more(cardsync, owner, login):
    assert cardsync("db", "grant", "--cdc", login).exit_code == 0
    assert [check["status"] for check in checks(cardsync, "roles")] == ["ok"]
    owner.execute(sql.SQL("GRANT SELECT (token) ON cardsync.cards TO {}").format(sql.Identifier(login)))
    (roles,) = checks(cardsync, "roles")
    assert (roles["status"], "others may come into the schemas" in roles["found"]) == ("warning", True)
    assert cardsync("db", "grant", "--cdc", login).exit_code == 0
    assert [check["status"] for check in checks(cardsync, "roles")] == ["ok"]


def test_an_upgrade_leaves_publication_and_login_as_they_are(cardsync, owner, login, engine):
    cardsync("db", "publication")
    cardsync("db", "grant", "--cdc", login)
    owner.execute("REVOKE SELECT ON registry.cards FROM cardsync_reader")  # so that the upgrade grants all again
    assert cardsync("db", "upgrade").exit_code == 0
    assert published(owner) == WANTED
    with engine.connect() as connection:
        assert change_capture.lacking(connection, login, connections=20) == []
