"""Of any number of beats one leads, and another takes over as soon as it is gone."""

from __future__ import annotations

from sqlalchemy import Engine, text

from cardsync import db
from workers.leader import Leadership


def test_one_leads_until_it_gives_the_lead_up(database_url: str) -> None:
    one, other = (Leadership(db.make_engine(database_url, autocommit=True)) for _ in range(2))
    assert one.holds()
    assert not other.holds()
    assert one.holds()
    one.release()
    assert other.holds()
    assert not one.holds()
    other.release()


def test_a_leader_whose_session_was_ended_stops_leading_and_another_takes_over(
    engine: Engine, database_url: str
) -> None:
    one, other = (Leadership(db.make_engine(database_url, name="beat", autocommit=True)) for _ in range(2))
    assert one.holds()
    with engine.begin() as connection:
        connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'beat'")
        )
    assert not one.holds()
    assert other.holds()
    other.release()
