"""Customers: the fact "may differ from Ottu since ...", and the ticket that at most one process holds at a time.

Ranges of rows are compared with ``statement_timestamp()``: ``clock_timestamp()`` is volatile, and no index answers it. Which of
the customers that are due are asked about next stands in ``store.claims``.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from cardsync.core.call_budget import LANES, Lane
from cardsync.core.cards import Environment
from cardsync.core.change_rate import Estimate, History
from cardsync.core.oddities import Oddity
from cardsync.core.repeats import APART_SECONDS
from cardsync.db import Answer, Transaction
from cardsync.errors import Superseded

LAST_ERROR_MAX: Final = 200  # characters
LONGEST_WAIT_WITH_A_HINT_SECONDS: Final = 30.0
PROBATION_HOURS: Final = 48  # forgotten after 24 (``cardsync.forget_probation``), so that a late run costs no call

# A customer is in the line for routine looks unless another look is certain. One in lane ``repeat`` is not: all repeats together
# have a tenth of the calls, so that anybody who holds one signed body could keep a customer out of the line with it. Every other
# lane is served in time: the urgent ones before routine looks, ``sweep`` and ``audit`` from the same share as these. Three
# indexes have the same words.
IN_LINE: Final = "(due_at IS NULL OR lane = 'repeat')"
# A look that a repeat asked for may be under way, and is enough. Made due meanwhile, the customer would be asked about once more
# at once: a date that is set during a call is an asker's, who waits for a newer list (``_SETTLE``).
IS_NOT_ASKED_ABOUT: Final = "(lease_until IS NULL OR lease_until <= statement_timestamp())"

_LANES: Final = f"ARRAY[{', '.join(repr(lane) for lane in LANES)}]"


def more_urgent(one: str, other: str) -> str:
    """SQL for the more urgent of two lanes; NULL is none. A second reason to look must never make a customer wait longer."""
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


# ``hinted_at`` says that hints alone made the customer known, and when the newest came: ``store.retention`` may forget such a
# customer. Any other reason to know a customer clears it for good. Whatever touches a customer ends its probation
# (``store.freshness``); one that was on probation is then known by the hint alone.
_TOUCH = text("""
    INSERT INTO cardsync.customers AS c (environment, customer_id, hinted_at)
    VALUES (:environment, :customer_id, CASE WHEN :by_hint THEN clock_timestamp() END)
    ON CONFLICT (environment, customer_id) DO UPDATE
    SET hinted_at = CASE WHEN coalesce(c.hinted_at, c.probation_since) IS NOT NULL THEN excluded.hinted_at END,
        probation_since = NULL
    RETURNING id, applied_no, removals_held
""")


def touch(connection: Connection, environment: Environment, customer_id: str, *, by_hint: bool = False) -> Touched:
    """Find or make the customer, and lock its row, as every change of a customer's cards does first.

    ``by_hint``: only a notification names the customer, and nothing that a person or a program of the merchant's asked for.
    """
    parameters = {"environment": environment, "customer_id": customer_id, "by_hint": by_hint}
    row = connection.execute(_TOUCH, parameters).one()
    return Touched(row.id, row.applied_no, row.removals_held)


# While Ottu fails for this customer, a fresh hint does not end the wait: the backoff protects Ottu. But a hint shortens a long
# wait, since the trouble may be over. Otherwise the customer is due now, before any later date that a sweep had set. A lane only
# becomes more urgent until a list is believed. So a deletion's proof may use the reserve of calls that the deletion itself used,
# and a hint does not wait behind a reader of the same customer.
_MARKED: Final = f"""
    dirty_no = greatest(dirty_no, {{evidence_no}}),
    dirty_since = coalesce(dirty_since, clock_timestamp()),
    due_at = CASE WHEN failures > 0 AND due_at IS NOT NULL
                  THEN least(due_at, clock_timestamp() + interval '{LONGEST_WAIT_WITH_A_HINT_SECONDS} seconds')
                  ELSE least(due_at, clock_timestamp()) END,
    lane = {more_urgent("c.lane", "CASE WHEN failures > 0 AND {lane} NOT IN ('deletion', 'read') THEN 'retry' ELSE {lane} END")},
    rung_at = clock_timestamp()
"""


def marked(*, evidence_no: str, lane: str) -> str:
    """SQL that marks a customer ``c`` as one that may differ from Ottu, by evidence and lane as SQL: the part after SET."""
    return _MARKED.format(evidence_no=evidence_no, lane=lane)


_MARK = text(f"""
    UPDATE cardsync.customers AS c
    SET {marked(evidence_no="coalesce(:evidence_no, nextval('cardsync.observation_no'))", lane="cast(:lane AS text)")}
    WHERE id = :customer
""")


def mark_dirty(connection: Connection, customer: int, *, evidence_no: int | None, lane: Lane) -> None:
    """Note that the customer may differ from Ottu; without ``evidence_no`` the evidence gets a number now.

    The caller rings after its commit; if that bell is lost, the sweep rings again.
    """
    connection.execute(_MARK, {"customer": customer, "evidence_no": evidence_no, "lane": lane})


# Of several customers too, one statement: ``store.claims`` counts their calls beside it.
_TAKING: Final = """
    UPDATE cardsync.customers
    SET ticket_no = nextval('cardsync.observation_no'), asked_at = clock_timestamp(),
        lease_until = clock_timestamp() + make_interval(secs => :lease_seconds), rung_at = NULL
    WHERE {which} AND due_at <= clock_timestamp() AND (lease_until IS NULL OR lease_until <= clock_timestamp())
    RETURNING id, environment, customer_id, ticket_no, asked_at, lane, failures
"""


def taking(which: str) -> str:
    """SQL that takes the tickets of those of the customers that are due and free; ``which`` is SQL too."""
    return _TAKING.format(which=which)


_TAKE = text(taking("id = ANY(:customers)"))


def take_ticket(connection: Connection, customer: int, *, lease_seconds: float) -> Ticket | None:
    """Take the ticket if the customer is due and no other process holds it; its number is newer than all evidence so far."""
    row = connection.execute(_TAKE, {"customers": [customer], "lease_seconds": lease_seconds}).one_or_none()
    return None if row is None else Ticket(*row)


_STANDING: Final = """
    SELECT given.number, reconciled_at, silent_changes, watched_days, look_by
    FROM unnest(cast(:customers AS bigint[]), cast(:numbers AS bigint[])) AS given (customer, number)
    JOIN cardsync.customers AS c ON c.id = given.customer
    WHERE ticket_no = given.number AND applied_no < given.number AND lease_until > clock_timestamp()
    ORDER BY c.id FOR UPDATE OF c
"""
_STANDING_WAITS, _STANDING_SKIPS = text(_STANDING), text(f"{_STANDING} SKIP LOCKED")


def lock_standing(connection: Transaction, tickets: Sequence[Ticket], *, waits: bool) -> Answer[dict[int, History]]:
    """Lock the customers of those tickets that stand, for applying their answers; their histories, by the tickets' numbers.

    Where another transaction holds the customer this waits, or leaves the ticket out. Several tickets must not wait.
    """
    parameters = {"customers": [t.customer for t in tickets], "numbers": [t.number for t in tickets]}
    rows = connection.execute(_STANDING_WAITS if waits else _STANDING_SKIPS, parameters)
    return lambda: {number: History(*history) for number, *history in rows}


def lock_if_ticket_stands(connection: Transaction, ticket: Ticket) -> Answer[History]:
    """Lock the customer for applying the ticket's answer; the answer is the history that the schedule keeps.

    To read it raises ``Superseded`` if the ticket stands no more: until then nothing may be written.
    """
    standing = lock_standing(connection, [ticket], waits=True)

    def read() -> History:
        history = standing().get(ticket.number)
        if history is None:
            raise Superseded("a newer ticket was taken, or the lease ran out")
        return history

    return read


_LOOK_BY = text("UPDATE cardsync.customers SET look_by = least(look_by, :moment) WHERE id = :customer")


def look_by(connection: Connection, customer: int, moment: dt.datetime) -> None:
    """Let the schedule look at the customer at that moment, unless it does so before."""
    connection.execute(_LOOK_BY, {"customer": customer, "moment": moment})


_RENEW = text("""
    UPDATE cardsync.customers SET lease_until = clock_timestamp() + make_interval(secs => :lease_seconds)
    WHERE id = :customer AND ticket_no = :number AND lease_until > clock_timestamp()
""")


def renew(connection: Connection, ticket: Ticket, *, lease_seconds: float) -> None:
    """Let the ticket stand for one more call. Raises ``Superseded`` if it stands no more."""
    parameters = {"customer": ticket.customer, "number": ticket.number, "lease_seconds": lease_seconds}
    if connection.execute(_RENEW, parameters).rowcount == 0:
        raise Superseded("a newer ticket was taken, or the lease ran out")


# The customer is clean only if no evidence has come since the ticket; evidence is numbered in the same order. Evidence that comes
# from repeats alone may wait (``core.repeats``), and a look that is due anyway is enough for it. A customer on probation is due
# far off, and so stands in no line for routine looks; by then it is forgotten. A date later than the ticket was set meanwhile,
# for an asker that has to wait for the cool-down (``store.freshness``). Right sides see the old row.
_SETTLE = text(f"""
    UPDATE cardsync.customers
    SET applied_no = :number, reconciled_at = :asked_at, failures = 0, last_error = NULL,
        ticket_no = NULL, asked_at = NULL, lease_until = NULL, removals_held = :removals_held, list_oddities = :oddities,
        cadence = :cadence, silent_changes = :silent_changes, watched_days = :watched_days, look_by = :look_by,
        rung_at = CASE WHEN dirty_no > :number THEN clock_timestamp() END,
        dirty_since = CASE WHEN greatest(dirty_no, repeat_no) > :number OR due_at > :asked_at
                             OR cast(:look_again_seconds AS float8) IS NOT NULL
                           THEN coalesce(dirty_since, :asked_at) END,
        due_at = CASE WHEN dirty_no > :number THEN clock_timestamp()
                      WHEN cast(:look_again_seconds AS float8) IS NOT NULL
                      THEN clock_timestamp() + make_interval(secs => cast(:look_again_seconds AS float8))
                      WHEN due_at > :asked_at THEN due_at
                      WHEN repeat_no > :number THEN :asked_at + make_interval(secs => :apart_seconds)
                      WHEN probation_since IS NOT NULL THEN probation_since + interval '{PROBATION_HOURS} hours' END,
        lane = CASE WHEN dirty_no > :number OR cast(:look_again_seconds AS float8) IS NOT NULL THEN :lane
                    WHEN due_at > :asked_at THEN CASE lane WHEN 'repeat' THEN lane ELSE 'read' END
                    WHEN repeat_no > :number THEN 'repeat' WHEN probation_since IS NOT NULL THEN 'sweep' END
    WHERE id = :customer AND ticket_no = :number
    RETURNING dirty_no > :number AS again
""")


def settle(
    connection: Transaction,
    ticket: Ticket,
    estimate: Estimate,
    *,
    look_again_seconds: float | None,
    removals_held: bool,
    oddities: Iterable[Oddity] = (),
    lane: Lane = "hint",
) -> Answer[bool]:
    """Record that the ticket's answer is believed; true if evidence came in meanwhile, so that Ottu must be asked once more.

    ``estimate`` is what the answer adds to the customer's history; ``oddities`` is what was odd about the list; ``lane`` is the
    next look's, if there is to be one. To read what is returned raises ``Superseded`` if the ticket stands no more. Where
    ``lock_if_ticket_stands`` has locked the customer it stands, and that may be read after the commit.
    """
    parameters = {
        "customer": ticket.customer,
        "number": ticket.number,
        "asked_at": ticket.asked_at,
        "look_again_seconds": look_again_seconds,
        "removals_held": removals_held,
        "oddities": sorted(set(oddities)),
        "lane": lane,
        "cadence": estimate.cadence,
        "silent_changes": estimate.changes,
        "watched_days": estimate.days,
        "look_by": estimate.look_by,
        "apart_seconds": APART_SECONDS,
    }
    sent = connection.execute(_SETTLE, parameters)

    def read() -> bool:
        again: bool | None = sent.scalar_one_or_none()
        if again is None:
            raise Superseded("a newer ticket was taken")
        return again

    return read


# What was heard during the call is as good a reason for an early next try as what is heard after it (``_MARK``). A lane that was
# made more urgent meanwhile is a reason of its own.
_FAIL = text("""
    UPDATE cardsync.customers
    SET ticket_no = NULL, asked_at = NULL, lease_until = NULL, rung_at = NULL,
        failures = failures + :counted, last_error = :error,
        due_at = clock_timestamp() + make_interval(secs => CASE
            WHEN dirty_no > :number THEN least(:wait_seconds, greatest(:least_seconds, :longest_wait_seconds))
            ELSE :wait_seconds END),
        lane = CASE WHEN lane = 'read' AND :lane = 'retry' THEN lane  -- what a key causes stays within its share
                    WHEN lane = :ticket_lane THEN :lane
                    WHEN :counted = 0 OR lane IN ('deletion', 'sweep', 'audit', 'repeat') THEN lane ELSE 'retry' END
    WHERE id = :customer AND ticket_no = :number
""")


def fail(
    connection: Connection,
    ticket: Ticket,
    *,
    error: str,
    wait_seconds: float,
    counted: bool,
    lane: Lane,
    least_seconds: float = 0.0,
) -> None:
    """Give the ticket back after a failed call, due again later in ``lane``; ``counted`` is false if no call was made.

    ``least_seconds`` is a wait that no hint shortens: Ottu's own wish. Raises ``Superseded`` if the ticket stands no more.
    """
    parameters = {
        "customer": ticket.customer,
        "number": ticket.number,
        "error": error[:LAST_ERROR_MAX],
        "wait_seconds": wait_seconds,
        "least_seconds": least_seconds,
        "longest_wait_seconds": LONGEST_WAIT_WITH_A_HINT_SECONDS,
        "counted": int(counted),
        "ticket_lane": ticket.lane,
        "lane": lane,
    }
    if connection.execute(_FAIL, parameters).rowcount == 0:
        raise Superseded("a newer ticket was taken")


_IS_NOTED = text("""
    SELECT failures > 0 AND right(last_error, length(cast(:note AS text))) = :note FROM cardsync.customers WHERE id = :customer
""")


def is_noted(connection: Connection, customer: int, note: str) -> bool:
    """Tell whether the customer's last failure was noted with these words at its end."""
    parameters = {"customer": customer, "note": note}
    return bool(connection.execute(_IS_NOTED, parameters).scalar_one_or_none())


# COPY fills a table and knows no ON CONFLICT, so rows are staged first. They are inserted by code point, the common lock order.
_STAGE = text("CREATE TEMPORARY TABLE imported (environment text, customer_id text) ON COMMIT DROP")
_COPY: Final = "COPY pg_temp.imported (environment, customer_id) FROM STDIN"
# A customer that hints made known before is the merchant's own by this, and never forgotten.
_IMPORT = text("""
    WITH known AS (
        INSERT INTO cardsync.customers AS c (environment, customer_id)
        SELECT DISTINCT ON (environment COLLATE "C", customer_id COLLATE "C") environment, customer_id
        FROM pg_temp.imported ORDER BY environment COLLATE "C", customer_id COLLATE "C"
        ON CONFLICT (environment, customer_id) DO UPDATE SET hinted_at = NULL, probation_since = NULL
        WHERE coalesce(c.hinted_at, c.probation_since) IS NOT NULL
        RETURNING xmax = 0 AS is_new
    )
    SELECT count(*) FILTER (WHERE is_new) FROM known
""")


def add_known(connection: Connection, customers: Iterable[tuple[Environment, str]]) -> int:
    """Make customers known, so that sweeps visit them; return the number of new ones. Call it at most once in a transaction."""
    connection.execute(_STAGE)
    driver = connection.connection.driver_connection
    assert driver is not None
    with driver.cursor() as cursor, cursor.copy(_COPY) as copy:
        for customer in customers:
            copy.write_row(customer)
    made_known: int = connection.execute(_IMPORT).scalar_one()
    return made_known
