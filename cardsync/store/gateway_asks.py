"""Questions to Ottu about one payment gateway's cards of a customer: which are due, the ticket of each, and how fresh it is.

Only readers ask them. The answer is Ottu's list filtered by the gateway. It changes no card: it says as of when what is known of
this gateway's cards holds, under the evidence number that its ticket drew before the call.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Connection, text

from cardsync.core.cards import Environment
from cardsync.store.access.key_use import CallQuota, count_calls
from cardsync.store.customers import LAST_ERROR_MAX
from cardsync.store.freshness import COOL_DOWN_SECONDS


@dataclass(frozen=True, slots=True)
class Ticket:
    """The right to ask Ottu once about one gateway of a customer, and the number under which the answer may be believed."""

    environment: Environment
    customer: int
    customer_id: str
    pg_code: str
    number: int
    asked_at: dt.datetime
    failures: int

    @property
    def key(self) -> dict[str, Any]:
        """The customer, the gateway and the ticket's number, as parameters."""
        return {"customer": self.customer, "pg_code": self.pg_code, "number": self.number}


@dataclass(frozen=True, slots=True)
class Freshness:
    """As of when a gateway's cards are known, by a complete list or by one of their own, and when Ottu is asked next.

    ``list_comes``: a complete list is due, or under way.
    """

    customer: int
    read_at: dt.datetime
    reconciled_at: dt.datetime | None
    answered_at: dt.datetime | None
    failures: int
    due_in_seconds: float | None
    list_comes: bool

    @property
    def as_of(self) -> dt.datetime | None:
        """As of when the gateway's cards are known; ``None`` before the first complete list."""
        if self.reconciled_at is None or self.answered_at is None:
            return self.reconciled_at
        return max(self.reconciled_at, self.answered_at)


_FRESHNESS = text("""
    SELECT o.id, clock_timestamp() AS read_at, o.reconciled_at, g.answered_at, o.failures + coalesce(g.failures, 0) AS failures,
           CASE WHEN g.due_at IS NOT NULL THEN 0
                ELSE greatest(0, extract(epoch FROM o.due_at - clock_timestamp())) END::float8 AS due_in_seconds,
           coalesce(o.due_at <= clock_timestamp() OR o.lease_until > clock_timestamp(), false) AS list_comes
    FROM cardsync.customers AS o LEFT JOIN cardsync.gateway_asks AS g ON g.customer = o.id AND g.pg_code = :pg_code
    WHERE o.environment = :environment AND o.customer_id = :customer_id
""")


def freshness(connection: Connection, environment: Environment, customer_id: str, pg_code: str) -> Freshness | None:
    """How fresh a gateway's cards are; ``None`` for a customer who is not known."""
    parameters = {"environment": environment, "customer_id": customer_id, "pg_code": pg_code}
    row = connection.execute(_FRESHNESS, parameters).one_or_none()
    return None if row is None else Freshness(*row)


# coming: the question is due already, or a call is under way that will do. asked: it is due now, and the caller rings. cooling:
# the customer was asked about a moment ago, or in vain. spent: the asker's calls of the day are used up; nothing was changed.
Answer = Literal["coming", "asked", "cooling", "spent"]

# The row lock on the customer makes looking and asking one step. The cool-down is the customer's, whichever list it was.
_LOOK = text("""
    SELECT coalesce(greatest(o.reconciled_at, o.asked_at), 'epoch') AS listed_at FROM cardsync.customers AS o
    WHERE o.id = :customer FOR UPDATE
""")
_LOOK_AT_ASKS = text("""
    SELECT coalesce(bool_or(pg_code = :pg_code
               AND (due_at IS NOT NULL AND asked_at IS NULL OR lease_until > clock_timestamp() AND asked_at >= :since)
           ), false) AS comes,
           coalesce(greatest(max(asked_at), max(answered_at)), 'epoch') AS last_at,
           coalesce(bool_or(pg_code = :pg_code AND not_before > clock_timestamp()), false) AS failing,
           clock_timestamp() - make_interval(secs => :cool_down) AS cooling_since
    FROM cardsync.gateway_asks WHERE customer = :customer
""")
_WANT = text("""
    INSERT INTO cardsync.gateway_asks AS g (customer, pg_code, due_at) VALUES (:customer, :pg_code, clock_timestamp())
    ON CONFLICT (customer, pg_code) DO UPDATE SET due_at = excluded.due_at, wanted_at = clock_timestamp()
""")


def want(
    connection: Connection, customer: int, pg_code: str, *, since: dt.datetime, quota: CallQuota | None = None
) -> Answer:
    """Make sure that Ottu is asked about the gateway at ``since`` or later, as the customer's cool-down allows.

    A call that this causes is counted to ``quota``.
    """
    listed_at = connection.execute(_LOOK, {"customer": customer}).scalar_one()
    parameters = {"customer": customer, "pg_code": pg_code, "since": since, "cool_down": COOL_DOWN_SECONDS}
    found = connection.execute(_LOOK_AT_ASKS, parameters).one()
    if found.comes:
        return "coming"
    if found.failing or max(listed_at, found.last_at) > found.cooling_since:
        return "cooling"
    if quota is not None and not count_calls(connection, quota):
        return "spent"
    connection.execute(_WANT, parameters)
    return "asked"


_IS_DUE: Final = """
    due_at <= statement_timestamp() AND (lease_until IS NULL OR lease_until <= statement_timestamp())
"""
ARE_DUE: Final = f"EXISTS (SELECT FROM cardsync.gateway_asks WHERE {_IS_DUE})"
_TAKE = text(f"""
    WITH due AS MATERIALIZED (
        SELECT customer, pg_code FROM cardsync.gateway_asks WHERE {_IS_DUE}
        ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    UPDATE cardsync.gateway_asks AS g
    SET ticket_no = nextval('cardsync.observation_no'), asked_at = clock_timestamp(),
        lease_until = clock_timestamp() + make_interval(secs => :lease_seconds)
    FROM due, cardsync.customers AS o
    WHERE (g.customer, g.pg_code) = (due.customer, due.pg_code) AND o.id = g.customer
    RETURNING o.environment, g.customer, o.customer_id, g.pg_code, g.ticket_no, g.asked_at, g.failures
""")


def take(connection: Connection, *, limit: int, lease_seconds: float) -> list[Ticket]:
    """Take the tickets of the questions that are due longest."""
    rows = connection.execute(_TAKE, {"limit": limit, "lease_seconds": lease_seconds})
    return [Ticket(*row) for row in rows]


_LOCK_CUSTOMER = text("SELECT applied_no FROM cardsync.customers WHERE id = :customer FOR UPDATE")
# A wish that came during the call stays.
_SETTLE = text("""
    UPDATE cardsync.gateway_asks
    SET answered_no = CASE WHEN :agrees THEN :number ELSE answered_no END,
        answered_at = CASE WHEN :agrees THEN asked_at ELSE answered_at END,
        failures = 0, last_error = NULL, not_before = NULL, due_at = CASE WHEN due_at > asked_at THEN due_at END,
        ticket_no = NULL, asked_at = NULL, lease_until = NULL
    WHERE customer = :customer AND pg_code = :pg_code AND ticket_no = :number AND lease_until > clock_timestamp()
""")


def lock(connection: Connection, ticket: Ticket) -> bool:
    """Lock the ticket's customer; false if a complete list is believed already that was asked for later."""
    applied_no: int = connection.execute(_LOCK_CUSTOMER, {"customer": ticket.customer}).scalar_one()
    return applied_no < ticket.number


def settle(connection: Connection, ticket: Ticket, *, agrees: bool) -> bool:
    """Record that the ticket is answered, and that the answer agrees; false if the ticket stands no more."""
    return connection.execute(_SETTLE, {**ticket.key, "agrees": agrees}).rowcount == 1


# Only readers ask, and none of them waits for so long: it is asked again when one comes after the wait.
_PUT_OFF = text("""
    UPDATE cardsync.gateway_asks
    SET due_at = NULL, not_before = clock_timestamp() + make_interval(secs => :wait_seconds), failures = failures + 1,
        last_error = :error, ticket_no = NULL, asked_at = NULL, lease_until = NULL
    WHERE customer = :customer AND pg_code = :pg_code AND ticket_no = :number
""")


def put_off(connection: Connection, ticket: Ticket, *, wait_seconds: float, error: str) -> None:
    """Give the ticket back. No reader may ask again before the wait is over."""
    connection.execute(_PUT_OFF, {**ticket.key, "wait_seconds": wait_seconds, "error": error[:LAST_ERROR_MAX]})
