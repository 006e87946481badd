"""The brake on removals, and the passes of sweeps that it measures: one row, shared by all processes.

An empty list for everybody is far likelier a fault at Ottu's than the truth.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, text

from cardsync.store import ledger

PASS_SECONDS: Final = 86_400  # one pass of sweeps: a day, the span that the budget of calls is given for

_BRAKE = text("SELECT brake_engaged_at, pass_cards, pass_removed FROM cardsync.gate FOR UPDATE")
_ENGAGE = text("UPDATE cardsync.gate SET brake_engaged_at = clock_timestamp() WHERE brake_engaged_at IS NULL")
_COUNT_REMOVED = text("UPDATE cardsync.gate SET pass_removed = pass_removed + :count")


def may_remove(connection: Connection, count: int, *, sweeping: bool, share: float, floor: int) -> bool:
    """Tell whether ``count`` cards may be removed for their absence; a sweep that goes too far engages the brake.

    When one pass of sweeps would remove more than ``share`` of all cards (or ``floor``, if that is more), removals stop for all
    until an operator releases them.
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
        ledger.forget(connection)


def release_brake(connection: Connection) -> bool:
    """Let removals go on, counted from zero; false if the brake was not on."""
    return connection.execute(_RELEASE).rowcount == 1


_TRY_SWEEP = text("SELECT pg_try_advisory_xact_lock(cast(:key AS bigint))")
SWEEP_LOCK: Final = 0x6361726473796E63  # "cardsync"


def try_sweep_lock(connection: Connection) -> bool:
    """Take the lock that lets one sweep run at a time, until the transaction ends; false if another runs."""
    taken: bool = connection.execute(_TRY_SWEEP, {"key": SWEEP_LOCK}).scalar_one()
    return taken
