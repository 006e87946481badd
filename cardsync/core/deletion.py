"""A deletion's machine: a table from phase and event to the next phase, and what a list says of a deletion under way.

Rules, each tested by name:

- A cell that is absent from the table raises: no deletion is moved by an event that it does not know.
- The list settles everything. Whatever a call was answered, only a list asked for after it says what became of the card.
- Ottu is never asked again to delete before a list asked for after the last call has shown the card.
- Refusal is believed of the card only when a list works and still shows it.
- What would lead to one more attempt after 24 hours is ``gave_up`` instead. Time in which our own credentials are refused, the
  gate is closed or the budget is used up leads to no attempt, and so to no end either.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Phase = Literal["asked", "calling", "proving", "refused", "done", "blocked", "failed"]
Status = Literal["pending", "in_progress", "done", "blocked", "failed"]
Event = Literal[
    "call_begins",  # the ticket is taken and written down; from here on the call may have happened
    "said_gone",  # 2xx or 404
    "refused",  # another 4xx: perhaps the card is locked
    "no_answer",  # a time-out, a cut, 5xx: Ottu may have deleted it
    "not_done",  # 401 or 429, or a refusal that is our credentials': Ottu certainly did nothing
    "listed",  # a list asked for since shows the card
    "listed_enough",  # it still does, after all the looks that a lag deserves
    "absent",  # a list asked for since does not show it
    "gave_up",
    "unlocked",  # no agreement is charged to the card any more
    "replayed",  # an operator wants it tried again
]

TABLE: Final[Mapping[Phase, Mapping[Event, Phase]]] = {
    "asked": {"call_begins": "calling", "listed": "asked", "absent": "done", "gave_up": "failed"},
    "calling": {
        "said_gone": "proving",
        "refused": "refused",
        "no_answer": "calling",
        "not_done": "asked",
        "listed": "asked",
        "absent": "done",
        "gave_up": "failed",
    },
    "proving": {"listed": "proving", "listed_enough": "asked", "absent": "done", "gave_up": "failed"},
    "refused": {"not_done": "asked", "listed": "blocked", "absent": "done", "gave_up": "failed"},
    "blocked": {"unlocked": "asked", "replayed": "asked"},
    "failed": {"replayed": "asked"},
    "done": {},
}
STATUS: Final[Mapping[Phase, Status]] = {
    "asked": "pending",
    "calling": "in_progress",
    "proving": "in_progress",
    "refused": "in_progress",
    "done": "done",
    "blocked": "blocked",
    "failed": "failed",
}
OPEN: Final[tuple[Phase, ...]] = ("asked", "calling", "proving", "refused")

# When to look again at a card that Ottu says is gone and still lists, in seconds after the call: a lag of seconds is found soon,
# and one of two minutes costs six calls. What shows longer than that was not deleted, whatever the answer said.
LOOKS_AFTER_CALL_SECONDS: Final = (2.0, 5.0, 15.0, 30.0, 60.0, 120.0)
SOONEST_LOOK_SECONDS: Final = 0.5
GIVE_UP_SECONDS: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalDeletion:
    """A deletion as a list meets it.

    ``since_no`` is the number of the request or of the last call, whichever is newer: a list asked for before says nothing.
    ``tried_since`` is when the 24 hours began: at the request, at a replay, or when the card was unlocked.
    """

    deletion_id: uuid.UUID
    phase: Phase
    since_no: int
    tried_since: dt.datetime
    called_at: dt.datetime | None = None
    failures: int = 0
    when_unlocked: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """What a list says of a deletion, and when to ask for the next one if it leaves the question open."""

    event: Event
    look_again_seconds: float | None = None


def next_phase(phase: Phase, event: Event) -> Phase:
    """Return the phase that follows. Raises ``ValueError`` for an event that this phase does not know."""
    following = TABLE[phase].get(event)
    if following is None:
        raise ValueError(f"a deletion that is {phase} knows no event {event}")
    return following


def is_over(tried_since: dt.datetime, now: dt.datetime) -> bool:
    """Tell whether the time for attempts is over."""
    return (now - tried_since).total_seconds() >= GIVE_UP_SECONDS


def seen(deletion: LocalDeletion, *, number: int, asked_at: dt.datetime, listed: bool) -> Seen | None:
    """Return what a list, asked for under ``number``, says of the deletion; ``None`` if it says nothing new."""
    if deletion.phase not in OPEN or number <= deletion.since_no:
        return None
    if not listed:
        return Seen("absent")
    if deletion.phase == "asked":
        return None
    if deletion.phase == "refused":
        return Seen("listed")
    look = _next_look(deletion, asked_at) if deletion.phase == "proving" else None
    if look is not None:
        return Seen("listed", look)
    if is_over(deletion.tried_since, asked_at):
        return Seen("gave_up")
    return Seen("listed_enough" if deletion.phase == "proving" else "listed")


def _next_look(deletion: LocalDeletion, asked_at: dt.datetime) -> float | None:
    """The seconds until the next look that a lag deserves; ``None`` after the last one."""
    assert deletion.called_at is not None
    age_seconds = (asked_at - deletion.called_at).total_seconds()
    later = (look for look in LOOKS_AFTER_CALL_SECONDS if look > age_seconds)
    look = next(later, None)
    return None if look is None else max(SOONEST_LOOK_SECONDS, look - age_seconds)
