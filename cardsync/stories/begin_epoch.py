"""``begin_epoch``: a backup was restored. The feed begins a new epoch, and what may have ended since is held.

One transaction, while no process runs. It is the same for a rehearsal, which is rolled back: so what a rehearsal says is what
would be done. Evidence numbers leap at the end, since no rollback takes that back. Why each thing is held stands in
``store.ops.restores``.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import Engine

from cardsync.store.ops import restores


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """The epoch, and how many things of each kind wait for a person from now on."""

    epoch: int
    before_seq: int
    after_seq: int
    keys_held: int
    endpoints_held: int
    operators_disabled: int
    operations_cancelled: int
    deletions_held: int
    erasures_held: int


def begin_epoch(engine: Engine, *, restored_to: dt.datetime | None, by: str, rehearse: bool = False) -> Begun:
    """Begin a new epoch, and hold what was there at ``restored_to``: all of it, if that is not known."""
    until = restored_to or dt.datetime.max.replace(tzinfo=dt.UTC)
    with engine.connect() as connection, connection.begin() as transaction:
        deletions = restores.hold_deletions(connection, until)
        erasures = restores.hold_erasures(connection, until)
        keys = restores.hold_keys(connection, until)
        endpoints = restores.hold_endpoints(connection, until)
        operations = restores.cancel_operations(connection, until)
        operators = restores.hold_operators(connection, until, by=by)
        epoch = restores.begin_epoch(connection, restored_to)
        if rehearse:
            transaction.rollback()
        else:
            restores.leap_evidence(connection)
            transaction.commit()
    return Begun(
        epoch=epoch.epoch,
        before_seq=epoch.before_seq,
        after_seq=epoch.after_seq,
        keys_held=keys,
        endpoints_held=endpoints,
        operators_disabled=operators,
        operations_cancelled=operations,
        deletions_held=deletions,
        erasures_held=erasures,
    )
