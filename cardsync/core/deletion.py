"""A deletion's state machine: why each phase exists, what moves it, and what a list says of a deletion under way.

Somebody asks for a card to be deleted. The card leaves ``active`` at once, in the asker's transaction. From then on one question
is open: *does Ottu still have the card?* Ottu's answers to DELETE do not settle it: a time-out may have deleted the card, a 404
may be a wrong route, a 204 may be followed by a list that shows the card for another two minutes. So **only a list that was
asked for after the last call settles it**, and the phases say what is known until one comes:

- ``asked``: Ottu certainly has not deleted the card since a list last showed it. Nothing was called yet, or a list has shown the
  card since, or Ottu certainly did nothing (429, refused credentials). This is the only phase from which DELETE is called.
- ``calling``: DELETE was called, or is being called, and no answer is known. The card may be gone.
- ``proving``: Ottu said that the card is gone (2xx or 404). A list has to show that.
- ``refused``: Ottu refused with another 4xx. It may be the card's own refusal (it serves an agreement) or our credentials'.
- ``done``: a list asked for after the call lacks the card. The end.
- ``blocked``: Ottu refused, and a list shows the card: the card is active again. It may be unlocked later, or replayed.
- ``failed``: 24 hours of tries are over, and Ottu certainly still has the card, or was never asked: the card is active again.

What moves it: the call itself (``call_begins``, then one of four answers), a list (``listed``, ``listed_enough``, ``absent``), a
list that could not be had (``unlisted``), time (``gave_up``), another card that takes the agreement over (``unlocked``), and an
operator (``cancelled``, ``replayed``). One that the brake on requests holds is ``asked`` and never due, until an operator
releases or cancels it. A restored backup brings back open deletions, and does not say what became of them since: the card may
have been deleted, and saved again. Each of them is ``restored``: it is ``asked`` and never due until an operator replays or
cancels it, and a list that lacks the card settles it as always.

**While the card's fate is unknown it stays out of active.** From ``calling`` and ``proving`` no failure leads to ``failed``: if
no list can be had, the deletion stays under way for as long as that lasts, its ``error`` and its receipt say why, and its card
stays ``deleting``. After 24 hours that costs what the customer's back-off costs, at most eight lists a day. A list that comes
later settles it: the card is not there (``done``), or it is, and then the 24 hours count.

Rejected: to give such a deletion up after 24 hours and keep the card out of active. A replay could do nothing for it but wait
for the same list, and a later list would have to bring an ended deletion back to ``done``. Rejected too, since it was wrong: to
give it up and serve the card again, token included, although Ottu had said that it is gone.

Rules, each tested by name:

- A cell that is absent from the table raises: no deletion is moved by an event that its phase does not know.
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
    "declined",  # another 4xx: perhaps the card is locked
    "no_answer",  # a time-out, a cut, 5xx: Ottu may have deleted it
    "not_done",  # 401 or 429, or a refusal that is our credentials': Ottu certainly did nothing
    "listed",  # a list asked for since shows the card
    "listed_enough",  # it still does, after all the looks that a lag deserves
    "absent",  # a list asked for since does not show it
    "unlisted",  # a list was asked for since, and none could be had
    "gave_up",  # the time for tries is over, and Ottu certainly did nothing since a list last showed the card
    "cancelled",  # an operator does not want it, and nothing was called
    "unlocked",  # no agreement is charged to the card any more
    "replayed",  # an operator wants it tried again
    "restored",  # it came back with a backup: what became of it since is not known
]

TABLE: Final[Mapping[Phase, Mapping[Event, Phase]]] = {
    "asked": {
        "call_begins": "calling",
        "listed": "asked",
        "absent": "done",
        "gave_up": "failed",
        "cancelled": "failed",
        "replayed": "asked",
        "restored": "asked",
    },
    "calling": {
        "said_gone": "proving",
        "declined": "refused",
        "no_answer": "calling",
        "not_done": "asked",
        "listed": "asked",
        "absent": "done",
        "unlisted": "calling",
        "gave_up": "failed",
        "restored": "asked",
    },
    "proving": {
        "listed": "proving",
        "listed_enough": "asked",
        "absent": "done",
        "unlisted": "proving",
        "gave_up": "failed",
        "restored": "asked",
    },
    "refused": {
        "not_done": "asked",
        "listed": "blocked",
        "absent": "done",
        "unlisted": "refused",
        "gave_up": "failed",
        "restored": "asked",
    },
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
HELD_SINCE_RESTORE: Final = "held: a backup was restored"  # the error of what an operator must decide
OPEN: Final[tuple[Phase, ...]] = ("asked", "calling", "proving", "refused")

# When to look again at a card that Ottu says is gone and still lists, in seconds after the call: a lag of seconds is found soon,
# and one of two minutes costs six calls. What shows longer than that was not deleted, whatever the answer said.
LOOKS_AFTER_CALL_SECONDS: Final = (2.0, 5.0, 15.0, 30.0, 60.0, 120.0)
SOONEST_LOOK_SECONDS: Final = 0.5
GIVE_UP_SECONDS: Final = 86_400.0
# The one refusal of a deletion that may be about our credentials. With another status it was refused for what it asks, whatever
# becomes of a list with the same key.
FORBIDDEN: Final = 403


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalDeletion:
    """A deletion as a list meets it.

    ``since_no`` is the number of the request or of the last call, whichever is newer: a list asked for before says nothing.
    ``tried_since`` is when the 24 hours began: at the request, at a replay, or when the card was unlocked; ``tried_seconds``
    ago, by the database's clock.
    """

    deletion_id: uuid.UUID
    phase: Phase
    since_no: int
    tried_since: dt.datetime
    called_at: dt.datetime | None = None
    failures: int = 0
    when_unlocked: bool = False
    tried_seconds: float = 0.0


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


def unlisted(phase: Phase, *, explains_refusal: bool, refund: bool, is_over: bool) -> Event:
    """Return what a list that could not be had says of a deletion that was called for.

    ``explains_refusal``: the list was refused as the deletion was (403), so that the refusal was not the card's.
    ``refund``: it is no failed try. Only what was refused can be given up: of the others it is not known whether the card is
    there.
    """
    if phase != "refused":
        return "unlisted"
    if is_over and not refund:
        return "gave_up"
    return "not_done" if explains_refusal else "unlisted"


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
