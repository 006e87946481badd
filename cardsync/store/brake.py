"""The brake on removals: its evidence, whether it is engaged, and which of the customers that it holds are looked at again.

An empty list for everybody is far likelier a fault at Ottu's than the truth. What the evidence says is decided purely
(``core.brake``). It is written in the transaction that applies a list, so that a list which is not applied leaves none.

**Which look waits.** A look that confirms adds one to one of ``SHARDS`` counters, as the last thing but one before its
commit; two looks meet on a counter seldom, and for milliseconds. Only a look that lacks a card needs the exact decision: it
holds the one row of the evidence until it commits, so that however many workers run, the brake engages at the same customer.
Those are a few in a hundred looks. Once the brake is engaged it is seen without a lock, so that nothing queues when everything
lacks cards. Rejected: adding up confirmations in the row of the evidence (every look would wait for every other); skipping a
counter that is locked (under load confirmations would be lost and removals would not, which looks like a fault).

The word that removals are stopped is ``brake_engaged_at`` in the gate's row, where code of the release before finds it too.
Locks are taken in the order of ``store``: the customer, its hints and cards, the brake, the gate.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Connection, text

from cardsync.core import brake as core
from cardsync.core.brake import Evidence, Limits
from cardsync.db import Transaction
from cardsync.store.customers import IN_LINE, Ticket

SHARDS: Final = 16  # about as many as lists are applied at the same moment, in a big deployment
SHOWN_MAX: Final = 50  # customers that `brake show` lists of each kind

Decision = Literal["allowed", "held", "engaged"]  # engaged: held, and this look is the one that engaged the brake

_IS_ENGAGED = text("SELECT brake_engaged_at IS NOT NULL FROM cardsync.gate")
_LOCK = text("SELECT excess, confirmed, counted, accepted FROM cardsync.brake FOR UPDATE")
_CONFIRMED = text("SELECT coalesce(sum(confirmed), 0)::bigint FROM cardsync.brake_confirmations")
_SAVE = text("""
    UPDATE cardsync.brake SET excess = :excess, confirmed = :confirmed, counted = :counted, lacked = lacked + 1
""")
_SAVE_EXAMPLE = text("""
    UPDATE cardsync.brake SET accepted = 0, example_customer = :customer, example_observation = :number,
        example_expected = :expected, example_lacked = :lacking
""")
_ENGAGE = text("UPDATE cardsync.gate SET brake_engaged_at = clock_timestamp() WHERE brake_engaged_at IS NULL")


def may_remove(connection: Connection, ticket: Ticket, *, expected: int, lacking: int, limits: Limits) -> Decision:
    """Decide whether a list that lacks ``lacking`` of ``expected`` cards may remove them; the customer is locked.

    The evidence is kept until the transaction ends, and no other look decides meanwhile.
    """
    if lacking == 0:
        return "allowed"
    if is_engaged(connection):
        return "held"
    row = connection.execute(_LOCK).one()
    if is_engaged(connection):  # by the look that held the row until now
        return "held"
    if row.accepted and _was_accepted(connection, ticket.customer):
        return "allowed"
    before = Evidence(row.excess, row.confirmed, tuple(row.counted))
    evidence = core.lacked(before, ticket.customer, confirmed(connection), limits)
    if not core.must_engage(evidence, limits):
        _save(connection, _SAVE, evidence)
        return "allowed"
    example = {"customer": ticket.customer, "number": ticket.number, "expected": expected, "lacking": lacking}
    connection.execute(_SAVE_EXAMPLE, example)
    connection.execute(_ENGAGE)
    return "engaged"


def _save(connection: Connection, statement: Any, evidence: Evidence) -> None:
    parameters = {"excess": evidence.excess, "confirmed": evidence.confirmed, "counted": list(evidence.counted)}
    connection.execute(statement, parameters)


_USE_ACCEPTED = text("""
    UPDATE cardsync.brake SET accepted = accepted - 1
    WHERE accepted > 0 AND (SELECT removals_held FROM cardsync.customers WHERE id = :customer)
""")


def _was_accepted(connection: Connection, customer: int) -> bool:
    """Draw on what the operator vouched for, if this customer's removals were held."""
    return connection.execute(_USE_ACCEPTED, {"customer": customer}).rowcount == 1


_CONFIRM = text("""
    INSERT INTO cardsync.brake_confirmations AS b (shard, confirmed)
    SELECT shard, count(*) FROM unnest(cast(:shards AS int[])) AS shard GROUP BY shard ORDER BY shard
    ON CONFLICT (shard) DO UPDATE SET confirmed = b.confirmed + excluded.confirmed
""")


def note_confirmed(connection: Transaction, customers: Sequence[int]) -> None:
    """Count looks whose lists showed all the cards that they should; shortly before the commit, which frees the counters."""
    if customers:
        connection.execute(_CONFIRM, {"shards": [customer % SHARDS for customer in customers]})


def is_engaged(connection: Connection) -> bool:
    """Tell whether removals are stopped."""
    engaged: bool = connection.execute(_IS_ENGAGED).scalar_one()
    return engaged


def confirmed(connection: Connection) -> int:
    """How many looks have confirmed all cards, as far as they are committed."""
    looks: int = connection.execute(_CONFIRMED).scalar_one()
    return looks


_SAVE_RELEASED = text("""
    UPDATE cardsync.brake SET excess = :excess, confirmed = :confirmed, counted = :counted, released_at = clock_timestamp()
""")
_ACCEPT = text("UPDATE cardsync.brake SET accepted = :customers")
_RELEASE = text("UPDATE cardsync.gate SET brake_engaged_at = NULL WHERE brake_engaged_at IS NOT NULL")


def release_brake(connection: Connection, limits: Limits, *, accept: int = 0) -> bool:
    """Let removals go on, watched as after a fault; false if the brake was not on, and then nothing is changed.

    ``accept``: for how many of the held customers an operator vouches that their cards are gone.
    """
    connection.execute(_LOCK)
    if not connection.execute(_RELEASE).rowcount:
        return False
    _save(connection, _SAVE_RELEASED, core.released(confirmed(connection), limits))
    connection.execute(_ACCEPT, {"customers": accept})
    return True


_TELL_RELEASE = text("""
    UPDATE cardsync.brake SET release_told_at = released_at
    WHERE released_at > coalesce(release_told_at, '-infinity') RETURNING accepted
""")


def release_to_tell(connection: Connection) -> int | None:
    """How many customers an operator vouched for at a release that no log line tells yet; it is told from now on."""
    accepted: int | None = connection.execute(_TELL_RELEASE).scalar_one_or_none()
    return accepted


# By the number, which is the order of a partial index: any order does, and this one needs no other index.
_HELD = text(f"""
    SELECT id FROM cardsync.customers
    WHERE removals_held AND {IN_LINE} AND (SELECT brake_engaged_at IS NULL FROM cardsync.gate)
    ORDER BY id LIMIT :limit
""")


def held_to_look_at(connection: Connection, *, limit: int) -> list[int]:
    """The first of the held customers that are to be looked at again; none while the brake is engaged."""
    return list(connection.execute(_HELD, {"limit": limit}).scalars())


@dataclass(frozen=True, slots=True, kw_only=True)
class BrakeState:
    """The brake as an operator sees it. Customers are shown with our number for them and Ottu's."""

    engaged_at: dt.datetime | None
    released_at: dt.datetime | None
    excess: float
    looks_confirmed: int
    looks_lacking: int
    accepted: int
    customers_held: int
    example: Mapping[str, Any] | None
    held: tuple[Mapping[str, Any], ...]
    lost: tuple[Mapping[str, Any], ...]


HELD_COUNTED_MAX: Final = 100_000  # a count beyond it says no more than that

_STATE = text("""
    SELECT g.brake_engaged_at, b.*, c.environment, c.customer_id,
           (SELECT count(*) FROM (SELECT FROM cardsync.customers WHERE removals_held LIMIT :counted_max) AS counted)
               AS customers_held,
           (SELECT coalesce(sum(confirmed), 0)::bigint FROM cardsync.brake_confirmations) AS looks
    FROM cardsync.gate AS g CROSS JOIN cardsync.brake AS b LEFT JOIN cardsync.customers AS c ON c.id = b.example_customer
""")
_SHOW = text("""
    (SELECT true AS is_held, id AS customer, environment, customer_id, reconciled_at FROM cardsync.customers
     WHERE removals_held ORDER BY id LIMIT :limit)
    UNION ALL
    (SELECT false, id, environment, customer_id, reconciled_at FROM cardsync.customers
     WHERE id = ANY(:counted) ORDER BY id LIMIT :limit)
    ORDER BY customer
""")


def state(connection: Connection, limits: Limits, *, counted_max: int = HELD_COUNTED_MAX) -> BrakeState:
    """Read the brake, with some of the customers that it holds and of those that lost cards before it engaged.

    The count of those that it holds ends at ``counted_max``.
    """
    row = connection.execute(_STATE, {"counted_max": counted_max}).one()
    now = core.worn_off(Evidence(row.excess, row.confirmed, tuple(row.counted)), row.looks, limits)
    example = {
        "customer": row.example_customer,
        "environment": row.environment,
        "customer_id": row.customer_id,
        "observation_no": row.example_observation,
        "expected": row.example_expected,
        "lacked": row.example_lacked,
    }
    shown = connection.execute(_SHOW, {"counted": list(row.counted), "limit": SHOWN_MAX}).mappings().all()
    held, lost = (
        tuple({name: one[name] for name in one if name != "is_held"} for one in shown if one["is_held"] is which)
        for which in (True, False)
    )
    return BrakeState(
        engaged_at=row.brake_engaged_at,
        released_at=row.released_at,
        excess=round(now.excess, 2),
        looks_confirmed=row.looks,
        looks_lacking=row.lacked,
        accepted=row.accepted,
        customers_held=row.customers_held,
        example=None if row.customer_id is None or row.brake_engaged_at is None else example,
        held=held,
        lost=lost,
    )
