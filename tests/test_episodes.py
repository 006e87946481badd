"""A state that a person should know of is one line when it begins, and one when it ends."""

from __future__ import annotations

from structlog.testing import capture_logs

from cardsync.episodes import Episode


def test_repetitions_are_counted_and_not_logged() -> None:
    now = [100.0]
    with capture_logs() as lines:
        away = Episode("database_away", level="error", clock=lambda: now[0])
        away.is_over()  # it never began
        for _ in range(292):
            away.goes_on(why="connection refused")
        now[0] += 60
        away.is_over()
        away.is_over()
    assert lines == [
        {"event": "database_away", "log_level": "error", "why": "connection refused"},
        {"event": "database_away_ended", "log_level": "warning", "seconds": 60.0, "repeated": 291},
    ]


def test_what_some_meet_and_others_do_not_is_over_once_nobody_met_it_for_a_while() -> None:
    now = [100.0]
    with capture_logs() as lines:
        away = Episode("database_away", clock=lambda: now[0])
        for _ in range(60):
            away.goes_on()
            away.is_over_unless_met(30)
            now[0] += 1
        now[0] += 30
        away.is_over_unless_met(30)
        away.is_over_unless_met(30)
    assert [(line["event"], line.get("repeated")) for line in lines] == [
        ("database_away", None),
        ("database_away_ended", 59),
    ]


def test_each_episode_counts_from_its_own_beginning() -> None:
    with capture_logs() as lines:
        away = Episode("broker_away")
        for is_on in (True, True, False, True, False):
            away.note(is_on)
    assert [(line["event"], line.get("repeated")) for line in lines] == [
        ("broker_away", None),
        ("broker_away_ended", 1),
        ("broker_away", None),
        ("broker_away_ended", 0),
    ]
