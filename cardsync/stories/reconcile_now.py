"""``reconcile_now``: bring one customer in line with Ottu while a person waits; and ask Ottu whether it answers us at all.

The one place that reconciles now and waits for it: the command line, a full resync, the console and ``doctor`` come here. The
rules: the ticket of another process is never broken, it is waited for, and its list counts if it was asked for since. The call
itself is ``reconcile``'s, counted and told to the gate like any other.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Engine

from cardsync import db
from cardsync.core import leases
from cardsync.core.call_budget import Lane
from cardsync.errors import CardsyncError
from cardsync.store import customers
from cardsync.store.calls import budget, gate
from cardsync.store.ops import operator
from cardsync.stories.counted_calls import CountedCall, tell
from cardsync.stories.reconcile import Lists, ReconcilePolicy, Result, reconcile

POLL_SECONDS: Final = 0.1
PAUSE_WAIT_SECONDS: Final = 120.0  # a pause that is longer than that is reported, not waited for
LANE: Final[Lane] = "read"  # a person waits for it, also while routine looks stand back
OPERATOR: Final = 0  # who calls, for the gate, where the call is about no customer


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def reconcile_now(engine: Engine, ottu: Lists, customer: int, policy: ReconcilePolicy) -> Result:
    """Bring one customer in line by a list that is asked for from now on, whatever its back-off says.

    Makes at most one attempt of its own. Where calls are paused it waits for them, up to ``PAUSE_WAIT_SECONDS``.
    """
    with engine.begin() as connection:
        began = db.moment(connection)
        customers.mark_dirty(connection, customer, evidence_no=None, lane=LANE)

    def make_due(connection: Connection) -> bool:
        if operator.reconciled_since(connection, customer, began):
            return False
        operator.hurry(connection, customer, lane=LANE)
        return True

    result = try_until_answered(engine, ottu, customer, policy, make_due=make_due)
    if result.outcome == "paused" and _calls_may_be_made(engine, policy):
        result = try_until_answered(engine, ottu, customer, policy, make_due=make_due)
    return result


def try_until_answered(
    engine: Engine,
    ottu: Lists,
    customer: int,
    policy: ReconcilePolicy,
    *,
    make_due: Callable[[Connection], bool],
    stopped_while_waiting: Callable[[float], bool] = _sleep,
) -> Result:
    """Reconcile the customer, or wait until another process has done so.

    ``make_due`` makes the customer due, or returns false if a list that is new enough is believed already.
    ``stopped_while_waiting`` waits for some seconds and tells whether to stop. Waits no longer than another's ticket can stand.
    """
    deadline = time.monotonic() + leases.wait_for_another_seconds(policy.call_seconds)
    while True:
        with engine.begin() as connection:
            if not make_due(connection):
                return Result("unchanged")
        jitter = random.random()  # noqa: S311  (spreads retries, no secret)
        result = reconcile(engine, ottu, customer, policy, jitter=jitter)
        if result.outcome not in ("not_due", "superseded") or time.monotonic() > deadline:
            return result
        if stopped_while_waiting(POLL_SECONDS):
            return result


def _calls_may_be_made(engine: Engine, policy: ReconcilePolicy) -> bool:
    """Wait until the gate before Ottu opens; false if that takes long, or the budget is what is missing."""
    deadline = time.monotonic() + PAUSE_WAIT_SECONDS
    while time.monotonic() < deadline:
        with engine.connect() as connection:
            wait = gate.seconds_to_wait(connection, LANE)
            left = budget.calls_left(connection, daily_calls=policy.daily_calls, lane=LANE)
        if not wait:
            return left > 0
        time.sleep(POLL_SECONDS)
    return False


@dataclass(frozen=True, slots=True)
class AskPolicy:
    """The settings that ``ask_once`` goes by. ``call_seconds`` bounds the call."""

    daily_calls: int
    call_seconds: float


def ask_once(engine: Engine, ottu: Lists, policy: AskPolicy) -> None:
    """Ask for the list of a customer that does not exist, counted like any call; the gate hears how it ended.

    Raises what went wrong, ``CallsPaused`` and ``BudgetSpent`` included.
    """
    call = CountedCall(engine, LANE, OPERATOR, policy.daily_calls, policy.call_seconds)
    no_customer = f"cardsync-doctor-{secrets.token_hex(4)}"
    try:
        ottu.list_cards("sandbox", no_customer, deadline_seconds=policy.call_seconds, before_call=call.spend)
    except CardsyncError as error:
        tell(engine, error, call="list", who=OPERATOR)
        raise
    tell(engine, None, call="list", who=OPERATOR)
