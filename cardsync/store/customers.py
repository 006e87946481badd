"""Customers: the fact "may differ from Ottu since ...", and the ticket that at most one process holds at a time.

Ranges of rows are compared with ``statement_timestamp()``: ``clock_timestamp()`` is volatile, and no index answers it. Rows to
ring for are picked by ``ARRAY(SELECT ... LIMIT ... FOR UPDATE SKIP LOCKED)``: inside ``IN (...)`` the planner may run the
limited query more than once, and then picks more rows than the limit.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from cardsync.core.allowance import LANES, Lane
from cardsync.core.cards import Environment
from cardsync.core.outlook import History, Outlook
from cardsync.core.repeats import APART_SECONDS
from cardsync.errors import Superseded

LAST_ERROR_MAX: Final = 200  # characters
LONGEST_WAIT_WITH_A_HINT_SECONDS: Final = 30.0

_LANES: Final = f"ARRAY[{', '.join(repr(lane) for lane in LANES)}]"


def more_urgent(one: str, other: str) -> str:
    """SQL for the more urgent of two lanes: who is due for one reason must not wait longer because of another. NULL is none."""
    return f"({_LANES})[least(array_position({_LANES}, {one}), array_position({_LANES}, {other}))]"


@dataclass(frozen=True, slots=True)
class Ticket:
    """The right to ask Ottu once about one customer, and the number under which the answer may be believed."""

    customer: int
    environment: Environment
    customer_id: str
    number: int
    asked_at: dt.datetime
    lane: Lane
    failures: int


@dataclass(frozen=True, slots=True)
class Touched:
    """A customer row, locked until the transaction ends."""

    customer: int
    applied_no: int
    removals_held: bool


_TOUCH = text("""
    INSERT INTO cardsync.customers AS c (environment, customer_id) VALUES (:environment, :customer_id)
    ON CONFLICT (environment, customer_id) DO UPDATE SET environment = c.environment
    RETURNING id, applied_no, removals_held
""")


def touch(connection: Connection, environment: Environment, customer_id: str) -> Touched:
    """Find or make the customer, and lock its row: whoever changes a customer's cards holds this lock first."""
    row = connection.execute(_TOUCH, {"environment": environment, "customer_id": customer_id}).one()
    return Touched(row.id, row.applied_no, row.removals_held)


# While Ottu fails for this customer, a fresh hint does not end the wait: the backoff protects Ottu. But it shortens a long one,
# since the trouble may be over. Otherwise the customer is due now, ahead of any later date that a sweep had set. A lane only
# grows more urgent until a list is believed: a deletion's proof may use the reserve of calls that its own call was made from, and
# a hint does not wait behind whoever reads of its customer.
_MARK = text(f"""
    UPDATE cardsync.customers
    SET dirty_no = greatest(dirty_no, coalesce(:evidence_no, nextval('cardsync.observation_no'))),
        dirty_since = coalesce(dirty_since, clock_timestamp()),
        due_at = CASE WHEN failures > 0 AND due_at IS NOT NULL
                      THEN least(due_at, clock_timestamp() + make_interval(secs => :longest_wait_seconds))
                      ELSE least(due_at, clock_timestamp()) END,
        lane = {more_urgent("lane", "CASE WHEN failures > 0 AND :lane <> 'deletion' THEN 'retry' ELSE :lane END")},
        rung_at = clock_timestamp()
    WHERE id = :customer
""")


def mark_dirty(connection: Connection, customer: int, *, evidence_no: int | None, lane: Lane) -> None:
    """Note that the customer may differ from Ottu; without ``evidence_no`` the evidence is of this moment.

    The caller rings after its commit; if that bell is lost, the sweep rings again.
    """
    parameters = {
        "customer": customer,
        "evidence_no": evidence_no,
        "lane": lane,
        "longest_wait_seconds": LONGEST_WAIT_WITH_A_HINT_SECONDS,
    }
    connection.execute(_MARK, parameters)


_TAKE = text("""
    UPDATE cardsync.customers
    SET ticket_no = nextval('cardsync.observation_no'), asked_at = clock_timestamp(),
        lease_until = clock_timestamp() + make_interval(secs => :lease_seconds), rung_at = NULL
    WHERE id = :customer AND due_at <= clock_timestamp()
      AND (lease_until IS NULL OR lease_until <= clock_timestamp())
    RETURNING id, environment, customer_id, ticket_no, asked_at, lane, failures
""")


def take_ticket(connection: Connection, customer: int, *, lease_seconds: float) -> Ticket | None:
    """Take the ticket if the customer is due and nobody holds it; the number is newer than all evidence so far."""
    row = connection.execute(_TAKE, {"customer": customer, "lease_seconds": lease_seconds}).one_or_none()
    return None if row is None else Ticket(*row)


_STANDING = text("""
    SELECT reconciled_at, silent_changes, watched_days, look_by FROM cardsync.customers
    WHERE id = :customer AND ticket_no = :number AND applied_no < :number AND lease_until > clock_timestamp()
    FOR UPDATE
""")


def hold(connection: Connection, ticket: Ticket) -> History:
    """Lock the customer for applying the ticket's answer, and read what earlier answers have left for the schedule.

    Raises ``Superseded`` if the ticket stands no more.
    """
    row = connection.execute(_STANDING, {"customer": ticket.customer, "number": ticket.number}).one_or_none()
    if row is None:
        raise Superseded("a newer ticket was taken, or the lease ran out")
    return History(*row)


_RENEW = text("""
    UPDATE cardsync.customers SET lease_until = clock_timestamp() + make_interval(secs => :lease_seconds)
    WHERE id = :customer AND ticket_no = :number AND lease_until > clock_timestamp()
""")


def renew(connection: Connection, ticket: Ticket, *, lease_seconds: float) -> None:
    """Let the ticket stand for one more call. Raises ``Superseded`` if it stands no more."""
    parameters = {"customer": ticket.customer, "number": ticket.number, "lease_seconds": lease_seconds}
    if connection.execute(_RENEW, parameters).rowcount == 0:
        raise Superseded("a newer ticket was taken, or the lease ran out")


# Clean only if nothing was heard since the ticket: evidence is numbered in the same order. What only repeats tell has time
# (``core.repeats``), and a look that is due anyway is enough for it. Right sides see the old row.
_SETTLE = text("""
    UPDATE cardsync.customers
    SET applied_no = :number, reconciled_at = :asked_at, failures = 0, last_error = NULL,
        ticket_no = NULL, asked_at = NULL, lease_until = NULL, removals_held = :removals_held,
        cadence = :cadence, silent_changes = :silent_changes, watched_days = :watched_days, look_by = :look_by,
        rung_at = CASE WHEN dirty_no > :number THEN clock_timestamp() END,
        dirty_since = CASE WHEN greatest(dirty_no, repeat_no) > :number OR cast(:look_again_seconds AS float8) IS NOT NULL
                           THEN coalesce(dirty_since, :asked_at) END,
        due_at = CASE WHEN dirty_no > :number THEN clock_timestamp()
                      WHEN cast(:look_again_seconds AS float8) IS NOT NULL
                      THEN clock_timestamp() + make_interval(secs => cast(:look_again_seconds AS float8))
                      WHEN repeat_no > :number THEN :asked_at + make_interval(secs => :apart_seconds) END,
        lane = CASE WHEN dirty_no > :number OR cast(:look_again_seconds AS float8) IS NOT NULL THEN :lane
                    WHEN repeat_no > :number THEN 'repeat' END
    WHERE id = :customer AND ticket_no = :number
    RETURNING dirty_no > :number AS again
""")


def settle(
    connection: Connection,
    ticket: Ticket,
    outlook: Outlook,
    *,
    look_again_seconds: float | None,
    removals_held: bool,
    lane: Lane = "hint",
) -> bool:
    """Record that the ticket's answer is believed; true if evidence came in meanwhile, so that it must be asked once more.

    ``outlook`` is what the answer adds to the customer's history; ``lane`` is the next look's, if there is to be one.
    Raises ``Superseded`` if the ticket stands no more.
    """
    parameters = {
        "customer": ticket.customer,
        "number": ticket.number,
        "asked_at": ticket.asked_at,
        "look_again_seconds": look_again_seconds,
        "removals_held": removals_held,
        "lane": lane,
        "cadence": outlook.cadence,
        "silent_changes": outlook.changes,
        "watched_days": outlook.days,
        "look_by": outlook.look_by,
        "apart_seconds": APART_SECONDS,
    }
    again: bool | None = connection.execute(_SETTLE, parameters).scalar_one_or_none()
    if again is None:
        raise Superseded("a newer ticket was taken")
    return again


_FAIL = text("""
    UPDATE cardsync.customers
    SET ticket_no = NULL, asked_at = NULL, lease_until = NULL, rung_at = NULL,
        failures = failures + :counted, last_error = :error,
        due_at = clock_timestamp() + make_interval(secs => :wait_seconds),
        lane = CASE WHEN :counted = 0 OR lane IN ('deletion', 'sweep', 'audit', 'repeat') THEN lane ELSE 'retry' END
    WHERE id = :customer AND ticket_no = :number
""")


def fail(connection: Connection, ticket: Ticket, *, error: str, wait_seconds: float, counted: bool) -> None:
    """Give the ticket back after a failed call, due again later; ``counted`` is false where nothing was called.

    Raises ``Superseded`` if the ticket stands no more.
    """
    parameters = {
        "customer": ticket.customer,
        "number": ticket.number,
        "error": error[:LAST_ERROR_MAX],
        "wait_seconds": wait_seconds,
        "counted": int(counted),
    }
    if connection.execute(_FAIL, parameters).rowcount == 0:
        raise Superseded("a newer ticket was taken")


_DUE = text("""
    UPDATE cardsync.customers SET rung_at = clock_timestamp()
    WHERE id = ANY(ARRAY(
        SELECT id FROM cardsync.customers
        WHERE due_at <= statement_timestamp()
          AND (lease_until IS NULL OR lease_until <= statement_timestamp())
          AND (rung_at IS NULL OR rung_at < statement_timestamp() - make_interval(secs => :again_seconds))
        ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ))
    RETURNING id
""")


def due(connection: Connection, *, again_seconds: float, limit: int) -> list[int]:
    """Pick customers who are due and whom no bell was rung for lately, the longest due first."""
    return list(connection.execute(_DUE, {"again_seconds": again_seconds, "limit": limit}).scalars())


_RELEASE_HELD = text("""
    UPDATE cardsync.customers
    SET removals_held = false, due_at = least(due_at, clock_timestamp()), lane = coalesce(lane, 'retry'), rung_at = NULL
    WHERE removals_held
""")


def release_held(connection: Connection) -> int:
    """Make every customer due whose removals the brake held; the count of them."""
    return connection.execute(_RELEASE_HELD).rowcount


# COPY needs a table to fill and knows no ON CONFLICT. By code point, as all who lock customers do.
_STAGE = text("CREATE TEMPORARY TABLE imported (environment text, customer_id text) ON COMMIT DROP")
_COPY: Final = "COPY pg_temp.imported (environment, customer_id) FROM STDIN"
_IMPORT = text("""
    INSERT INTO cardsync.customers (environment, customer_id)
    SELECT environment, customer_id FROM pg_temp.imported ORDER BY environment COLLATE "C", customer_id COLLATE "C"
    ON CONFLICT (environment, customer_id) DO NOTHING
""")


def add_known(connection: Connection, customers: Iterable[tuple[Environment, str]]) -> int:
    """Make customers known, who are then swept like the others; the count of those that were new. Once in a transaction."""
    connection.execute(_STAGE)
    driver = connection.connection.driver_connection
    assert driver is not None
    with driver.cursor() as cursor, cursor.copy(_COPY) as copy:
        for customer in customers:
            copy.write_row(customer)
    return connection.execute(_IMPORT).rowcount
