"""The border of a worker: a database that is away is one line, however many jobs meet it, and one when it is back."""

from __future__ import annotations

import pytest
from psycopg import OperationalError as DriverOperationalError
from psycopg import errors as driver_errors
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from cardsync.episodes import Episode
from workers import border
from workers.border import at_the_border


@pytest.fixture(autouse=True)
def _no_outage_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another test of this process may have left one, whose beginning would then be told already."""
    monkeypatch.setattr(border, "_away", Episode("database_lost"))


def fail(error: Exception) -> None:
    with at_the_border("sweep"):
        raise OperationalError("SELECT 'a-token'", {}, error)


def test_an_outage_is_one_line_at_its_beginning_and_one_at_its_end() -> None:
    with capture_logs() as lines:
        for _ in range(5):
            fail(DriverOperationalError("connection to server failed: Connection refused, password a-token"))
        with at_the_border("sweep"):
            pass
    assert [(line["event"], line.get("why"), line.get("repeated")) for line in lines] == [
        ("database_lost", "connection refused", None),
        ("database_lost_ended", None, 4),
    ]
    assert "a-token" not in str(lines)


def test_a_statement_that_the_database_refuses_is_told_each_time() -> None:
    with capture_logs() as lines:
        for _ in range(2):
            fail(driver_errors.DeadlockDetected("a-token"))
    assert [(line["event"], line["why"]) for line in lines] == [("task_failed", "deadlock")] * 2
    assert "a-token" not in str(lines)
