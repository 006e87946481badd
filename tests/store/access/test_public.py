"""What PUBLIC may do in the database, and how it is taken away; tests/hostile/test_logins.py has the attacks."""

from __future__ import annotations

from sqlalchemy import Engine, text

from cardsync.store import customers
from cardsync.store.access import privileges, public


def close(engine: Engine) -> None:
    with engine.begin() as connection:
        assert public.close(connection).still_open == ()


def test_what_is_open_is_said_in_words_until_it_is_closed(engine: Engine) -> None:
    with engine.begin() as connection:
        assert set(public.open_to_all(connection)) == {
            "connect",
            "make temporary tables",
            "make large objects",
            "write into the log of changes or export snapshots",
            "take advisory locks",
        }
    close(engine)
    close(engine)  # safe to repeat
    with engine.begin() as connection:
        assert public.open_to_all(connection) == ()
        connection.execute(text("GRANT CREATE ON SCHEMA public TO PUBLIC"))  # as PostgreSQL had it before 15
        assert public.open_to_all(connection) == ("make tables in the schema public",)


def test_every_role_may_connect_to_a_closed_database_and_the_worker_alone_makes_temporary_tables(
    engine: Engine,
) -> None:
    close(engine)
    asked = text("SELECT has_database_privilege(:role, current_database(), :what)")
    with engine.connect() as connection:
        for role in privileges.ROLES:
            assert connection.execute(asked, {"role": role, "what": "CONNECT"}).scalar_one()
            may = connection.execute(asked, {"role": role, "what": "TEMPORARY"}).scalar_one()
            assert may == (role == privileges.WORKER)


def test_every_advisory_lock_of_this_version_is_among_what_is_taken(engine: Engine) -> None:
    with engine.connect() as connection:
        names = connection.execute(
            text("SELECT DISTINCT proname FROM pg_proc WHERE proname ~ '^pg_(try_)?advisory' AND proname !~ 'unlock'")
        ).scalars()
        assert set(names) <= set(public.TAKEN_FUNCTIONS)


def test_the_processes_go_on_in_a_closed_database(engine: Engine, web_engine: Engine, worker_engine: Engine) -> None:
    close(engine)
    with worker_engine.begin() as connection:
        assert customers.add_known(connection, [("production", "someone")]) == 1
        connection.execute(text("SELECT pg_try_advisory_xact_lock(1)"))  # as the release before does
    with web_engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM registry.customers")).scalar_one() == 1
