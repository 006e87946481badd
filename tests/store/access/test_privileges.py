"""Who may do what in the database: the whole list, held against ``store.access.privileges``, and what each is refused."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

import pytest
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from cardsync.ciphers import KeyRing
from cardsync.errors import Misconfigured
from cardsync.store import audits, retention
from cardsync.store.access import privileges
from cardsync.store.access.privileges import PROCESSES, ROLES, WEB, WORKER, Rights
from cardsync.store.access.secret_keys import check_secret
from tests.factories import CustomerFactory

Held = dict[str, dict[str, set[str]]]  # thing -> who -> "SELECT", "SELECT (column)"

# Everything that anybody but the owner holds, on things and on single columns, PUBLIC's among it; what was never granted or
# revoked has no list, and then PostgreSQL's default counts.
_HELD = text("""
    WITH things (name, owner, acl, kind) AS (
        SELECT n.nspname || '.' || c.relname, c.relowner, c.relacl,
               CASE c.relkind WHEN 'S' THEN 'sequence' ELSE 'relation' END
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = ANY(:schemas) AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        UNION ALL
        SELECT n.nspname || '.' || p.proname || '(' || oidvectortypes(p.proargtypes) || ')', p.proowner,
               coalesce(p.proacl, acldefault('f', p.proowner)), 'function'
        FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace WHERE n.nspname = ANY(:schemas)
        UNION ALL
        SELECT nspname, nspowner, nspacl, 'schema' FROM pg_namespace WHERE nspname = ANY(:schemas)
    ), columns (name, owner, acl, attribute) AS (
        SELECT n.nspname || '.' || c.relname, c.relowner, a.attacl, a.attname
        FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = ANY(:schemas) AND a.attacl IS NOT NULL
    )
    SELECT t.kind, t.name, coalesce(r.rolname, CASE WHEN g.grantee = 0 THEN 'PUBLIC' END) AS who, g.privilege_type AS what
    FROM things AS t LEFT JOIN LATERAL aclexplode(t.acl) AS g ON g.grantee <> t.owner
    LEFT JOIN pg_roles AS r ON r.oid = g.grantee
    UNION ALL
    SELECT 'relation', c.name, coalesce(r.rolname, 'PUBLIC'), g.privilege_type || ' (' || c.attribute || ')'
    FROM columns AS c CROSS JOIN LATERAL aclexplode(c.acl) AS g LEFT JOIN pg_roles AS r ON r.oid = g.grantee
    WHERE g.grantee <> c.owner
""")

DECIDED: Mapping[str, Mapping[str, Rights]] = {
    "schema": privileges.SCHEMAS,
    "relation": privileges.RELATIONS,
    "sequence": privileges.SEQUENCES,
    "function": privileges.FUNCTIONS,
}


def held(engine: Engine) -> dict[str, Held]:
    found: dict[str, Held] = defaultdict(dict)
    with engine.connect() as connection:
        for kind, name, who, what in connection.execute(_HELD, {"schemas": list(privileges.SCHEMAS)}):
            whom = found[kind].setdefault(name, {})
            if who is not None:
                whom.setdefault(who, set()).add(what)
    return found


def spelled_out(rights: Rights) -> dict[str, set[str]]:
    """``SELECT, UPDATE (a, b)`` as three privileges."""
    return {
        role: {
            f"{privilege} ({column.strip()})" if columns else privilege
            for privilege, columns in re.findall(r"([A-Z]+)(?: \(([^)]*)\))?", said)
            for column in (columns.split(",") if columns else [""])
        }
        for role, said in rights.items()
    }


@pytest.mark.parametrize("kind", DECIDED)
def test_everybody_holds_what_was_decided_and_nothing_else(engine: Engine, kind: str) -> None:
    found, decided = held(engine)[kind], DECIDED[kind]
    undecided = sorted(set(found) ^ set(decided))
    assert undecided == [], "say in cardsync/store/access/privileges.py who may do what with these, if only NOBODY"
    assert {name: whom for name, whom in found.items() if whom} == {
        name: spelled_out(rights) for name, rights in decided.items() if rights
    }


def test_there_are_no_default_privileges(engine: Engine) -> None:
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM pg_default_acl")).scalar_one() == 0


def test_a_table_of_tomorrow_is_seen_by_nobody_and_noticed(engine: Engine, worker_engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE cardsync.tomorrow (x int)"))
    assert set(held(engine)["relation"]) - set(privileges.RELATIONS) == {"cardsync.tomorrow"}
    refused(worker_engine, "SELECT * FROM cardsync.tomorrow")


def test_rights_that_somebody_changed_are_put_right(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("GRANT ALL ON cardsync.api_keys TO cardsync_worker"))
        connection.execute(text("GRANT SELECT (token) ON cardsync.cards TO cardsync_web"))
        connection.execute(text("REVOKE INSERT ON cardsync.events FROM cardsync_web"))
        privileges.grant_all(connection)
    test_everybody_holds_what_was_decided_and_nothing_else(engine, "relation")


@pytest.mark.parametrize("role", ROLES)
def test_no_role_logs_in_or_has_powers_of_its_own(engine: Engine, role: str) -> None:
    with engine.connect() as connection:
        powers = text(
            "SELECT rolcanlogin, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls FROM pg_roles"
            " WHERE rolname = :role"
        )
        assert not any(connection.execute(powers, {"role": role}).one())


@pytest.fixture(params=PROCESSES)
def process_engine(request: pytest.FixtureRequest) -> Engine:
    made: Engine = request.getfixturevalue({WEB: "web_engine", WORKER: "worker_engine"}[request.param])
    return made


FEED_AND_RECEIPTS = ("card_changes", "feed_head", "deletion_steps", "receipt_chain", "receipt_head")


@pytest.mark.parametrize("table", FEED_AND_RECEIPTS)
def test_nobody_changes_the_feed_or_a_receipt(process_engine: Engine, table: str) -> None:
    refused(process_engine, f"DELETE FROM cardsync.{table}")
    refused(process_engine, f"TRUNCATE cardsync.{table}")
    first = {"card_changes": "seq", "feed_head": "seq", "deletion_steps": "step"}.get(table, "step_no")
    refused(process_engine, f"UPDATE cardsync.{table} SET {first} = {first}")
    for role in ROLES:
        rights = privileges.RELATIONS[f"cardsync.{table}"].get(role, "")
        assert not {"UPDATE", "DELETE", "TRUNCATE", "TRIGGER"} & set(re.findall("[A-Z]+", rights))


def test_the_feed_is_numbered_and_receipts_are_chained_by_the_database_alone(process_engine: Engine) -> None:
    change = "(seq, card_id, customer, change, fields, cause) VALUES (1, gen_random_uuid(), 1, 'added', '{}', 'x')"
    refused(process_engine, f"INSERT INTO cardsync.card_changes {change}")
    refused(process_engine, "INSERT INTO cardsync.receipt_chain VALUES (1, 1, sha256(''))")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE cardsync.mine (x int)",
        "CREATE VIEW registry.mine AS SELECT 1 AS x",
        "ALTER TABLE cardsync.cards ADD COLUMN mine text",
        "ALTER TABLE cardsync.card_changes DISABLE TRIGGER ALL",
        "DROP TABLE cardsync.events",
        "DROP TRIGGER cards_feed ON cardsync.cards",
        "CREATE OR REPLACE FUNCTION cardsync.refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "GRANT cardsync_charger TO cardsync_reader",
        "CREATE ROLE mine",
        "SET ROLE cardsync_charger",
        "SET session_replication_role = replica",  # it would pass the triggers by
        "SELECT setval('cardsync.observation_no', 1)",
        "UPDATE cardsync.alembic_version SET version_num = 'x'",
        "INSERT INTO cardsync.api_keys (name, key_hash, scopes) VALUES ('x', sha256('x'), '{ops}')",
        "UPDATE cardsync.api_keys SET scopes = '{ops}'",
        "DELETE FROM cardsync.customers",
        "UPDATE cardsync.deletion_keys SET request_hash = NULL",
        "SELECT pg_read_file('postgresql.conf')",
        "COPY cardsync.gate TO PROGRAM 'cat'",
    ],
)
def test_no_process_alters_anything_or_gives_itself_more(process_engine: Engine, statement: str) -> None:
    refused(process_engine, statement)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT token FROM cardsync.cards",
        "SELECT * FROM cardsync.cards",
        "SELECT token FROM cardsync.events",
        "SELECT facts FROM cardsync.events",
        "UPDATE cardsync.cards SET status = 'active'",
        "DELETE FROM cardsync.cards",
        "DELETE FROM cardsync.events",  # the worker may, when they are old
        "DELETE FROM cardsync.audits",
        "UPDATE cardsync.customers SET applied_no = 1",
        "UPDATE cardsync.customers SET ticket_no = 1",
        "UPDATE cardsync.customers SET customer_id = 'x'",
        "UPDATE cardsync.gate SET secret_check = sha256('x')",
        "UPDATE cardsync.deletion_askers SET held_since = NULL",
        "SELECT * FROM cardsync.deletion_brake",
        "SELECT cardsync.count_deletion('x')",
        "SELECT cardsync.forget_probation(0, 1000)",
        "UPDATE cardsync.events SET token = 'x'",
        "UPDATE cardsync.gate SET brake_engaged_at = NULL",
        "INSERT INTO cardsync.call_minutes VALUES (now(), 'hint', 1)",
        "UPDATE cardsync.deletions SET phase = 'done'",
        "INSERT INTO cardsync.deletion_steps (deletion_id, step) VALUES (gen_random_uuid(), 'done')",
        "INSERT INTO cardsync.observations (observation_no, customer, lane, asked_at, outcome) VALUES (1, 1, 'x', now(), 'x')",
        "UPDATE cardsync.erasures SET requested_by = 'x'",
    ],
)
def test_the_web_reads_no_private_token_and_writes_no_verdict(web_engine: Engine, statement: str) -> None:
    refused(web_engine, statement)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM cardsync.api_keys",
        "SELECT * FROM registry.card_tokens",
        "SELECT * FROM cardsync.erasure_requests",
        "INSERT INTO cardsync.deletions (card_id) VALUES (gen_random_uuid())",
    ],
)
def test_the_worker_reads_no_key_and_asks_for_no_deletion_by_hand(worker_engine: Engine, statement: str) -> None:
    refused(worker_engine, statement)


def refused(engine: Engine, statement: str) -> None:
    with engine.connect() as connection, pytest.raises(DBAPIError) as error:
        connection.exec_driver_sql(statement)
    assert isinstance(error.value.orig, InsufficientPrivilege), error.value.orig


def test_the_worker_may_draw_a_customer_and_drop_what_is_old(worker_engine: Engine) -> None:
    with worker_engine.begin() as connection:
        audits.seconds_since_draw(connection)
        audits.draw(connection)
        audits.summary(connection)
        for what in retention.WHATS:
            assert retention.forget(connection, what, older_days=1) == 0


def test_the_web_may_read_what_its_figures_show(web_engine: Engine) -> None:
    with web_engine.begin() as connection:
        assert audits.summary(connection).sample == 0
        assert retention.ages(connection).row_seconds == 0


def test_the_web_moves_no_customer_to_another_environment(engine: Engine, web_engine: Engine) -> None:
    CustomerFactory(environment="sandbox")
    with web_engine.begin() as connection:  # as the release before does, beside this one
        connection.execute(text("UPDATE cardsync.customers SET environment = environment"))
    for who in (web_engine, engine):
        with pytest.raises(DBAPIError), who.begin() as connection:
            connection.execute(text("UPDATE cardsync.customers SET environment = 'production'"))


def test_the_web_binds_the_database_to_a_secret_key_once(engine: Engine, web_engine: Engine) -> None:
    with web_engine.begin() as connection:
        check_secret(connection, KeyRing(b"one key of at least 32 characters."))
    with web_engine.begin() as connection:
        other = text("SELECT cardsync.bind_secret(sha256('another'))")
        before = connection.execute(text("SELECT secret_check FROM cardsync.gate")).scalar_one()
        assert connection.execute(other).scalar_one() == before
        with pytest.raises(Misconfigured):
            check_secret(connection, KeyRing(b"another key of at least 32 characters"))


@pytest.mark.parametrize(
    "statement",
    [
        """INSERT INTO cardsync.events (evidence_no, body_hash, status, kind, scheme, key_id, ignored_because)
           VALUES (9000000000000000, sha256('x'), 'ignored', 'unknown', 'standard', 'k', 'unknown kind')""",
        "UPDATE cardsync.customers SET dirty_no = 9000000000000000",
        "UPDATE cardsync.erasures SET asked_no = 9000000000000000",
    ],
)
def test_the_web_gives_no_evidence_a_number_of_tomorrow(engine: Engine, web_engine: Engine, statement: str) -> None:
    CustomerFactory()
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO cardsync.erasures (customer_id, requested_by) VALUES ('x', 'x')"))
    with pytest.raises(DBAPIError, match="not drawn yet"), web_engine.begin() as connection:
        connection.exec_driver_sql(statement)


def test_the_web_numbers_what_it_stores_by_the_sequence(web_engine: Engine) -> None:
    with web_engine.begin() as connection:
        connection.execute(
            text(
                """INSERT INTO cardsync.events
                   (evidence_no, body_hash, status, kind, scheme, key_id, ignored_because, settled_at) VALUES
                   (nextval('cardsync.observation_no'), sha256('x'), 'ignored', 'unknown', 'standard', 'k', 'x', now())"""
            )
        )
