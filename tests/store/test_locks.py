"""Locks by rows of private tables: they exclude each other, and no advisory lock stands in their way."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent import futures

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from cardsync import db, metrics
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.store import locks, schedule
from cardsync.stories.audit import AuditPolicy, audit
from cardsync.stories.sweep import TRIES_IN_VAIN, SweepPolicy, sweep
from tests import factories
from tests.e2e.standby import set_and_reload
from tests.logins import ProcessLogins
from tests.waiting import WAIT_SECONDS
from workers.leader import Leadership

ONE, OTHER = uuid.UUID(int=1), uuid.UUID(int=2)
POLICY = SweepPolicy(daily_calls=90_000, look_again_seconds=300, lists=True)
# What the releases before took: the sweep's, the leader's, the audit's, the migrations' and the logins' numbers.
OLD_NUMBERS = (0x6361726473796E63, 0x6C65616465720001, 0x6175646974000001, 0x63617264, 0x6C6F67696E730001)


@pytest.fixture
def reader(postgres: EmbeddedPostgres, database_url: str, engine: Engine) -> Iterator[Connection]:
    """A session of a service that may read the registry and nothing else."""
    name = f"reader_{uuid.uuid4().hex[:8]}"
    with engine.begin() as connection:
        connection.execute(text(f"CREATE ROLE {name} LOGIN PASSWORD 'fake' IN ROLE cardsync_reader"))
    made = db.make_engine(
        db.sqlalchemy_url(database_url).set(username=name, password="fake").render_as_string(hide_password=False)
    )
    with made.connect() as connection:
        yield connection
    made.dispose()
    with engine.begin() as connection:
        connection.execute(text(f"DROP ROLE {name}"))


def test_a_reader_who_takes_advisory_locks_stops_no_sweep_no_beat_no_audit_no_login_and_no_migration(
    reader: Connection, database_url: str, worker_engine: Engine, engine: Engine, logins: ProcessLogins
) -> None:
    for number in OLD_NUMBERS:
        assert reader.execute(text("SELECT pg_try_advisory_lock(:number)"), {"number": number}).scalar_one()
    sweep(worker_engine, POLICY, fraction=0.0)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT swept_at IS NOT NULL FROM cardsync.gate")).scalar_one()
    leader = Leadership(db.make_engine(database_url, autocommit=True))
    assert leader.holds()
    audit(worker_engine, AuditPolicy(daily_calls=90_000, lists=True))
    db.upgrade(database_url)
    logins.url("web", database_url)


def test_a_reader_can_touch_no_lock(reader: Connection) -> None:
    for table in ("locks", "migration_lock", "brake"):
        with pytest.raises(Exception, match="permission denied"):
            reader.execute(text(f"SELECT * FROM cardsync.{table} FOR UPDATE"))
        reader.rollback()


def test_no_function_of_ours_takes_an_advisory_lock(engine: Engine) -> None:
    with engine.connect() as connection:
        found = connection.execute(
            text(
                "SELECT p.proname FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace"
                " WHERE n.nspname IN ('cardsync', 'registry') AND p.prosrc ~* 'advisory'"
            )
        ).scalars()
        assert list(found) == []


def test_a_reader_who_guesses_an_idempotency_key_stops_no_request(reader: Connection, engine: Engine) -> None:
    factories.bind(engine)
    card = factories.make_card(factories.CustomerFactory())
    factories.unbind()
    with engine.begin() as connection:
        hashed = connection.execute(text("SELECT cardsync.hashed_key('sql:', 'order-1')")).scalar_one()
    lock = text("SELECT pg_try_advisory_lock(hashtextextended(:hashed, 0))")
    assert reader.execute(lock, {"hashed": hashed}).scalar_one()
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = '10s'"))
        asked = text("SELECT cardsync.request_deletion(:card, 'billing', NULL, 'order-1', NULL, false)")
        assert connection.execute(asked, {"card": card.card_id}).scalar_one()


def test_of_two_transactions_with_one_key_the_second_waits_and_no_row_stays(engine: Engine) -> None:
    hold = text("SELECT cardsync.hold_key('one')")
    with engine.connect() as first, engine.connect() as second:
        first.execute(hold)
        first.execute(hold)
        second.execute(text("SET statement_timeout = '200ms'"))
        with pytest.raises(OperationalError, match="statement timeout"):
            second.execute(hold)
        second.rollback()
        second.execute(text("SELECT cardsync.hold_key('another')"))
        second.rollback()
        first.commit()
        second.execute(hold)
        second.commit()
        assert first.execute(text("SELECT count(*) FROM cardsync.held_keys")).scalar_one() == 0


def test_one_transaction_at_a_time_has_the_lock_and_the_others_do_not_wait(engine: Engine) -> None:
    with engine.begin() as one, engine.begin() as other:
        assert locks.try_lock(one, "sweep")
        assert locks.try_lock(one, "sweep")
        assert not locks.try_lock(other, "sweep")
        assert locks.try_lock(other, "audit")
    with engine.begin() as other:
        assert locks.try_lock(other, "sweep")


def test_a_lock_whose_row_is_missing_is_made(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM cardsync.locks"))
    with engine.begin() as connection:
        assert locks.try_lock(connection, "sweep")
        assert locks.lease(connection, "leader", ONE, lease_seconds=3)


def test_a_lease_stands_until_its_end_and_is_renewed_by_its_holder_alone(engine: Engine) -> None:
    with engine.begin() as connection:
        assert locks.lease(connection, "leader", ONE, lease_seconds=300)
        assert locks.lease(connection, "leader", ONE, lease_seconds=300)
        assert not locks.lease(connection, "leader", OTHER, lease_seconds=300)
        connection.execute(text("UPDATE cardsync.locks SET held_until = held_until - interval '300.1 seconds'"))
        assert locks.lease(connection, "leader", OTHER, lease_seconds=300)
        assert not locks.lease(connection, "leader", ONE, lease_seconds=300)


def test_a_lease_that_is_given_back_is_free_at_once_and_only_its_holder_gives_it_back(engine: Engine) -> None:
    with engine.begin() as connection:
        assert locks.lease(connection, "leader", ONE, lease_seconds=300)
        locks.let_go(connection, "leader", OTHER)
        assert not locks.lease(connection, "leader", OTHER, lease_seconds=300)
        locks.let_go(connection, "leader", ONE)
        assert locks.lease(connection, "leader", OTHER, lease_seconds=300)


def test_a_clock_that_is_set_back_leaves_no_lease_that_stands_for_an_hour(engine: Engine) -> None:
    with engine.begin() as connection:
        assert locks.lease(connection, "leader", ONE, lease_seconds=3)
        connection.execute(text("UPDATE cardsync.locks SET held_until = held_until + interval '1 hour'"))
        assert locks.lease(connection, "leader", OTHER, lease_seconds=3)


def test_a_sweep_that_cannot_have_the_lock_for_half_a_minute_is_told_once_and_once_that_it_is_over(
    engine: Engine, worker_engine: Engine
) -> None:
    before = metrics.LOCK_WAITS.labels("sweep")._value.get()
    assert schedule.STANDSTILL_SECONDS == 30
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.gate SET swept_at = clock_timestamp() - interval '10 seconds'"))
    with engine.begin() as blocker, capture_logs() as lines:
        blocker.execute(text("SELECT 1 FROM cardsync.locks FOR UPDATE"))
        sweep(worker_engine, POLICY, fraction=0.0)
        assert lines == []
        with engine.begin() as connection:
            connection.execute(text("UPDATE cardsync.gate SET swept_at = clock_timestamp() - interval '31 seconds'"))
        for _ in range(TRIES_IN_VAIN + 1):
            sweep(worker_engine, POLICY, fraction=0.0)
        assert [line["event"] for line in lines] == ["sweep_lock_is_not_free"]
        blocker.rollback()
        sweep(worker_engine, POLICY, fraction=0.0)
    assert [(line["event"], line["log_level"], line.get("repeated")) for line in lines] == [
        ("sweep_lock_is_not_free", "error", None),
        ("sweep_lock_is_not_free_ended", "warning", 1),
    ]
    assert metrics.LOCK_WAITS.labels("sweep")._value.get() == before + 1


def test_a_standstill_is_over_too_once_another_process_sweeps(engine: Engine, worker_engine: Engine) -> None:
    swept = "UPDATE cardsync.gate SET swept_at = clock_timestamp() - make_interval(secs => :seconds)"
    with engine.begin() as connection:
        connection.execute(text(swept), {"seconds": 31})
    with engine.begin() as blocker, capture_logs() as lines:
        blocker.execute(text("SELECT 1 FROM cardsync.locks FOR UPDATE"))
        for _ in range(TRIES_IN_VAIN):
            sweep(worker_engine, POLICY, fraction=0.0)
        with engine.begin() as connection:
            connection.execute(text(swept), {"seconds": 0})
        sweep(worker_engine, POLICY, fraction=0.0)
    assert [line["event"] for line in lines] == ["sweep_lock_is_not_free", "sweep_lock_is_not_free_ended"]


def test_after_an_outage_the_sweep_of_another_process_that_comes_first_is_no_standstill(
    engine: Engine, worker_engine: Engine
) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.gate SET swept_at = clock_timestamp() - interval '10 minutes'"))
    before = metrics.LOCK_WAITS.labels("sweep")._value.get()
    with capture_logs() as lines:
        with engine.begin() as other:
            other.execute(text("SELECT 1 FROM cardsync.locks FOR UPDATE"))
            sweep(worker_engine, POLICY, fraction=0.0)
        sweep(worker_engine, POLICY, fraction=0.0)
    assert lines == []
    assert metrics.LOCK_WAITS.labels("sweep")._value.get() == before


def test_no_lease_waits_for_a_standby_that_is_away(database_url: str, postgres: EmbeddedPostgres) -> None:
    engine = db.make_engine(database_url, autocommit=True)
    beat = Leadership(engine)

    def leads_and_gives_back() -> bool:
        leads = beat.holds()
        beat.release()
        return leads

    with futures.ThreadPoolExecutor(1) as pool:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        set_and_reload(postgres, synchronous_standby_names="absent")
        try:
            assert pool.submit(leads_and_gives_back).result(WAIT_SECONDS)
        finally:
            set_and_reload(postgres, synchronous_standby_names="")
    engine.dispose()
