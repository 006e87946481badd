"""A hint that goes to disk is dated by the database's clock, whatever this host's clock says."""

from __future__ import annotations

import datetime as dt

from flask import Flask
from sqlalchemy import Engine, text

from cardsync.db.clock import DatabaseClock
from cardsync.web import create_drainer
from cardsync.web.ingest.endpoint import Endpoint
from cardsync.web.services import Services
from tests import payloads
from tests.waiting import until

NOON = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)
BEHIND = dt.timedelta(minutes=10)


def test_the_time_goes_on_from_what_was_told_and_is_the_hosts_before() -> None:
    seconds = [100.0]
    clock = DatabaseClock(steady=lambda: seconds[0], host=lambda: NOON - BEHIND)
    assert clock.now() == NOON - BEHIND
    clock.told(NOON)
    seconds[0] += 2.5
    assert clock.now() == NOON + dt.timedelta(seconds=2.5)


def test_a_hint_of_the_disk_is_not_earlier_than_the_newest_row_though_the_hosts_clock_is_behind(
    app: Flask, engine: Engine
) -> None:
    here, endpoint = Services.of_app(app), app.extensions[Endpoint.__name__]
    here.clock._host = lambda: dt.datetime.now(dt.UTC) - BEHIND
    drainer = create_drainer(app)
    try:
        until(lambda: here.clock._told is not None, "the database told its time")
        with engine.connect() as connection:
            newest = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        until(lambda: here.clock.now() >= newest, "its clock goes on")
        arrived = endpoint.examine(payloads.signed(payloads.payment())).received_at
        assert newest <= arrived < newest + BEHIND
    finally:
        drainer.close()
