"""The gate before Ottu, which all processes share: an operator's pause, the pause and the pace after a 429, the circuit breaker.

All of it is one row. What happens to it is decided purely (``core.throttle``, ``core.circuit_breaker``), under the row's lock, by
the database's clock. Each caller says how its call ended (``heard``; for an error ``store.calls.failures`` finds the word). If no
caller says anything, the gate opens by itself. Only an operator's pause, which is stronger than all else, ends by an operator's
word alone (``store.console.actions``).
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from sqlalchemy import Connection, text

from cardsync.core import circuit_breaker as breakers
from cardsync.core import throttle as paces
from cardsync.core.call_budget import Lane
from cardsync.core.circuit_breaker import Breaker, Word
from cardsync.core.throttle import Pace
from cardsync.db import Answer, Transaction
from cardsync.errors import CallsPaused
from cardsync.store.calls import ledger

Reason = Literal["throttled", "down", "credentials", "operator"]
BECAUSE: Final[dict[Reason, str]] = {
    "throttled": "throttled by Ottu",
    "down": "Ottu is down",
    "credentials": "credentials refused",
    "operator": "stopped by an operator",
}

# A 429 without ``Retry-After``: long enough to be heard, short enough to be forgotten.
THROTTLED_PAUSE_SECONDS: Final = 5.0
LONGEST_PAUSE_SECONDS: Final = breakers.LONGEST_SHUT_SECONDS
# An operator lets calls go on at any moment: what was put off is tried again soon after that.
OPERATOR_WAIT_SECONDS: Final = 10.0
FEW: Final = 5  # one of them is the next probe, and its worker may die


@dataclass(frozen=True, slots=True)
class _Gate:
    """The row, read at ``now``."""

    now: dt.datetime
    paused_until: dt.datetime | None
    pace: Pace | None
    breaker: Breaker
    is_paused_by_operator: bool

    @property
    def reason(self) -> Reason | None:
        """Why calls are paused; ``None`` if they are not."""
        if self.is_paused_by_operator:
            return "operator"
        if self.breaker.reason is not None:
            return self.breaker.reason
        return "throttled" if breakers.seconds_shut(self.paused_until, self.now) else None

    def seconds_to_wait(self, lane: Lane, who: int, *, may_probe: bool = True) -> float:
        """How long until such a call may be tried again; 0 if it may be made now."""
        return max(
            OPERATOR_WAIT_SECONDS if self.is_paused_by_operator else 0.0,
            breakers.seconds_shut(self.paused_until, self.now),
            breakers.seconds_to_wait(self.breaker, who, self.now, may_probe=may_probe),
            paces.seconds_to_wait(self.pace, lane, self.now),
        )


_COLUMNS: Final = """
    clock_timestamp() AS now, paused_until, pace_per_second, pace_since, pace_next_at, breaker_reason, breaker_opened_at,
    breaker_shut_until, breaker_probing, breaker_failing, breaker_failed_at, breaker_odd, operator_paused_at
"""
_READ = text(f"SELECT {_COLUMNS} FROM cardsync.gate")
_LOCK = text(f"SELECT {_COLUMNS} FROM cardsync.gate FOR UPDATE")


def _gate(row: Any) -> _Gate:
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
            odd=tuple(row.breaker_odd),
        ),
        is_paused_by_operator=row.operator_paused_at is not None,
    )


_SAVE = text("""
    UPDATE cardsync.gate
    SET paused_until = :paused_until, paused_because = :paused_because,
        pace_per_second = :per_second, pace_since = :since, pace_next_at = :next_at,
        breaker_reason = :reason, breaker_opened_at = :opened_at, breaker_shut_until = :shut_until,
        breaker_probing = :probing, breaker_failing = :failing, breaker_failed_at = :failed_at, breaker_odd = :odd
""")


def _save(connection: Transaction, paused_until: dt.datetime | None, pace: Pace | None, breaker: Breaker) -> None:
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
        "odd": list(breaker.odd),
    }
    connection.execute(_SAVE, parameters)


@dataclass(frozen=True, slots=True)
class Passing:
    """The gate's row, locked: what it says of a call now, and what it will be once the permitted calls are made."""

    _read: _Gate
    _now: _Gate

    @property
    def is_free(self) -> bool:
        """Whether there is no pause, no limited pace, and the breaker is closed."""
        return self._now.reason is None and paces.now_per_second(self._now.pace, self._now.now) is None

    def refusal(self, lane: Lane, who: int, *, may_probe: bool) -> CallsPaused | None:
        """Why such a call must not be made now; ``None`` if it may."""
        wait = self._now.seconds_to_wait(lane, who, may_probe=may_probe)
        if wait <= 0:
            return None
        reason = self._now.reason
        because = f"calls are paused: {BECAUSE[reason]}" if reason else "calls are slowed down after a 429"
        return CallsPaused(because, retry_after_seconds=wait)

    def after_a_call(self, who: int, *, call_seconds: float) -> Passing:
        """The same after a call about customer ``who`` was permitted."""
        pace = paces.taken(self._now.pace, self._now.now)
        breaker = breakers.let_through(self._now.breaker, who, self._now.now, call_seconds=call_seconds)
        return Passing(self._read, replace(self._now, pace=pace, breaker=breaker))


def lock(connection: Transaction) -> Answer[Passing]:
    """Take the gate's row until the transaction ends."""
    sent = connection.execute(_LOCK)

    def read() -> Passing:
        gate = _gate(sent.one())
        return Passing(gate, gate)

    return read


def save(connection: Transaction, passing: Passing) -> None:
    """Write what the permitted calls changed; mostly nothing."""
    before, after = passing._read, passing._now
    if (after.pace, after.breaker) != (before.pace, before.breaker):
        _save(connection, after.paused_until, after.pace, after.breaker)


@dataclass(frozen=True, slots=True)
class Turn:
    """A state that began or ended with this word, for the log: ``reason`` of a pause, and whether it began."""

    reason: Reason
    began: bool


# A success says something new only while failures are remembered: no call waits for the row's lock to say that all is well.
_ALL_IS_WELL = text("""
    SELECT breaker_reason IS NULL AND breaker_failing = '{}' AND breaker_odd = '{}' FROM cardsync.gate
""")


def all_is_well(connection: Transaction) -> Answer[bool]:
    """Whether no failure is remembered, so that a call that was answered says nothing new."""
    return connection.execute(_ALL_IS_WELL).scalar_one


def heard(
    connection: Connection, word: Word | None, *, who: int, retry_after_seconds: float | None = None
) -> Turn | None:
    """Note how a call about customer ``who`` ended; ``None``, that nothing was called, changes nothing.

    Returns what begins or ends by it.
    """
    if word is None or (word in ("answered", "rejected") and all_is_well(connection)()):
        return None
    gate = _gate(connection.execute(_LOCK).one())
    breaker = breakers.heard(gate.breaker, word, who, gate.now)
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
    return _turn(gate, replace(gate, paused_until=paused_until, pace=pace, breaker=breaker))


def _turn(before: _Gate, after: _Gate) -> Turn | None:
    """What began or ended; the end of a pause or of a limited pace is time's, and no word's."""
    if before.breaker.reason == after.breaker.reason:
        is_new = paces.now_per_second(before.pace, before.now) is None
        return (
            Turn("throttled", began=True) if after.reason == "throttled" and before.reason is None and is_new else None
        )
    if after.breaker.reason is not None:
        return Turn(after.breaker.reason, began=True)
    assert before.breaker.reason is not None
    return Turn(before.breaker.reason, began=False)


def waits_for_a_probe(connection: Connection) -> bool:
    """Tell whether the breaker is open: only a list that is let through finds out whether calls may go on."""
    return _gate(connection.execute(_READ).one()).breaker.reason is not None


def seconds_to_wait(connection: Connection, lane: Lane) -> float:
    """How long a caller in this lane should wait before it tries; 0 if it may try now."""
    return _gate(connection.execute(_READ).one()).seconds_to_wait(lane, -1)


def routine_calls_at_once(connection: Connection) -> float:
    """How many routine calls the gate would let through now: none, one as a probe, or any number."""
    gate = _gate(connection.execute(_READ).one())
    if gate.seconds_to_wait("sweep", -1) > 0:
        return 0.0
    return math.inf if gate.breaker.reason is None else 1.0


@dataclass(frozen=True, slots=True)
class OperatorPause:
    """An operator's pause: whose, since when, and why, in the operator's words."""

    by: str
    since: dt.datetime
    why: str | None


@dataclass(frozen=True, slots=True)
class GateState:
    """The shared state as an operator sees it.

    ``paused_because`` holds as long as calls are paused; ``paused_until`` is ``None`` as soon as one may be tried, and while an
    operator's pause holds, which has no known end. ``breaker`` is the breaker's own reason, whatever else pauses calls.
    ``calls_per_second`` is the limited pace after a 429, ``None`` without one.
    """

    paused_until: dt.datetime | None
    paused_because: str | None
    brake_engaged_at: dt.datetime | None
    swept_at: dt.datetime | None
    reason: Reason | None = None
    calls_per_second: float | None = None
    breaker: breakers.Reason | None = None
    operator_pause: OperatorPause | None = None


_STATE = text(f"""
    SELECT {_COLUMNS}, operator_paused_by, operator_paused_why, brake_engaged_at, swept_at FROM cardsync.gate
""")


def state(connection: Connection) -> GateState:
    """Read the shared state."""
    row = connection.execute(_STATE).one()
    gate = _gate(row)
    shut = max(breakers.seconds_shut(m, gate.now) for m in (gate.paused_until, gate.breaker.shut_until))
    since = row.operator_paused_at
    return GateState(
        paused_until=gate.now + dt.timedelta(seconds=shut) if shut and since is None else None,
        paused_because=None if gate.reason is None else BECAUSE[gate.reason],
        brake_engaged_at=row.brake_engaged_at,
        swept_at=row.swept_at,
        reason=gate.reason,
        calls_per_second=paces.now_per_second(gate.pace, gate.now),
        breaker=gate.breaker.reason,
        operator_pause=None if since is None else OperatorPause(row.operator_paused_by, since, row.operator_paused_why),
    )
