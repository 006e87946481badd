"""The gate before Ottu, which all processes share: the pause and the pace after a 429, and the breaker.

All of it is one row. What happens to it is decided purely (``core.pace``, ``core.breaker``), under the row's lock, by the
database's clock. Whoever makes a call says how it ended (``heard``); without a word from anybody, all opens by itself.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Connection, Row, text

from cardsync.core import breaker as breakers
from cardsync.core import pace as paces
from cardsync.core.allowance import Lane
from cardsync.core.breaker import Breaker, Word
from cardsync.core.pace import Pace
from cardsync.errors import CallsPaused
from cardsync.store import ledger

Reason = Literal["throttled", "down", "credentials"]
BECAUSE: Final[dict[Reason, str]] = {
    "throttled": "throttled by Ottu",
    "down": "Ottu is down",
    "credentials": "credentials refused",
}

# A 429 without ``Retry-After``: long enough to be heard, short enough to be forgotten.
THROTTLED_PAUSE_SECONDS: Final = 5.0
LONGEST_PAUSE_SECONDS: Final = breakers.LONGEST_SHUT_SECONDS
FEW: Final = 5  # one of them is the next probe, and its worker may die
# A refusal while other lists work is the one customer's trouble, and must not stop everybody.
LISTS_WORK_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class _Gate:
    """The row, read at ``now``."""

    now: dt.datetime
    paused_until: dt.datetime | None
    pace: Pace | None
    breaker: Breaker

    @property
    def reason(self) -> Reason | None:
        """Why calls are paused; ``None`` if they are not."""
        if self.breaker.reason is not None:
            return self.breaker.reason
        return "throttled" if breakers.seconds_shut(self.paused_until, self.now) else None

    def seconds_to_wait(self, lane: Lane, who: int, *, may_probe: bool = True) -> float:
        """How long until such a call may be tried again; 0 if it may be made now."""
        return max(
            breakers.seconds_shut(self.paused_until, self.now),
            breakers.seconds_to_wait(self.breaker, who, self.now, may_probe=may_probe),
            paces.seconds_to_wait(self.pace, lane, self.now),
        )


_COLUMNS: Final = """
    clock_timestamp() AS now, paused_until, pace_per_second, pace_since, pace_next_at, breaker_reason, breaker_opened_at,
    breaker_shut_until, breaker_probing, breaker_failing, breaker_failed_at
"""
_READ = text(f"SELECT {_COLUMNS} FROM cardsync.gate")
_LOCK = text(f"SELECT {_COLUMNS} FROM cardsync.gate FOR UPDATE")


def _gate(row: Row[Any]) -> _Gate:
    limited = row.pace_per_second is not None
    return _Gate(
        now=row.now,
        paused_until=row.paused_until,
        pace=Pace(row.pace_per_second, row.pace_since, row.pace_next_at) if limited else None,
        breaker=Breaker(
            reason=row.breaker_reason,
            opened_at=row.breaker_opened_at,
            shut_until=row.breaker_shut_until,
            probing=row.breaker_probing,
            failing=tuple(row.breaker_failing),
            failed_at=row.breaker_failed_at,
        ),
    )


_SAVE = text("""
    UPDATE cardsync.gate
    SET paused_until = :paused_until, paused_because = :paused_because,
        pace_per_second = :per_second, pace_since = :since, pace_next_at = :next_at,
        breaker_reason = :reason, breaker_opened_at = :opened_at, breaker_shut_until = :shut_until,
        breaker_probing = :probing, breaker_failing = :failing, breaker_failed_at = :failed_at
""")


def _save(connection: Connection, paused_until: dt.datetime | None, pace: Pace | None, breaker: Breaker) -> None:
    parameters = {
        "paused_until": paused_until,
        "paused_because": None if paused_until is None else BECAUSE["throttled"],
        "per_second": None if pace is None else pace.per_second,
        "since": None if pace is None else pace.since,
        "next_at": None if pace is None else pace.next_at,
        "reason": breaker.reason,
        "opened_at": breaker.opened_at,
        "shut_until": breaker.shut_until,
        "probing": breaker.probing,
        "failing": list(breaker.failing),
        "failed_at": breaker.failed_at,
    }
    connection.execute(_SAVE, parameters)


def let_through(connection: Connection, lane: Lane, *, who: int, call_seconds: float, may_probe: bool) -> None:
    """Take the gate's row, and let one call pass. Raises ``CallsPaused`` if it must not be made now."""
    gate = _gate(connection.execute(_LOCK).one())
    wait = gate.seconds_to_wait(lane, who, may_probe=may_probe)
    if wait > 0:
        because = f"calls are paused: {BECAUSE[gate.reason]}" if gate.reason else "calls are slowed down after a 429"
        raise CallsPaused(because, retry_after_seconds=wait)
    pace = paces.taken(gate.pace, gate.now)
    breaker = breakers.let_through(gate.breaker, who, gate.now, call_seconds=call_seconds)
    if (pace, breaker) != (gate.pace, gate.breaker):
        _save(connection, gate.paused_until, pace, breaker)


# A success says something new only while failures are remembered: nobody waits for the row's lock to say that all is well.
_ALL_IS_WELL = text("SELECT breaker_reason IS NULL AND breaker_failing = '{}' FROM cardsync.gate")


def heard(connection: Connection, word: Word | None, *, who: int, retry_after_seconds: float | None = None) -> None:
    """Note how a call about customer ``who`` ended; ``None``, that nothing was called, changes nothing."""
    if word is None or (word in ("answered", "rejected") and connection.execute(_ALL_IS_WELL).scalar_one()):
        return
    works = word == "refused" and lists_work(connection, within_seconds=LISTS_WORK_SECONDS)
    gate = _gate(connection.execute(_LOCK).one())
    breaker = breakers.heard(gate.breaker, word, who, gate.now, lists_work=works)
    paused_until, pace = gate.paused_until, gate.pace
    if word == "throttled":
        seconds = THROTTLED_PAUSE_SECONDS if retry_after_seconds is None else retry_after_seconds
        paused_until = gate.now + dt.timedelta(seconds=min(LONGEST_PAUSE_SECONDS, max(0.0, seconds)))
        before = breakers.seconds_shut(gate.paused_until, gate.now)
        if before and gate.paused_until is not None:  # the same word, said to a call that was under way
            paused_until = max(paused_until, gate.paused_until)
        pace = paces.throttled(
            gate.pace,
            gate.now,
            made_per_second=ledger.calls_per_second(connection),
            until=paused_until,
            again=before > 0,
        )
    _save(connection, paused_until, pace, breaker)


_LISTS_WORK = text("""
    SELECT EXISTS (
        SELECT 1 FROM cardsync.observations
        WHERE asked_at > statement_timestamp() - make_interval(secs => :seconds) AND outcome IN ('changed', 'unchanged')
    )
""")


def lists_work(connection: Connection, *, within_seconds: float) -> bool:
    """Tell whether any customer's list was believed lately: then a refusal is that customer's, not our credentials'."""
    work: bool = connection.execute(_LISTS_WORK, {"seconds": within_seconds}).scalar_one()
    return work


# The newest word on our credentials, from whichever list was asked for last.
_DOUBTED = text("""
    SELECT outcome = 'CredentialsRefused' FROM cardsync.observations
    WHERE asked_at > statement_timestamp() - make_interval(secs => :seconds)
      AND outcome IN ('changed', 'unchanged', 'CredentialsRefused')
    ORDER BY asked_at DESC LIMIT 1
""")


def credentials_doubted(connection: Connection) -> bool:
    """Tell whether the last list that told anything of our credentials, within a minute, was refused for them."""
    return bool(connection.execute(_DOUBTED, {"seconds": LISTS_WORK_SECONDS}).scalar_one_or_none())


def waits_for_a_probe(connection: Connection) -> bool:
    """Tell whether the breaker is open: only a list that is let through finds out whether calls may go on."""
    return _gate(connection.execute(_READ).one()).breaker.reason is not None


def seconds_to_wait(connection: Connection, lane: Lane) -> float:
    """How long a caller in this lane should wait before it tries; 0 if it may try now."""
    return _gate(connection.execute(_READ).one()).seconds_to_wait(lane, -1)


def worth_ringing_for(connection: Connection, *, most: int) -> int:
    """How many of those who are due a sweep should ring for: a few while calls are paused, two ticks' calls while slowed down.

    Whoever is rung for in vain costs three transactions; thousands may wait for Ottu to come back.
    """
    gate = _gate(connection.execute(_READ).one())
    rate = paces.now_per_second(gate.pace, gate.now)
    if gate.reason is None and rate is None:
        return most
    return min(most, max(FEW, math.ceil(2 * (rate or 0.0))))


def routine_calls_at_once(connection: Connection) -> float:
    """How many routine calls the gate would let through now: none, one as a probe, or any number."""
    gate = _gate(connection.execute(_READ).one())
    if gate.seconds_to_wait("sweep", -1) > 0:
        return 0.0
    return math.inf if gate.breaker.reason is None else 1.0


@dataclass(frozen=True, slots=True)
class GateState:
    """The shared state as an operator sees it.

    ``paused_because`` holds as long as calls are paused; ``paused_until`` is ``None`` as soon as one may be tried.
    ``calls_per_second`` is the limited pace after a 429, ``None`` without one.
    """

    paused_until: dt.datetime | None
    paused_because: str | None
    brake_engaged_at: dt.datetime | None
    pass_cards: int
    pass_removed: int
    swept_at: dt.datetime | None
    reason: Reason | None = None
    calls_per_second: float | None = None


_STATE = text(f"SELECT {_COLUMNS}, brake_engaged_at, pass_cards, pass_removed, swept_at FROM cardsync.gate")


def state(connection: Connection) -> GateState:
    """Read the shared state."""
    row = connection.execute(_STATE).one()
    gate = _gate(row)
    shut = max(breakers.seconds_shut(m, gate.now) for m in (gate.paused_until, gate.breaker.shut_until))
    return GateState(
        paused_until=gate.now + dt.timedelta(seconds=shut) if shut else None,
        paused_because=None if gate.reason is None else BECAUSE[gate.reason],
        brake_engaged_at=row.brake_engaged_at,
        pass_cards=row.pass_cards,
        pass_removed=row.pass_removed,
        swept_at=row.swept_at,
        reason=gate.reason,
        calls_per_second=paces.now_per_second(gate.pace, gate.now),
    )
