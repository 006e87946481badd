"""The end of an example: Ottu is well, its lags pass, no bell rings. Sweeps alone have to find whatever is left.

Then those come back who stood still all the while, with answers that nobody may believe any more.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from sqlalchemy import text

from cardsync.core.backoff import LONGEST_OF_A_CUSTOMER_SECONDS
from cardsync.core.repeats import APART_SECONDS
from tests.machine.choices import LAGS
from tests.machine.converged import check_converged
from tests.machine.receipts import tokens_left
from tests.machine.system import LISTS, SWEEPS, TOKENS, System

# Everybody is looked at twice: one pass can leave an agreement that moved between two customers without a card, if a list that
# was overtaken had been believed of them. The next pass links it.
PASSES: Final = 2
QUIET_SECONDS: Final = (
    LONGEST_OF_A_CUSTOMER_SECONDS + LISTS.confirm_seconds + 2 * (PASSES + 1) * SWEEPS.look_again_seconds
)


def become_quiet(system: System) -> None:
    """Let it be quiet, and check that the registry is Ottu's truth: before the stalled come back, and after."""
    system.world.knobs = system.world.knobs.turned(list_lag_seconds=0, delete_lag_seconds=0)
    system.ottu.be_well()
    system.drain()
    system.clock.pass_(max(LAGS))
    _sweep_until_everybody_was_looked_at(system)
    _check_converged(system)
    _check_repeats(system)
    revision = system.world.revision
    for call in list(system.standing):
        call.script.fault = None
        system.resume(call)
    if system.world.revision != revision:  # a deletion that Ottu takes only now is known at the next look
        _sweep_until_everybody_was_looked_at(system)
    _check_converged(system)
    system.consumer.check_all_arrived()


def _sweep_until_everybody_was_looked_at(system: System) -> None:
    """It may also end because time is up: what is still open then is found by the check."""
    began = system.clock.now()
    looks: Counter[int] = Counter()
    while system.clock.now() < began + QUIET_SECONDS:
        if any(customer.removals_held for customer in system.watch.last.customers):
            system.release_brake()
        system.sweep()
        looks.update(system.take_what_is_due())
        now = system.watch.last
        open_work = system.pending() or any(customer.due_at for customer in now.customers)
        open_work = open_work or any(deletion.due_at for deletion in now.deletions)
        # A release that is watched may engage the brake again: what is held then waits for the next release.
        open_work = open_work or any(customer.removals_held for customer in now.customers)
        if not open_work and all(looks[customer.id] >= PASSES for customer in now.customers):
            return
        system.clock.pass_(SWEEPS.look_again_seconds + 1)


def _check_repeats(system: System) -> None:
    """No look in the lane of repeats came sooner after the look before it than repeats may cause one."""
    looks = text("""
        SELECT lane, asked_at - lag(asked_at) OVER (PARTITION BY customer ORDER BY observation_no) AS after
        FROM cardsync.observations WHERE outcome <> 'failed'
    """)
    with system.observer.connect() as connection:
        gaps = [row.after.total_seconds() for row in connection.execute(looks) if row.lane == "repeat" and row.after]
    assert all(gap >= APART_SECONDS - 1 for gap in gaps), "repeats caused looks in too quick a succession"


def _check_converged(system: System) -> None:
    truth = {owner: [card.as_listed() for card in system.world.cards(*owner)] for owner in system.world.owners()}
    with system.observer.connect() as connection:
        check_converged(connection, truth)
        living = {card["token"] for cards in truth.values() for card in cards}
        gone = tuple(token for token in TOKENS if token not in living)
        assert not tokens_left(connection, gone), "a token stands in the database that no card has any more"
