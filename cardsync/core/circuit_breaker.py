"""The circuit breaker before Ottu: when calls stop for everybody, which call may try again, and what lets all calls go on.

One breaker stands before Ottu for all processes. It has three states.

**Closed.** Calls are made. The breaker remembers two rows of customers: those whose calls *failed* one after the other (no
answer, 5xx, something that is not JSON), and those whose lists were *odd* one after the other (a whole answer in JSON that is
not to be believed, or a refusal of this list). A list that is believed, or a deletion that is done, clears both rows. A row also
ends when nothing was added to it for two minutes: what failed long ago says nothing of now.

**Open because Ottu is down.** Three different customers failed in a row: that is Ottu's trouble, not theirs. Twenty different
customers with odd lists in a row are Ottu's trouble too. The two numbers differ because the two faults do. A customer can have an
odd list for ever (an id that Ottu normalises, another customer's card), and where one customer in ten is like that, three in a
row come every thousand calls, but twenty in a row never. If the breaker never opened for odd lists, an Ottu that answers
nonsense to everybody for an hour would leave each customer with a back-off of its own, up to six hours, instead of one for all.

**Open because our credentials are refused.** One refusal is enough. The exception is made before the word comes here: while
other customers' lists work, a refusal is that customer's own trouble, and the word is *odd* (``core.trouble``).

An open breaker lets one call at a time through, a *probe*, after waits that grow from 2 to 20 seconds. Only a list may be a
probe: a DELETE that times out is expensive to settle, and a 403 to it may be the card's own. Any success closes the breaker at
once. Other words that arrive while it is open, from calls that began before it opened, change nothing, unless they are the
probe's. The probe's end says: stay open, close (Ottu is there after all), or change the reason.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from typing import Final, Literal

Reason = Literal["down", "credentials"]
Word = Literal[
    "answered",  # a list to believe, or a deletion that was done: Ottu is there and takes our credentials
    "rejected",  # a 4xx about one card: Ottu is there; of our credentials and of lists it says nothing
    "odd",  # a whole answer to one customer's list that is not to be believed, or that list's own refusal
    "throttled",
    "credentials_refused",  # 401, or 403 to a list, and no other list works
    "failed",  # no answer, 5xx, or what is no whole answer in JSON
]

# Two customers may fail one after the other by chance; three different ones without a success between are Ottu's trouble.
CUSTOMERS_IN_A_ROW: Final = 3
# Where one customer in four is odd for ever, twenty in a row come once in 10**12 calls.
ODD_CUSTOMERS_IN_A_ROW: Final = 20
# What failed longer ago says nothing of now, and a merchant that calls less often than that needs no breaker.
FORGET_SECONDS: Final = 120.0
FIRST_PROBE_SECONDS: Final = 2.0
# With the waits of calls that were not let through: all customers are back within a minute after Ottu is.
LONGEST_PROBE_SECONDS: Final = 20.0
# A call that comes while a probe is under way is tried again soon, though the probe may last as long as a call.
WHILE_PROBING_SECONDS: Final = 5.0
# More than any wait of ours: a moment further away than that was written before the clock was set back.
LONGEST_SHUT_SECONDS: Final = 3_600.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """What is known. ``shut_until`` is when the next probe may begin; ``probing`` is whose call is one (0: an operator's).

    ``failing`` and ``odd`` are the two rows of customers, ``failed_at`` is when either last grew. While the breaker is open,
    ``odd`` holds the row that opened it, or nothing if something else did.
    """

    reason: Reason | None = None
    opened_at: dt.datetime | None = None
    shut_until: dt.datetime | None = None
    probing: int | None = None
    failing: tuple[int, ...] = ()
    failed_at: dt.datetime | None = None
    odd: tuple[int, ...] = ()


CLOSED: Final = Breaker()


def seconds_shut(until: dt.datetime | None, now: dt.datetime) -> float:
    """Return the seconds until a moment; 0 if it is over, or so far away that the clock must have been set back."""
    seconds = 0.0 if until is None else (until - now).total_seconds()
    return seconds if 0 < seconds <= LONGEST_SHUT_SECONDS else 0.0


def seconds_to_wait(breaker: Breaker, who: int, now: dt.datetime, *, may_probe: bool) -> float:
    """Return the seconds until this call may be tried again; 0 if it may be made now, as a probe where the breaker is open."""
    if breaker.reason is None or (may_probe and breaker.probing == who):
        return 0.0
    seconds = seconds_shut(breaker.shut_until, now)
    if breaker.probing is not None:
        seconds = min(seconds, WHILE_PROBING_SECONDS)
    return seconds if may_probe else max(seconds, FIRST_PROBE_SECONDS)


def let_through(breaker: Breaker, who: int, now: dt.datetime, *, call_seconds: float) -> Breaker:
    """Return the breaker after a call that was allowed; where it is open that call is the probe, for ``call_seconds``."""
    if breaker.reason is None:
        return breaker
    return replace(breaker, probing=who, shut_until=now + dt.timedelta(seconds=call_seconds))


def heard(breaker: Breaker, word: Word, who: int, now: dt.datetime) -> Breaker:
    """Return the breaker after a call about customer ``who`` has ended."""
    if word == "answered":
        return CLOSED
    if breaker.reason is not None:
        return _heard_of_a_probe(breaker, breaker.reason, word, who, now) if breaker.probing == who else breaker
    if word == "credentials_refused":
        return _opened("credentials", now)
    rows = _rows(breaker, now)
    if word == "failed":
        return _one_more_failure(rows, who, now)
    if word == "odd":
        return _one_more_odd_list(rows, who, now)
    return replace(rows, failing=()) if rows.odd else CLOSED  # Ottu is there; of lists nothing was said


def _heard_of_a_probe(breaker: Breaker, reason: Reason, word: Word, who: int, now: dt.datetime) -> Breaker:
    if reason == "down" and word == "credentials_refused":
        return _opened("credentials", now)
    if reason == "down" and not breaker.odd and word in ("rejected", "odd", "throttled"):
        return _one_more_odd_list(CLOSED, who, now) if word == "odd" else CLOSED
    open_seconds = 0.0 if breaker.opened_at is None else (now - breaker.opened_at).total_seconds()
    wait = min(LONGEST_PROBE_SECONDS, max(FIRST_PROBE_SECONDS, open_seconds / 2))
    return replace(
        breaker,
        reason="down" if word == "failed" else reason,
        probing=None,
        shut_until=now + dt.timedelta(seconds=wait),
    )


def _rows(breaker: Breaker, now: dt.datetime) -> Breaker:
    """The rows of a closed breaker, as far as they still say something of now."""
    age_seconds = FORGET_SECONDS if breaker.failed_at is None else abs((now - breaker.failed_at).total_seconds())
    return breaker if age_seconds < FORGET_SECONDS else CLOSED


def _one_more_failure(rows: Breaker, who: int, now: dt.datetime) -> Breaker:
    failing = _with(rows.failing, who)
    if len(failing) >= CUSTOMERS_IN_A_ROW:
        return _opened("down", now)
    return replace(rows, failing=failing, failed_at=now)


def _one_more_odd_list(rows: Breaker, who: int, now: dt.datetime) -> Breaker:
    """Ottu is there, so the row of failures ends; of all lists together one odd one says little, twenty say enough."""
    odd = _with(rows.odd, who)
    if len(odd) >= ODD_CUSTOMERS_IN_A_ROW:
        return replace(_opened("down", now), odd=odd)
    return Breaker(odd=odd, failed_at=now)


def _with(row: tuple[int, ...], who: int) -> tuple[int, ...]:
    return row if who in row else (*row, who)


def _opened(reason: Reason, now: dt.datetime) -> Breaker:
    return Breaker(reason, opened_at=now, shut_until=now + dt.timedelta(seconds=FIRST_PROBE_SECONDS))
