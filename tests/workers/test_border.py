"""The border of a worker: a trouble is one line, however many jobs meet it, and one when it is over."""

from __future__ import annotations

import pytest
from psycopg import OperationalError as DriverOperationalError
from psycopg import errors as driver_errors
from sqlalchemy.exc import InternalError, OperationalError, ProgrammingError
from structlog.testing import capture_logs

from workers.border import QUIET_SECONDS, Border

AWAY = OperationalError(
    "SELECT 'a-token'",
    {},
    DriverOperationalError("connection to server failed: Connection refused, password a-token"),
)
NO_RIGHT = ProgrammingError("SELECT 'a-token'", {}, driver_errors.InsufficientPrivilege("a-token"))
DEADLOCK = OperationalError("SELECT 'a-token'", {}, driver_errors.DeadlockDetected("a-token"))


class Clock:
    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def border(clock: Clock) -> Border:
    return Border(clock)


def run(border: Border, task: str, error: Exception | None = None) -> None:
    """A job that ends by this error, or succeeds."""
    with border.around(task):
        if error is not None:
            raise error


def told(lines: list[dict[str, object]], *facts: str) -> list[tuple[object, ...]]:
    return [(line["event"], *(line.get(fact) for fact in facts)) for line in lines]


def test_an_outage_is_one_line_at_its_beginning_and_one_at_its_end(border: Border) -> None:
    with capture_logs() as lines:
        for _ in range(5):
            run(border, "sweep", AWAY)
        run(border, "sweep")
        run(border, "sweep")
    assert told(lines, "why", "repeated") == [
        ("database_lost", "connection refused", None),
        ("database_lost_ended", None, 4),
    ]
    assert "a-token" not in str(lines)


def test_an_outage_is_not_over_while_one_task_still_meets_it_though_another_succeeds(border: Border) -> None:
    read_only = InternalError("SELECT 1", {}, driver_errors.ReadOnlySqlTransaction(""), connection_invalidated=True)
    with capture_logs() as lines:
        for _ in range(5):  # a read-only database: what only reads succeeds
            run(border, "sweep", read_only)
            run(border, "calendar")
        run(border, "sweep")
    assert told(lines, "why", "repeated") == [("database_lost", "read-only", None), ("database_lost_ended", None, 4)]


def test_an_outage_that_a_task_met_which_never_runs_again_ends_with_the_others(border: Border, clock: Clock) -> None:
    with capture_logs() as lines:
        run(border, "delete", AWAY)
        run(border, "sweep", AWAY)
        run(border, "sweep")
        clock.seconds += QUIET_SECONDS + 1
        run(border, "sweep")
    assert told(lines) == [("database_lost",), ("database_lost_ended",)]


def test_what_the_database_refuses_is_one_line_however_many_jobs_meet_it(border: Border, clock: Clock) -> None:
    with capture_logs() as lines:
        for _ in range(50):
            run(border, "look", NO_RIGHT)
            run(border, "look")  # about another row
            clock.seconds += 1
        clock.seconds += QUIET_SECONDS
        run(border, "sweep")
    assert told(lines, "task", "error", "sqlstate", "why", "repeated") == [
        ("task_failed", "look", "ProgrammingError", "42501", "permission denied", None),
        ("task_failed_ended", "look", "ProgrammingError", None, None, 49),
    ]
    assert "a-token" not in str(lines)


def test_each_task_and_each_refusal_has_lines_of_its_own(border: Border) -> None:
    with capture_logs() as lines:
        for error in (NO_RIGHT, DEADLOCK, NO_RIGHT, DEADLOCK):
            run(border, "look", error)
            run(border, "delete", error)
    assert told(lines, "task", "why") == [
        ("task_failed", "look", "permission denied"),
        ("task_failed", "delete", "permission denied"),
        ("task_failed", "look", "deadlock"),
        ("task_failed", "delete", "deadlock"),
    ]


def test_an_unforeseen_error_is_an_error_by_its_class_and_its_place(border: Border) -> None:
    with capture_logs() as lines:
        for _ in range(3):
            run(border, "look", ValueError("a-token"))
    assert told(lines, "log_level", "error") == [("task_failed", "error", "ValueError")]
    assert lines[0]["where"]
    assert "a-token" not in str(lines)
