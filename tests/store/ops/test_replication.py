"""What the server says of itself: its life, and commits that wait for a standby."""

from __future__ import annotations

from sqlalchemy import Engine, text

from cardsync.store.ops import replication


def test_the_state_has_the_newest_evidence_number_for_the_web_too(web_engine: Engine) -> None:
    with web_engine.connect() as connection:
        drawn = connection.execute(text("SELECT nextval('cardsync.observation_no')")).scalar_one()
        state = replication.state(connection)
        assert state is not None
        assert state.evidence_no == drawn
        assert (state.timeline, state.system_identifier > 0) == (1, True)


def test_nobody_waits_where_there_is_no_standby(web_engine: Engine) -> None:
    with web_engine.connect() as connection:
        assert replication.commits_that_wait(connection, longer_than_seconds=0.0) == 0
