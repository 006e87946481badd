"""Of any number of beats one leads, and another takes over as soon as it is gone."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text
from structlog.testing import capture_logs

from cardsync import db, metrics
from cardsync.dev.servers.ports import free_port
from cardsync.settings import Settings
from workers import leader
from workers.app import create_app
from workers.leader import STUCK_SECONDS, Leadership, TickScheduler

LEASE_SECONDS = 600.0


@pytest.fixture(autouse=True)
def _long_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease ends where a test says so, and not while a busy machine runs the next statement."""
    monkeypatch.setattr(leader, "LEASE_SECONDS", LEASE_SECONDS)


@pytest.fixture
def beats(database_url: str) -> list[Leadership]:
    """Two beats."""
    return [Leadership(db.make_engine(database_url, name="beat", autocommit=True)) for _ in range(2)]


def age_the_lease(engine: Engine, seconds: float) -> None:
    """Let the lease's holder stand still, or be dead, for so long."""
    with engine.begin() as connection:
        aged = text(
            "UPDATE cardsync.locks SET held_until = held_until - make_interval(secs => :s) WHERE name = 'leader'"
        )
        connection.execute(aged, {"s": seconds})


def test_one_leads_until_it_gives_the_lead_up(beats: list[Leadership]) -> None:
    one, other = beats
    assert one.holds()
    assert not other.holds()
    assert one.holds()
    one.release()
    assert other.holds()
    assert not one.holds()
    other.release()


def test_a_leader_that_is_killed_is_followed_by_another_when_its_lease_ends(
    engine: Engine, beats: list[Leadership]
) -> None:
    one, other = beats
    assert one.holds()
    age_the_lease(engine, LEASE_SECONDS / 2)
    assert not other.holds()
    age_the_lease(engine, LEASE_SECONDS / 2)
    assert other.holds()


def test_a_leader_that_stood_still_finds_that_another_leads_and_says_so_once(
    engine: Engine, beats: list[Leadership]
) -> None:
    one, other = beats
    assert one.holds()
    age_the_lease(engine, LEASE_SECONDS)
    assert other.holds()
    with capture_logs() as lines:
        assert not one.holds()
        assert not one.holds()
    assert [line["event"] for line in lines] == ["beat_lost_the_lead"]


def test_a_leader_whose_session_was_ended_stops_leading_and_goes_on_with_another_session(
    engine: Engine, beats: list[Leadership]
) -> None:
    one, other = beats
    assert one.holds()
    with engine.begin() as connection:
        connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'beat'")
        )
    assert not one.holds()
    assert one.holds()
    assert not other.holds()


def test_a_lead_holds_no_session_and_no_transaction_open(engine: Engine, database_url: str) -> None:
    made = db.make_engine(database_url, name="beat", autocommit=True)
    beat = Leadership(made)
    assert beat.holds()
    made.dispose()  # as a pooler in transaction mode does: the next statement may run in any session
    assert beat.holds()


def test_a_beat_that_can_ask_nobody_for_half_a_minute_tells_it_once_and_once_that_it_can(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    nowhere = db.make_engine("postgresql://nobody@127.0.0.1:1/nowhere", autocommit=True)
    beat = Leadership(nowhere, now=lambda: now[0])
    before = metrics.LOCK_WAITS.labels("leader")._value.get()
    with capture_logs() as lines:
        for now[0] in (0.0, STUCK_SECONDS - 1, STUCK_SECONDS, STUCK_SECONDS + 1):
            assert not beat.holds()
        monkeypatch.setattr(beat, "_engine", db.make_engine(database_url, name="beat", autocommit=True))
        assert beat.holds()
    assert [(line["event"], line["log_level"]) for line in lines if line["event"] != "beat_leads"] == [
        ("leader_lock_cannot_be_had", "error"),
        ("leader_lock_cannot_be_had_ended", "warning"),
    ]
    assert metrics.LOCK_WAITS.labels("leader")._value.get() == before + 1


def test_a_broker_that_is_gone_is_one_line_that_says_what_is_wrong_and_shows_no_password() -> None:
    address = f"redis://:fake-password@127.0.0.1:{free_port()}/0"
    scheduler = TickScheduler(create_app(Settings(broker_url=address), "deployment", publisher=True))  # type: ignore[arg-type]
    with capture_logs() as lines:
        for entry in [*scheduler.schedule.values()][:2]:
            scheduler.apply_entry(entry)
    (line,) = lines
    assert (line["event"], line["why"]) == ("ticks_not_sent", "it refuses connections: nothing listens on that port")
    assert "fake-password" not in str(lines)
