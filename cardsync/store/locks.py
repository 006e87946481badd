"""Locks between processes: rows of a private table, which no login but our own processes' can touch.

Rules: a lock for the length of one transaction is the row's own lock, tried for and never waited for; a lock that is kept while
no transaction is open is a lease by the database's clock, renewed in time by a holder with a random id. Both go through a
pooler in transaction mode. Rejected: advisory locks. Any login that may connect can take one, whatever its rights, so that a
reader of the registry could stop all sweeps. A row lock held for a whole session was rejected for the leader: it needs a
transaction that stays open, which keeps VACUUM from all that is deleted meanwhile, and which a time-out ends.
"""

from __future__ import annotations

import uuid
from typing import Final, Literal

from sqlalchemy import Connection, text

Name = Literal["sweep", "audit", "leader"]

_TRY = text("SELECT 1 FROM cardsync.locks WHERE name = :name FOR UPDATE SKIP LOCKED")
# A row that is there is left as it is, and not waited for.
_MAKE = text("INSERT INTO cardsync.locks (name) VALUES (:name) ON CONFLICT (name) DO NOTHING")


def try_lock(connection: Connection, name: Name) -> bool:
    """Take the lock until the transaction ends; false if another transaction has it. Taken twice, it is still one."""
    if connection.execute(_TRY, {"name": name}).scalar_one_or_none() is not None:
        return True
    if connection.execute(_MAKE, {"name": name}).rowcount == 0:
        return False
    return connection.execute(_TRY, {"name": name}).scalar_one_or_none() is not None


# Over, too, is a lease that ends later than any lease could: the database's clock was set back.
_IS_FREE: Final = """
    (holder IS NULL OR holder = :holder OR held_until <= clock_timestamp()
     OR held_until > clock_timestamp() + make_interval(secs => :lease_seconds))
"""
# A standby reads the row and leaves it alone: nothing is written or waited for while the lease stands.
_MAY_LEASE = text(f"SELECT coalesce(bool_and({_IS_FREE}), false) FROM cardsync.locks WHERE name = :name")
# The commit waits for no standby: one that is away would hold the leader still. A lease that is lost only ends earlier.
_NO_WAIT: Final = "WITH mode AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true) AS set)"
_LEASE = text(f"""
    {_NO_WAIT}
    UPDATE cardsync.locks SET holder = :holder, held_until = clock_timestamp() + make_interval(secs => :lease_seconds)
    FROM mode WHERE name = :name AND {_IS_FREE}
""")
_LET_GO = text(f"""
    {_NO_WAIT}
    UPDATE cardsync.locks SET holder = NULL, held_until = NULL FROM mode WHERE name = :name AND holder = :holder
""")


def lease(connection: Connection, name: Name, holder: uuid.UUID, *, lease_seconds: float) -> bool:
    """Take or renew a lease; false while another holder's stands. All holders of a lease give it the same length."""
    wanted = {"name": name, "holder": holder, "lease_seconds": lease_seconds}
    if (
        not connection.execute(_MAY_LEASE, wanted).scalar_one()
        and not connection.execute(_MAKE, {"name": name}).rowcount
    ):
        return False
    return connection.execute(_LEASE, wanted).rowcount == 1


def let_go(connection: Connection, name: Name, holder: uuid.UUID) -> None:
    """Give a lease back, so that the next holder need not wait for its end."""
    connection.execute(_LET_GO, {"name": name, "holder": holder})
