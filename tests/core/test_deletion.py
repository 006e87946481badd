"""The deletion's table, cell by cell, and what a list says of a deletion under way."""

from __future__ import annotations

import datetime as dt
import itertools
import uuid
from typing import get_args

import pytest

from cardsync.core.deletion import (
    GIVE_UP_SECONDS,
    LOOKS_AFTER_CALL_SECONDS,
    OPEN,
    SOONEST_LOOK_SECONDS,
    STATUS,
    TABLE,
    Event,
    LocalDeletion,
    Phase,
    Seen,
    next_phase,
    seen,
    unlisted,
)

PHASES: tuple[Phase, ...] = get_args(Phase)
EVENTS: tuple[Event, ...] = get_args(Event)
NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)

# Written out once more, and not derived: a slip in the table shows as a difference.
CELLS: dict[tuple[Phase, Event], Phase] = {
    ("asked", "call_begins"): "calling",
    ("asked", "listed"): "asked",
    ("asked", "absent"): "done",
    ("asked", "gave_up"): "failed",
    ("asked", "cancelled"): "failed",
    ("asked", "replayed"): "asked",
    ("asked", "restored"): "asked",
    ("calling", "said_gone"): "proving",
    ("calling", "declined"): "refused",
    ("calling", "no_answer"): "calling",
    ("calling", "not_done"): "asked",
    ("calling", "listed"): "asked",
    ("calling", "absent"): "done",
    ("calling", "unlisted"): "calling",
    ("calling", "gave_up"): "failed",
    ("calling", "restored"): "asked",
    ("proving", "listed"): "proving",
    ("proving", "listed_enough"): "asked",
    ("proving", "absent"): "done",
    ("proving", "unlisted"): "proving",
    ("proving", "gave_up"): "failed",
    ("proving", "restored"): "asked",
    ("refused", "not_done"): "asked",
    ("refused", "listed"): "blocked",
    ("refused", "absent"): "done",
    ("refused", "unlisted"): "refused",
    ("refused", "gave_up"): "failed",
    ("refused", "restored"): "asked",
    ("blocked", "unlocked"): "asked",
    ("blocked", "replayed"): "asked",
    ("failed", "replayed"): "asked",
}


@pytest.mark.parametrize(("phase", "event"), list(itertools.product(PHASES, EVENTS)))
def test_every_cell_of_the_table(phase: Phase, event: Event) -> None:
    if (phase, event) in CELLS:
        assert next_phase(phase, event) == CELLS[phase, event]
    else:
        with pytest.raises(ValueError, match=f"{phase} knows no event {event}"):
            next_phase(phase, event)


def test_the_table_has_every_phase_and_a_public_status_for_each() -> None:
    assert set(TABLE) == set(STATUS) == set(PHASES)


def test_only_a_list_leads_to_done_and_done_is_the_end() -> None:
    to_done = {event for phase in PHASES for event, after in TABLE[phase].items() if after == "done"}
    assert to_done == {"absent"}
    assert TABLE["done"] == {}


def test_only_a_list_or_a_certain_no_leads_from_a_call_to_the_next_one() -> None:
    for phase in ("calling", "proving", "refused"):
        back = {event for event, after in TABLE[phase].items() if after == "asked"}
        back -= {"restored"}  # held until an operator lets it go
        assert back <= {"listed", "listed_enough", "not_done"}
    assert [p for p in PHASES if "call_begins" in TABLE[p]] == ["asked"]


def local(
    phase: Phase, *, since_no: int = 10, called_seconds_ago: float = 1, tried_seconds: float = 60
) -> LocalDeletion:
    return LocalDeletion(
        deletion_id=uuid.UUID(int=1),
        phase=phase,
        since_no=since_no,
        tried_since=NOW - dt.timedelta(seconds=tried_seconds),
        called_at=NOW - dt.timedelta(seconds=called_seconds_ago),
    )


def look(deletion: LocalDeletion, *, listed: bool, number: int = 11) -> Seen | None:
    return seen(deletion, number=number, asked_at=NOW, listed=listed)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("number", [9, 10])
def test_a_list_asked_for_before_says_nothing(phase: Phase, listed: bool, number: int) -> None:
    assert look(local(phase), listed=listed, number=number) is None


@pytest.mark.parametrize("phase", PHASES)
def test_absence_is_the_proof_of_every_open_deletion_and_of_no_closed_one(phase: Phase) -> None:
    assert look(local(phase), listed=False) == (Seen("absent") if phase in OPEN else None)


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        ("asked", None),
        ("calling", Seen("listed")),
        ("refused", Seen("listed")),
        ("done", None),
        ("blocked", None),
        ("failed", None),
    ],
)
def test_what_a_listed_card_means_in_each_phase(phase: Phase, expected: Seen | None) -> None:
    assert look(local(phase), listed=True) == expected


def test_a_card_that_ottu_still_lists_is_looked_at_again_at_the_given_times() -> None:
    age, looks = 0.1, []
    while True:
        said = look(local("proving", called_seconds_ago=age), listed=True)
        assert said is not None
        if said.look_again_seconds is None:
            break
        assert said.event == "listed"
        age += said.look_again_seconds
        looks.append(age)
    assert looks == [pytest.approx(s) for s in LOOKS_AFTER_CALL_SECONDS]
    assert said.event == "listed_enough"


def test_no_look_comes_at_once_after_another() -> None:
    said = look(local("proving", called_seconds_ago=4.9999), listed=True)
    assert said == Seen("listed", SOONEST_LOOK_SECONDS)


@pytest.mark.parametrize("phase", ["calling", "proving"])
def test_what_would_be_one_more_attempt_after_24_hours_is_the_end(phase: Phase) -> None:
    late = local(phase, called_seconds_ago=200, tried_seconds=GIVE_UP_SECONDS)
    assert look(late, listed=True) == Seen("gave_up")
    assert look(late, listed=False) == Seen("absent")


@pytest.mark.parametrize("phase", ["calling", "proving"])
@pytest.mark.parametrize(("explains_refusal", "refund"), list(itertools.product([True, False], repeat=2)))
def test_while_no_list_can_be_had_a_card_that_may_be_gone_is_never_given_up(
    phase: Phase, explains_refusal: bool, refund: bool
) -> None:
    said = unlisted(phase, explains_refusal=explains_refusal, refund=refund, is_over=True)
    assert next_phase(phase, said) == phase


@pytest.mark.parametrize(
    ("explains_refusal", "refund", "is_over", "expected"),
    [
        (False, False, False, "refused"),
        (False, False, True, "failed"),
        (True, False, False, "asked"),
        (True, False, True, "failed"),
        (True, True, False, "asked"),
        (True, True, True, "asked"),  # our credentials: no try, and so no end
    ],
)
def test_a_refused_deletion_whose_list_is_refused_too_is_tried_again_until_its_time_is_over(
    explains_refusal: bool, refund: bool, is_over: bool, expected: Phase
) -> None:
    said = unlisted("refused", explains_refusal=explains_refusal, refund=refund, is_over=is_over)
    assert next_phase("refused", said) == expected


def test_a_refusal_stays_a_refusal_after_24_hours() -> None:
    assert look(local("refused", tried_seconds=2 * GIVE_UP_SECONDS), listed=True) == Seen("listed")


def test_a_lag_is_waited_for_also_at_the_24th_hour() -> None:
    said = look(local("proving", called_seconds_ago=1, tried_seconds=GIVE_UP_SECONDS), listed=True)
    assert said is not None
    assert said.event == "listed"
