"""Time in the machine's hands: one clock for the stand-in and for PostgreSQL, which stands still until it is moved.

PostgreSQL looks for a function in ``pg_catalog`` first, unless the search path names that schema later. So a function
``clock_timestamp`` of ours stands before the real one, in this database alone, for every statement of the product as it is: its
sessions bring a search path of their own, so that each engine is told (``follow``).
What was bound when the schema was made keeps the real clock, unless it is a column's default: bodies of views and triggers.
Shifting stored times instead was rejected: what a stalled process holds in its memory cannot be shifted.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from sqlalchemy import Connection, Engine, event, text

BEGAN: Final = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)  # when every example begins

# Column defaults were bound to the real clock when the tables were made; they are bound again.
_INSTALL: Final = f"""
    CREATE SCHEMA machine;
    CREATE TABLE machine.clock (began timestamptz NOT NULL, seconds float8 NOT NULL);
    INSERT INTO machine.clock VALUES ('{BEGAN.isoformat()}', 0);
    CREATE FUNCTION machine.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
        AS 'SELECT began + make_interval(secs => seconds) FROM machine.clock';
    CREATE FUNCTION machine.statement_timestamp() RETURNS timestamptz LANGUAGE sql STABLE
        AS 'SELECT began + make_interval(secs => seconds) FROM machine.clock';
    CREATE FUNCTION machine.now() RETURNS timestamptz LANGUAGE sql STABLE
        AS 'SELECT began + make_interval(secs => seconds) FROM machine.clock';
    DO $$
    DECLARE
        it record;
    BEGIN
        FOR it IN
            SELECT d.adrelid::regclass AS relation, a.attname
            FROM pg_attrdef AS d JOIN pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
            WHERE pg_get_expr(d.adbin, d.adrelid) = 'clock_timestamp()'
        LOOP
            EXECUTE format('ALTER TABLE %%s ALTER %%I SET DEFAULT machine.clock_timestamp()', it.relation, it.attname);
        END LOOP;
        -- These look nowhere but in their own path: otherwise a request for a deletion would go by the real clock.
        FOR it IN
            SELECT p.oid::regprocedure AS signature FROM pg_proc AS p
            WHERE p.proname IN ('request_deletion', 'fold_repeat')
        LOOP
            EXECUTE format('ALTER FUNCTION %%s SET search_path = machine, pg_catalog, pg_temp', it.signature);
        END LOOP;
    END $$;
"""
_RESET: Final = """
    BEGIN;
    SET LOCAL session_replication_role = replica;
    DO $$
    DECLARE
        it record;
    BEGIN
        FOR it IN
            SELECT c.oid::regclass AS relation, EXISTS (
                SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname = 'singleton'
            ) AS is_one_row
            FROM pg_class AS c
            WHERE c.relnamespace = 'cardsync'::regnamespace AND c.relkind = 'r' AND c.relname <> 'alembic_version'
        LOOP
            EXECUTE format('DELETE FROM %%s', it.relation);
            IF it.is_one_row THEN
                EXECUTE format('INSERT INTO %%s DEFAULT VALUES', it.relation);
            END IF;
        END LOOP;
        PERFORM setval(c.oid, 1, false) FROM pg_class AS c
        WHERE c.relnamespace = 'cardsync'::regnamespace AND c.relkind = 'S';
    END $$;
    INSERT INTO cardsync.feed_epochs (epoch, before_seq, after_seq) VALUES (1, 0, 0);
    UPDATE machine.clock SET seconds = 0;
    COMMIT;
"""
_MOVE: Final = text("UPDATE machine.clock SET seconds = :seconds")


def install(engine: Engine) -> None:
    """Put the clock into a freshly migrated database."""
    with engine.begin() as connection:
        connection.exec_driver_sql(_INSTALL)
    engine.dispose()


def follow(engine: Engine) -> None:
    """Let this engine's connections go by the clock: the product's own search path has no place for it."""
    go_by_it(engine)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT clock_timestamp()")).scalar_one() == BEGAN


def go_by_it(engine: Engine) -> None:
    """Let connections that this engine opens from now on go by the clock."""

    def begin(driver: Any, _record: object) -> None:
        driver.execute("SET search_path = machine, pg_catalog, public")
        driver.commit()

    event.listen(engine, "connect", begin)


# For a test's own database, and all logins. Functions of the product that look nowhere but in their own path follow, too.
_STOP: Final = """
    GRANT USAGE ON SCHEMA machine TO PUBLIC;
    GRANT SELECT ON machine.clock TO PUBLIC;
    UPDATE machine.clock SET began = pg_catalog.clock_timestamp();
    DO $$
    DECLARE
        it record;
    BEGIN
        FOR it IN
            SELECT p.oid::regprocedure AS signature FROM pg_proc AS p
            WHERE p.pronamespace IN ('cardsync'::regnamespace, 'registry'::regnamespace)
              AND p.prosrc ~ '(clock|statement)_timestamp|now\\(' AND p.proconfig @> ARRAY['search_path=pg_catalog, pg_temp']
        LOOP
            EXECUTE format('ALTER FUNCTION %%s SET search_path = machine, pg_catalog, pg_temp', it.signature);
        END LOOP;
    END $$;
"""


def stand_still(owner: Engine, *processes: Engine) -> None:
    """Stop the clock of a test's own database at this moment, for engines that were not used yet.

    Time passes there only by what the test itself shifts: nothing falls due because the machine was busy meanwhile.
    """
    install(owner)
    with owner.begin() as connection:
        connection.exec_driver_sql(_STOP)
    owner.dispose()
    for engine in (owner, *processes):
        go_by_it(engine)


def reset(connection: Connection) -> None:
    """Empty the database and begin time again: one example's end is the next one's beginning.

    Triggers rest meanwhile, since the feed is append-only. A database for each example was rejected: 0.2 s each.
    """
    connection.exec_driver_sql(_RESET)


class Clock:
    """Seconds since the example began, here and in the database."""

    def __init__(self, engine: Engine) -> None:
        self.seconds = 0.0
        self._engine = engine

    def now(self) -> float:
        """The stand-in's clock."""
        return self.seconds

    def pass_(self, seconds: float) -> None:
        """Let time pass for everybody at once."""
        self.seconds += seconds
        with self._engine.begin() as connection:
            connection.execute(_MOVE, {"seconds": self.seconds})
