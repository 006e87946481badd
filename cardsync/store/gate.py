"""What all processes share before they call Ottu or remove cards: the budget, the pause, the brake, the pace of sweeps."""

from __future__ import annotations

import datetime as dt
import hmac
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from cardsync.errors import (
    BudgetSpent,
    CallsPaused,
    CardsyncError,
    CredentialsRefused,
    Misconfigured,
    OttuThrottled,
)
from cardsync.store.customers import Lane

LONGEST_PAUSE_SECONDS: Final = 3_600.0
# Of the allowance, what routine looks may use up; the rest is kept for hints and deletions, whatever the sweeps want.
ROUTINE_SHARE: Final = 0.9
PASS_SECONDS: Final = 86_400  # one pass of sweeps, for the brake: a day, the span that the budget of calls is given for

# While Ottu refuses our credentials no customer's attempt can succeed: one try in this time tells when they work again. A
# refusal while other lists work is the one customer's trouble, and must not stop everybody.
CREDENTIALS_PAUSE_SECONDS: Final = 20.0
LISTS_WORK_SECONDS: Final = 60.0
# A 429 without ``Retry-After``: long enough to be heard, short enough to be forgotten.
THROTTLED_PAUSE_SECONDS: Final = 5.0

# The lock on the one row makes counting and taking one step for all processes. Whether Ottu's day is a calendar day or the
# last 24 hours is not said; the last 24 hours is the stricter reading, and a minute is added for the granularity.
_LOCK = text("""
    SELECT paused_until, paused_because, extract(epoch FROM paused_until - clock_timestamp())::float8 AS paused_seconds
    FROM cardsync.gate FOR UPDATE
""")
_SPENT = text("""
    SELECT coalesce(sum(calls), 0)::bigint AS calls,
           extract(epoch FROM min(minute) + interval '1441 minutes' - clock_timestamp())::float8 AS frees_in_seconds
    FROM cardsync.call_minutes WHERE minute > statement_timestamp() - interval '1441 minutes'
""")
_COUNT = text("""
    INSERT INTO cardsync.call_minutes AS m (minute, lane, calls)
    VALUES (date_trunc('minute', clock_timestamp()), :lane, 1)
    ON CONFLICT (minute, lane) DO UPDATE SET calls = m.calls + 1
""")


def spend_call(connection: Connection, lane: Lane, *, daily_calls: int) -> None:
    """Count one call before it is made. Raises ``CallsPaused`` or ``BudgetSpent`` if it must not be made now."""
    gate = connection.execute(_LOCK).one()
    if gate.paused_seconds is not None and gate.paused_seconds > 0:
        raise CallsPaused(f"calls are paused: {gate.paused_because}", retry_after_seconds=gate.paused_seconds)
    spent = connection.execute(_SPENT).one()
    allowed = daily_calls * ROUTINE_SHARE if lane in ("sweep", "audit") else daily_calls
    if spent.calls >= allowed:
        wait = max(1.0, min(LONGEST_PAUSE_SECONDS, spent.frees_in_seconds or 1.0))
        raise BudgetSpent("the calls of the last 24 hours are used up", retry_after_seconds=wait)
    connection.execute(_COUNT, {"lane": lane})


def calls_left(connection: Connection, *, daily_calls: int) -> int:
    """How many calls the allowance of the last 24 hours still has."""
    spent: int = connection.execute(_SPENT).one().calls
    return max(0, daily_calls - spent)


_PAUSE = text("""
    UPDATE cardsync.gate
    SET paused_until = greatest(paused_until, clock_timestamp() + make_interval(secs => :seconds)), paused_because = :because
""")


def pause_calls(connection: Connection, *, seconds: float, because: str) -> None:
    """Close the gate for everybody, for a while that is bounded; it opens by itself."""
    connection.execute(_PAUSE, {"seconds": min(LONGEST_PAUSE_SECONDS, max(0.0, seconds)), "because": because})


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


def close_if_it_is_everybodys(connection: Connection, error: CardsyncError) -> None:
    """Close the gate for a while if what a call ran into would meet everybody's calls."""
    if isinstance(error, OttuThrottled):
        seconds = error.retry_after_seconds or THROTTLED_PAUSE_SECONDS
        pause_calls(connection, seconds=seconds, because="throttled by Ottu")
    elif isinstance(error, CredentialsRefused) and not lists_work(connection, within_seconds=LISTS_WORK_SECONDS):
        pause_calls(connection, seconds=CREDENTIALS_PAUSE_SECONDS, because="credentials refused")


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


@dataclass(frozen=True, slots=True)
class GateState:
    """The shared state as an operator sees it."""

    paused_until: dt.datetime | None
    paused_because: str | None
    brake_engaged_at: dt.datetime | None
    pass_cards: int
    pass_removed: int
    swept_at: dt.datetime | None


_STATE = text("""
    SELECT CASE WHEN paused_until > clock_timestamp() THEN paused_until END AS paused_until,
           CASE WHEN paused_until > clock_timestamp() THEN paused_because END AS paused_because,
           brake_engaged_at, pass_cards, pass_removed, swept_at
    FROM cardsync.gate
""")


def state(connection: Connection) -> GateState:
    """Read the shared state."""
    return GateState(*connection.execute(_STATE).one())


_BRAKE = text("SELECT brake_engaged_at, pass_cards, pass_removed FROM cardsync.gate FOR UPDATE")
_ENGAGE = text("UPDATE cardsync.gate SET brake_engaged_at = clock_timestamp() WHERE brake_engaged_at IS NULL")
_COUNT_REMOVED = text("UPDATE cardsync.gate SET pass_removed = pass_removed + :count")


def may_remove(connection: Connection, count: int, *, sweeping: bool, share: float, floor: int) -> bool:
    """Tell whether ``count`` cards may be removed for their absence; a sweep that goes too far engages the brake.

    An empty list for everybody is far likelier a fault at Ottu's than the truth: when one pass of sweeps would remove more
    than ``share`` of all cards (or ``floor``, if that is more), removals stop for all until an operator releases them.
    """
    if count == 0:
        return True
    brake = connection.execute(_BRAKE).one()
    if brake.brake_engaged_at is not None:
        return False
    if not sweeping:
        return True
    if brake.pass_removed + count > max(floor, share * brake.pass_cards):
        connection.execute(_ENGAGE)
        return False
    connection.execute(_COUNT_REMOVED, {"count": count})
    return True


_FORGET_CALLS = text("DELETE FROM cardsync.call_minutes WHERE minute < statement_timestamp() - interval '2 days'")
_BEGIN_PASS = text("""
    UPDATE cardsync.gate
    SET pass_started_at = clock_timestamp(), pass_removed = 0,
        pass_cards = (SELECT count(*) FROM cardsync.cards WHERE status = 'active')
    WHERE pass_started_at IS NULL OR pass_started_at < clock_timestamp() - make_interval(secs => :pass_seconds)
""")
_RELEASE = text("""
    UPDATE cardsync.gate
    SET brake_engaged_at = NULL, pass_started_at = clock_timestamp(), pass_removed = 0,
        pass_cards = (SELECT count(*) FROM cardsync.cards WHERE status = 'active')
    WHERE brake_engaged_at IS NOT NULL
""")


def begin_pass_if_over(connection: Connection) -> None:
    """Begin a new pass of sweeps when the last one is a day old; the brake measures its removals against the cards now."""
    if connection.execute(_BEGIN_PASS, {"pass_seconds": PASS_SECONDS}).rowcount:
        connection.execute(_FORGET_CALLS)


def release_brake(connection: Connection) -> bool:
    """Let removals go on, counted from zero; false if the brake was not on."""
    return connection.execute(_RELEASE).rowcount == 1


# A missed tick (a beat that changed hosts, a full queue) is made up for, but for a minute at the most: no storm after a night.
_PACE = text("""
    UPDATE cardsync.gate AS g SET swept_at = clock_timestamp()
    FROM (SELECT swept_at AS before FROM cardsync.gate FOR UPDATE) AS last
    RETURNING least(60.0, coalesce(extract(epoch FROM g.swept_at - last.before), 0))::float8
""")


def seconds_since_sweep(connection: Connection) -> float:
    """Note that the routine sweep runs now; the seconds since it last did, 60 at the most."""
    elapsed: float = connection.execute(_PACE).scalar_one()
    return elapsed


_TRY_SWEEP = text("SELECT pg_try_advisory_xact_lock(cast(:key AS bigint))")
SWEEP_LOCK: Final = 0x6361726473796E63  # "cardsync"


def try_sweep_lock(connection: Connection) -> bool:
    """Take the lock that lets one sweep run at a time, until the transaction ends; false if another runs."""
    taken: bool = connection.execute(_TRY_SWEEP, {"key": SWEEP_LOCK}).scalar_one()
    return taken


_SET_CHECK = text("UPDATE cardsync.gate SET secret_check = :check WHERE secret_check IS NULL")
_GET_CHECK = text("SELECT secret_check FROM cardsync.gate")


def check_secret(connection: Connection, secret: bytes) -> None:
    """Bind the database to the fingerprints' key at first use. Raises ``Misconfigured`` if it was made with another.

    With another key every card would look new and every known one absent.
    """
    check = hmac.digest(secret, b"card-token-fingerprints", "sha256")
    known = connection.execute(_GET_CHECK).scalar_one()
    if known is None:
        connection.execute(_SET_CHECK, {"check": check})
        known = connection.execute(_GET_CHECK).scalar_one()
    if not hmac.compare_digest(known, check):
        raise Misconfigured("CARDSYNC_SECRET_KEY is not the one that this database was first used with")
