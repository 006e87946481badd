"""A deploy runs the old code beside the new schema: every migration after the third only adds, and waits for nobody for long.

Rules: what old code reads goes in a second step, a migration that names its first in ``second_step_of`` and lands a release
later; traffic never waits behind an index or a constraint that reads a whole table. Looked at are the statements that PostgreSQL
is really sent.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, Engine, event, make_url, text
from sqlalchemy.exc import IntegrityError, OperationalError

from cardsync import db
from cardsync.db.migrating import INDEX_WITHOUT
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.store.access import logins, privileges

FIRST_SHIPPED = ("0001", "0002", "0003")  # of one release: nothing ran beside them
# Tables of one row or of a few: an index or a scan takes no time.
SMALL = {"alembic_version", "api_keys", "feed_head", "gate", "receipt_head"}

NAME = r"(?:ONLY\s+)?(?:IF\s+(?:NOT\s+)?EXISTS\s+)?[\"]?(?:\w+[\"]?\.)?[\"]?(\w+)"
TAKES_AWAY = {
    "drops": r"\bDROP\s+(?!DEFAULT|NOT\s+NULL|CONSTRAINT)\w+",
    "renames": r"\bRENAME\b",
    "changes a type": r"\bALTER\s+(?:COLUMN\s+)?\w+\s+(?:SET\s+DATA\s+)?TYPE\b",
    "demands a value": r"\bSET\s+NOT\s+NULL\b",
    "moves": r"\bSET\s+SCHEMA\b",
}


def complaints(statements: list[str], *, second_step: bool = False) -> list[str]:
    """What these statements, one migration's, do to traffic or to code that knows nothing of them."""
    whole = "\n;\n".join(_without_bodies(statement) for statement in statements)
    new = {name.lower() for name in re.findall(rf"\bCREATE\s+TABLE\s+{NAME}", whole, re.IGNORECASE)}
    found = []
    for statement in whole.split(";"):
        said = " ".join(statement.split())
        if not second_step:
            found += [
                f"{what}: {said}" for what, pattern in TAKES_AWAY.items() if re.search(pattern, said, re.IGNORECASE)
            ]
            found += [f"narrows: {said}" for name in _dropped_constraints(said) if not _is_made_again(name, whole)]
        index = re.match(rf"CREATE (?:UNIQUE )?INDEX (CONCURRENTLY )?.*? ON {NAME}", said, re.IGNORECASE)
        if index and not index[1] and index[2].lower() not in new | SMALL:
            found.append(f"locks writers out while it reads the table: {said}")
        table = re.match(rf"ALTER TABLE {NAME}", said, re.IGNORECASE)
        if table and table[1].lower() not in new | SMALL:
            found += [f"{why}: {said}" for why in _costly(said)]
    return found


def _without_bodies(statement: str) -> str:
    """Without comments, and without what stands between dollar signs: that runs later, if ever."""
    return re.sub(r"--[^\n]*", "", re.sub(r"\$(\w*)\$.*?\$\1\$", "''", statement, flags=re.DOTALL))


def _dropped_constraints(said: str) -> list[str]:
    return re.findall(r"\bDROP CONSTRAINT (?:IF EXISTS )?(\w+)", said, re.IGNORECASE)


def _is_made_again(name: str, whole: str) -> bool:
    """A check that lets more values pass takes the place, and the name, of the one that let fewer."""
    return re.search(rf"\bADD\s+CONSTRAINT\s+{name}\b", whole, re.IGNORECASE) is not None


def _costly(said: str) -> Iterator[str]:
    for added in re.findall(r"\bADD COLUMN (.*?)(?:, ADD |$)", said, re.IGNORECASE):
        if re.search(r"\bNOT NULL\b", added, re.IGNORECASE) and not re.search(r"\bDEFAULT\b", added, re.IGNORECASE):
            yield "old code does not fill it"
        if re.search(r"\bDEFAULT [\w.]+\s*\(|\bGENERATED\b", added, re.IGNORECASE):
            yield "writes the whole table anew"
    if (
        re.search(r"\bADD (CONSTRAINT \w+ )?(CHECK|FOREIGN KEY)\b", said, re.IGNORECASE)
        and "NOT VALID" not in said.upper()
    ):
        yield "reads the whole table under a lock; add it NOT VALID, then VALIDATE CONSTRAINT"
    if re.search(r"\bADD (CONSTRAINT \w+ )?(UNIQUE|PRIMARY KEY)\b(?! USING INDEX)", said, re.IGNORECASE):
        yield "builds an index under a lock; make it CONCURRENTLY, then ADD ... USING INDEX"


@pytest.fixture(scope="module")
def sent(postgres: EmbeddedPostgres) -> Iterator[dict[str, list[str]]]:
    """Every statement that each migration sends, by revision."""
    postgres.create_database("migrations")
    url = postgres.url_for("migrations")
    heard: list[str] = []

    def hear(_c: object, _cursor: object, statement: str, *_: object) -> None:
        heard.append(statement)

    by_revision = {}
    event.listen(Engine, "before_cursor_execute", hear)
    try:
        for script in _scripts():
            heard.clear()
            db.upgrade(url, script.revision)
            by_revision[script.revision] = list(heard)
    finally:
        event.remove(Engine, "before_cursor_execute", hear)
    yield by_revision
    postgres.drop_database("migrations")


def _scripts() -> list[Script]:
    return list(ScriptDirectory(str(db.migrations_path())).walk_revisions())[::-1]


@pytest.mark.parametrize("script", _scripts(), ids=lambda script: script.revision)
def test_old_code_goes_on_beside_a_migration(script: Script, sent: dict[str, list[str]]) -> None:
    assert len(sent[script.revision]) > 1  # what is looked at is really there
    if script.revision not in FIRST_SHIPPED:
        first = getattr(script.module, "second_step_of", None)
        assert first is None or first in {s.revision for s in _scripts() if s.revision < script.revision}
        assert complaints(sent[script.revision], second_step=first is not None) == []


def test_an_owner_who_is_no_superuser_migrates_and_makes_the_logins(
    postgres: EmbeddedPostgres, template_database: str
) -> None:
    owner, name = make_url(postgres.url).set(username="plain_owner", password="fake"), "owned"
    web = owner.set(username="web_of_a_plain_owner", password="fake-web", database=name)
    roles = ", ".join(privileges.ROLES)  # other databases of this server have made them before
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("CREATE ROLE plain_owner LOGIN CREATEROLE PASSWORD 'fake'")
        connection.execute(f"GRANT {roles} TO plain_owner WITH ADMIN OPTION".encode())
        connection.execute("CREATE DATABASE owned OWNER plain_owner")
    address = owner.set(database=name).render_as_string(hide_password=False)
    try:
        db.upgrade(address)
        engine = db.make_engine(address)
        with engine.begin() as connection_:
            logins.ensure(connection_, web, privileges.WEB)
            logins.ensure(connection_, web, privileges.WEB)
        engine.dispose()
        with psycopg.connect(web.render_as_string(hide_password=False)) as connection:
            assert connection.execute("SELECT count(*) FROM registry.card_tokens").fetchone() == (0,)
    finally:
        postgres.drop_database(name)
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute("DROP ROLE IF EXISTS web_of_a_plain_owner")
            connection.execute("DROP OWNED BY plain_owner")
            connection.execute("DROP ROLE plain_owner")


def test_migrations_are_one_line_of_numbers() -> None:
    numbers = [script.revision for script in _scripts()]
    assert numbers == [f"{n:04}" for n in range(1, len(numbers) + 1)]


@pytest.fixture
def new_database(postgres: EmbeddedPostgres) -> Iterator[str]:
    postgres.create_database("to_be_migrated")
    yield postgres.url_for("to_be_migrated")
    postgres.drop_database("to_be_migrated")


def test_a_migration_gives_up_waiting_for_a_lock(new_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, str]] = []

    def look(connection: Connection, _prefix: str) -> None:
        shown.append(tuple(connection.execute(text(f"SHOW {n}")).scalar_one() for n in INDEX_WITHOUT))

    monkeypatch.setattr(privileges, "grant_all", look)  # the last step of the newest migration
    db.upgrade(new_database)
    assert set(shown) == {("5s", "15min")}


SLOW = """
    CREATE FUNCTION cardsync.slow(int) RETURNS int LANGUAGE plpgsql IMMUTABLE
        AS $$ BEGIN PERFORM pg_catalog.pg_sleep(0.05); RETURN $1; END $$
"""


def test_an_index_is_made_however_long_it_takes_and_the_time_outs_are_as_before(engine: Engine) -> None:
    """A statement of a migration has fifteen minutes, and the index of a large inbox takes hours: here seconds, and tenths."""
    with engine.connect() as connection:
        connection.exec_driver_sql(SLOW)
        connection.execute(text("CREATE TABLE cardsync.large AS SELECT x FROM pg_catalog.generate_series(1, 40) AS x"))
        for name, value in (("statement_timeout", "900ms"), ("lock_timeout", "700ms")):
            connection.execute(text(f"SET {name} = '{value}'"))
        connection.commit()
        context = MigrationContext.configure(connection)
        with pytest.raises(OperationalError, match="statement timeout"):
            connection.execute(text("CREATE INDEX too_slow ON cardsync.large (cardsync.slow(x))"))
        connection.rollback()
        with context.begin_transaction(_per_migration=True):
            db.make_index(context, "large_x", "large (cardsync.slow(x))")
        shown = [connection.execute(text(f"SHOW {name}")).scalar_one() for name in INDEX_WITHOUT]
        assert shown == ["700ms", "900ms"]
        valid = text("SELECT indisvalid FROM pg_index WHERE indexrelid = 'cardsync.large_x'::regclass")
        assert connection.execute(valid).scalar_one() is True


def test_an_index_whose_making_was_interrupted_is_made_again(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("CREATE TABLE cardsync.large AS SELECT 1 AS x UNION ALL SELECT 1"))
        connection.commit()
        half = connection.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(IntegrityError):  # it leaves the index behind, unusable
            half.execute(text("CREATE UNIQUE INDEX CONCURRENTLY large_x ON cardsync.large (x)"))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        with context.begin_transaction(_per_migration=True):
            db.make_index(context, "large_x", "large (x)")
        valid = text("SELECT indisvalid FROM pg_index WHERE indexrelid = 'cardsync.large_x'::regclass")
        assert connection.execute(valid).scalar_one() is True


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE cardsync.agreements",
        "ALTER TABLE cardsync.cards DROP COLUMN brand",
        "DROP VIEW registry.cards",
        "DROP FUNCTION registry.request_deletion(uuid, text, text)",
        "ALTER TABLE cardsync.cards RENAME COLUMN brand TO scheme",
        "ALTER TABLE cardsync.cards RENAME TO tokens",
        "ALTER TABLE cardsync.cards ALTER COLUMN life TYPE bigint",
        "ALTER TABLE cardsync.cards ALTER brand SET NOT NULL",
        "ALTER TABLE cardsync.cards DROP CONSTRAINT cards_status_known",
        "CREATE INDEX cards_brand ON cardsync.cards (brand)",
        "CREATE UNIQUE INDEX IF NOT EXISTS x ON cardsync.events (due_at)",
        "ALTER TABLE cardsync.cards ADD COLUMN x text NOT NULL",
        "ALTER TABLE cardsync.cards ADD COLUMN x timestamptz DEFAULT clock_timestamp()",
        "ALTER TABLE cardsync.cards ADD CONSTRAINT x CHECK (life < 9)",
        "ALTER TABLE cardsync.cards ADD CONSTRAINT x UNIQUE (token)",
        "CREATE TABLE cardsync.new (x int); CREATE INDEX e ON cardsync.events (kind)",
    ],
)
def test_what_would_stop_old_code_or_traffic_is_noticed(statement: str) -> None:
    assert complaints([statement]) != []


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE cardsync.new (x int NOT NULL); CREATE INDEX new_x ON cardsync.new (x)",
        "ALTER TABLE cardsync.cards ADD COLUMN x text",
        "ALTER TABLE cardsync.cards ADD COLUMN x boolean NOT NULL DEFAULT false, ADD COLUMN y int",
        "CREATE INDEX CONCURRENTLY cards_brand ON cardsync.cards (brand)",
        "CREATE INDEX gate_x ON cardsync.gate (swept_at)",
        (
            "ALTER TABLE cardsync.customers DROP CONSTRAINT customers_lane_known,"
            " ADD CONSTRAINT customers_lane_known CHECK (lane <> '') NOT VALID"
        ),
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN DROP TABLE x; END $$",
    ],
)
def test_what_only_adds_is_let_pass(statement: str) -> None:
    assert complaints([statement]) == []


def test_a_second_step_may_take_away_and_may_not_hold_traffic_up() -> None:
    assert complaints(["ALTER TABLE cardsync.cards DROP COLUMN brand"], second_step=True) == []
    assert complaints(["CREATE INDEX x ON cardsync.cards (brand)"], second_step=True) != []


def test_a_released_migration_is_never_edited() -> None:
    lines = (Path(__file__).parent / "released_migrations.txt").read_text(encoding="utf-8").splitlines()
    released = dict(reversed(line.split()) for line in lines if not line.startswith("#"))
    files = {path.name: path for path in (db.migrations_path() / "versions").glob("[0-9]*.py")}
    edited = [name for name, said in released.items() if hashlib.sha256(files[name].read_bytes()).hexdigest() != said]
    assert edited == []
    assert all(name > max(released) for name in files.keys() - released.keys())


def test_a_column_that_an_edited_migration_kept_from_the_first_release_is_made(new_database: str) -> None:
    db.upgrade(new_database, "0028")
    engine = db.make_engine(new_database)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE cardsync.cards DROP COLUMN believed_no CASCADE"))
    db.upgrade(new_database)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(believed_no) FROM cardsync.cards")).scalar_one() == 0
    engine.dispose()


def test_the_migration_says_of_older_links_until_when_their_cards_are_good(new_database: str) -> None:
    db.upgrade(new_database, "0032")
    engine = db.make_engine(new_database)
    with engine.begin() as connection:
        for statement in (
            "INSERT INTO cardsync.customers (environment, customer_id) VALUES ('sandbox', 'c')",
            (
                "INSERT INTO cardsync.cards (customer, fingerprint, token, status, expires_on, is_expired, cause)"
                " SELECT c.id, sha256(n::text::bytea), 'token-' || n, 'active',"
                " CASE WHEN n % 3 > 0 THEN date '2039-01-31' END, n % 3 = 1, 'test'"
                " FROM cardsync.customers AS c, generate_series(1, 300) AS n"
            ),
            (
                "INSERT INTO cardsync.agreements (environment, agreement_id, card_id, since_no)"
                " SELECT 'sandbox', token, card_id, 1 FROM cardsync.cards"
            ),
        ):
            connection.execute(text(statement))
    db.upgrade(new_database)
    with engine.connect() as connection:
        said = "SELECT card_good_until::text AS day, count(*) FROM cardsync.agreements GROUP BY 1 ORDER BY 1"
        assert [tuple(row) for row in connection.execute(text(said))] == [
            ("0001-01-01", 100),
            ("2039-01-31", 100),
            ("infinity", 100),
        ]
        at_risk = connection.execute(text("SELECT reason, count(*) FROM registry.agreements_at_risk GROUP BY 1"))
        assert [tuple(row) for row in at_risk] == [("expired", 100)]
    engine.dispose()
