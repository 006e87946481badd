"""``release_brake``: an operator lets removals go on, and the held customers are looked at again, a few at every tick.

Two short transactions. The first releases the brake, with the excess set so that it engages again after a handful of customers
(``core.brake``). The second makes the first of the held customers due, in lane ``sweep``; ``sweep`` takes on the others, within
the allowance of routine looks. No statement touches more than ``FIRST_LOOKS`` customers, and none waits for a customer that is
locked, so that this never stands in the way of ``process`` or of a list that is being applied. The next sweep logs the release,
in the log where the engagement stands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Engine

from cardsync.core.brake import Limits
from cardsync.store import brake, schedule
from cardsync.store.ops import operator

FIRST_LOOKS: Final = 10  # enough for the operator to see within seconds whether the fault goes on


@dataclass(frozen=True, slots=True)
class Released:
    """What a release did. ``customers_held`` are looked at again over time; the first of them are due now."""

    was_engaged: bool
    customers_held: int
    due_now: tuple[int, ...]


def release_brake(
    engine: Engine, limits: Limits, *, accept: int = 0, noted: Callable[[Connection, bool], object] | None = None
) -> Released:
    """Release the brake if it is engaged; ``accept``: for how many held customers the operator vouches.

    ``noted`` is called in the transaction of the release, with whether the brake was engaged.
    """
    with engine.begin() as connection:
        was_engaged = brake.release_brake(connection, limits, accept=accept)
        if noted is not None:
            noted(connection, was_engaged)
        held = operator.customers_held(connection)
    if not was_engaged:
        return Released(False, held, ())
    with engine.begin() as connection:
        due = schedule.make_due(connection, brake.held_to_look_at(connection, limit=FIRST_LOOKS))
    return Released(True, held, tuple(due))
