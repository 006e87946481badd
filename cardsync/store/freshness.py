"""The freshness of a customer's cards, for readers who wait for a newer list. All of them share one call."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Connection, Row, text

from cardsync.core.cards import Environment
from cardsync.store import customers
from cardsync.store.access.key_use import CallQuota, count_calls


@dataclass(frozen=True, slots=True)
class Freshness:
    """When a customer was last reconciled, and when the next look is due. ``read_at`` is now, by the database's clock.

    ``due_in_seconds`` is 0 when the next look is due, or under way.
    """

    customer: int
    read_at: dt.datetime
    reconciled_at: dt.datetime | None
    failures: int
    due_in_seconds: float

    @property
    def as_of(self) -> dt.datetime | None:
        """When the list was asked for by which the customer is known."""
        return self.reconciled_at


_FRESHNESS = """
    SELECT id, clock_timestamp() AS read_at, reconciled_at, failures,
           CASE WHEN lease_until > clock_timestamp() THEN 0
                ELSE greatest(0, coalesce(extract(epoch FROM due_at - clock_timestamp()), 0)) END::float8 AS due_in_seconds
    FROM cardsync.customers
"""
_BY_NAME = text(f"{_FRESHNESS} WHERE environment = :environment AND customer_id = :customer_id")
_BY_ID = text(f"{_FRESHNESS} WHERE id = :customer")


def of(connection: Connection, environment: Environment, customer_id: str) -> Freshness | None:
    """The freshness of a customer; ``None`` for a customer who is not known."""
    row = connection.execute(_BY_NAME, {"environment": environment, "customer_id": customer_id}).one_or_none()
    return None if row is None else Freshness(*row)


def now(connection: Connection, customer: int) -> Freshness:
    """The freshness of a known customer."""
    return Freshness(*connection.execute(_BY_ID, {"customer": customer}).one())


# A customer that only a reader has named. It is on probation: in no line for routine looks, and forgotten after a day, unless a
# list shows a card of it or something else names it (``customers.touch``). So readers who invent customers leave no row for long.
_MEET = text("""
    INSERT INTO cardsync.customers (environment, customer_id, probation_since)
    VALUES (:environment, :customer_id, clock_timestamp())
    ON CONFLICT (environment, customer_id) DO NOTHING
""")


def meet(connection: Connection, environment: Environment, customer_id: str) -> Freshness:
    """The freshness of a customer; one who is not known is known on probation from now on."""
    connection.execute(_MEET, {"environment": environment, "customer_id": customer_id})
    row = connection.execute(_BY_NAME, {"environment": environment, "customer_id": customer_id}).one()
    return Freshness(*row)


# coming: a list that will do is believed already, or being asked for, or a bell for it was rung a moment ago. asked: it is due
# now, and the caller rings. cooling: the customer was asked about a moment ago. later: so it was, and it is due when the
# cool-down ends. spent: the asker's calls of the day are used up; nothing was changed.
Answer = Literal["coming", "asked", "cooling", "later", "spent"]

# One customer is asked about at most once in this number of seconds, by all keys together. A payer sees a card saved or deleted
# within seconds by its own hint, which does not wait for this. Five seconds are what a reader waits at most, and let one key
# that asks about one customer all day spend a fifth of 90,000 calls, where it spent all of them within two hours.
COOL_DOWN_SECONDS: Final = 5.0

# The row lock makes looking and marking one step, while other processes take or settle the ticket. The last condition of
# ``will_come``: a bell was rung a moment ago, so the ticket that will be taken is newer than every reader who waits for it. A
# sweep or a retry does not count, since its turn may be far off. ``is_due``: a call comes anyway, so that this one costs nothing.
_LOOK = text("""
    SELECT coalesce(reconciled_at >= :since, false)
        OR coalesce(lease_until > clock_timestamp() AND asked_at >= :since, false)
        OR coalesce(lease_until <= clock_timestamp(), true) AND coalesce(due_at <= clock_timestamp(), false)
            AND lane IN ('deletion', 'hint', 'read') AND coalesce(rung_at > clock_timestamp() - interval '1 second', false)
        AS will_come,
        coalesce(greatest(reconciled_at, asked_at) > clock_timestamp() - :cool_down * interval '1 second', false) AS is_cooling,
        coalesce(lease_until <= clock_timestamp(), true)
            AND coalesce(
                due_at <= clock_timestamp() + CASE WHEN failures > 0 THEN :failing ELSE 0 END * interval '1 second', false
            )
        AS is_due,
        coalesce(due_at > clock_timestamp()
            AND due_at <= greatest(reconciled_at, asked_at) + :cool_down * interval '1 second', false) AS is_due_soon
    FROM cardsync.customers WHERE id = :customer FOR UPDATE
""")


def want(
    connection: Connection,
    customer: int,
    *,
    since: dt.datetime,
    quota: CallQuota | None = None,
    cool_down_seconds: float = COOL_DOWN_SECONDS,
) -> Answer:
    """Make sure that a list of the customer will be believed that is asked for at ``since`` or later, as the cool-down allows.

    A call that this causes is counted to ``quota``.
    """
    found = _look(connection, customer, since, cool_down_seconds)
    if found.will_come:
        return "coming"
    if found.is_cooling and not found.is_due:
        return "cooling"
    if not found.is_due and quota is not None and not count_calls(connection, quota):
        return "spent"
    customers.mark_dirty(connection, customer, evidence_no=None, lane="read")
    return "asked"


# A date later than the ticket under way stays when that is settled (``customers``).
_MARK_LATER = text(f"""
    UPDATE cardsync.customers
    SET dirty_no = CASE WHEN lease_until > clock_timestamp() THEN dirty_no
                        ELSE greatest(dirty_no, nextval('cardsync.observation_no')) END,
        dirty_since = coalesce(dirty_since, clock_timestamp()),
        due_at = CASE WHEN lease_until > clock_timestamp() OR due_at IS NULL
                      THEN greatest(reconciled_at, asked_at) + :cool_down * interval '1 second'
                      ELSE least(due_at, greatest(reconciled_at, asked_at) + :cool_down * interval '1 second') END,
        lane = {customers.more_urgent("lane", "'read'")}, rung_at = NULL
    WHERE id = :customer
""")


def ask(
    connection: Connection,
    customer: int,
    *,
    quota: CallQuota | None = None,
    cool_down_seconds: float = COOL_DOWN_SECONDS,
) -> Answer:
    """Note that the customer may differ from Ottu since now: it is due at once, or when its cool-down ends."""
    found = _look(connection, customer, now(connection, customer).read_at, cool_down_seconds)
    if found.will_come or (found.is_cooling and found.is_due_soon):
        return "coming"
    if not found.is_due and quota is not None and not count_calls(connection, quota):
        return "spent"
    if found.is_cooling and not found.is_due:
        connection.execute(_MARK_LATER, {"customer": customer, "cool_down": cool_down_seconds})
        return "later"
    customers.mark_dirty(connection, customer, evidence_no=None, lane="read")
    return "asked"


def _look(connection: Connection, customer: int, since: dt.datetime, cool_down_seconds: float) -> Row[Any]:
    parameters = {
        "customer": customer,
        "since": since,
        "cool_down": cool_down_seconds,
        "failing": customers.LONGEST_WAIT_WITH_A_HINT_SECONDS,
    }
    return connection.execute(_LOOK, parameters).one()
