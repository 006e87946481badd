"""Agreements that are known: by a card's link (a trigger on ``cardsync.agreements``), or by a notification that named them.

What notifications say of one is kept as hints: the newest wins, and nothing of it decides which card is charged. A row is written
after its customer is locked, in the order of agreements, as links are.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any, Final

from sqlalchemy import Connection, text

from cardsync.core.agreements import CHARGES_KEPT, Agreement, Cycle, Terms, cycle, next_charge
from cardsync.core.cards import Environment
from cardsync.db import Answer, Transaction

# Bounded like everything; a customer has a handful, and the others are looked at when a notification or a list names them.
OF_A_CUSTOMER_MAX: Final = 100
# How long a list may lack what a notification named, before the agreement counts as one without a card.
PATIENCE_SECONDS: Final = 120

_TERMS: Final = tuple(field.name for field in fields(Terms))
_COLUMNS: Final = (
    f"environment, agreement_id, {', '.join(_TERMS)}, charges, told_next_at, expected_at, cycle_months, cycle_days, "
    "without_card_since IS NULL AS has_card, heard_no, coalesce(answered_no, 0) AS answered_no"
)


@dataclass(frozen=True, slots=True)
class Heard:
    """A notification of a payment for an agreement: when it came, and what it says. One that surely failed is none.

    ``proves``: the payment succeeded, so that there is an agreement. Else nothing that it says is at risk before a card had it.
    """

    customer: int
    environment: Environment
    agreement_id: str
    evidence_no: int
    received_at: dt.datetime
    terms: Terms
    proves: bool = True


@dataclass(frozen=True, slots=True)
class Known:
    """A known agreement of one customer. ``expected_at`` is the next charge as it was written last, and ``step`` its cycle.

    ``heard_no`` numbers the newest notification of it, and ``answered_no`` Ottu's newest answer about it; 0 if there is none.
    """

    environment: Environment
    agreement_id: str
    agreement: Agreement
    expected_at: dt.datetime | None
    step: Cycle | None
    has_card: bool
    heard_no: int
    answered_no: int


# Of a card's link the customer is certain, so that a notification changes it only where there is none. 'infinity': no card ever
# had it, and no payment proved it (``agreement_asks`` writes the same of what only a reader named).
_HEAR = text(f"""
    INSERT INTO cardsync.known_agreements AS k (
        environment, agreement_id, customer, heard_no, {", ".join(_TERMS)}, charges, without_card_since
    )
    SELECT environment, agreement_id, customer, evidence_no, {", ".join(_TERMS)}, charges,
           CASE WHEN proves THEN clock_timestamp() + interval '{PATIENCE_SECONDS} seconds' ELSE 'infinity' END
    FROM json_to_recordset(cast(:heard AS json)) AS said (
        environment text, agreement_id text, customer bigint, evidence_no bigint, type text, frequency text,
        cycle_interval_days integer, total_cycles integer, starts_on date, expires_on date, charges timestamptz[],
        proves boolean
    )
    ORDER BY environment, agreement_id
    ON CONFLICT (environment, agreement_id) DO UPDATE SET
        customer = CASE WHEN k.without_card_since IS NULL THEN k.customer ELSE excluded.customer END,
        without_card_since = CASE WHEN k.without_card_since = 'infinity' THEN excluded.without_card_since
            ELSE k.without_card_since END,
        heard_no = greatest(k.heard_no, excluded.heard_no),
        {
    ", ".join(
        f"{name} = CASE WHEN excluded.heard_no > k.heard_no THEN coalesce(excluded.{name}, k.{name})"
        f" ELSE coalesce(k.{name}, excluded.{name}) END"
        for name in _TERMS
    )
},
        charges = ARRAY(
            SELECT DISTINCT moment FROM unnest(k.charges || excluded.charges) AS moment
            ORDER BY moment DESC LIMIT {CHARGES_KEPT}
        )
""")


def hear(connection: Transaction, heard: Sequence[Heard]) -> None:
    """Take what notifications say of agreements; of several about one agreement, the newest first."""
    if not heard:
        return
    about: dict[tuple[Environment, str], list[Heard]] = {}
    for one in sorted(heard, key=lambda h: h.evidence_no):
        about.setdefault((one.environment, one.agreement_id), []).append(one)
    rows = [_folded(of_one) for of_one in about.values()]
    connection.execute(_HEAR, {"heard": json.dumps(rows)})
    customers = sorted({one.customer for one in heard})
    known = of_customers(connection, customers)()
    expect(connection, chain.from_iterable(known.values()), now=max(one.received_at for one in heard))


def _folded(heard: Sequence[Heard]) -> dict[str, Any]:
    """Several notifications of one agreement, the newest last, as one row."""
    terms: dict[str, Any] = {}
    for one in heard:
        terms |= one.terms.as_json()
    moments = sorted({one.received_at for one in heard}, reverse=True)[:CHARGES_KEPT]
    newest = heard[-1]
    return {
        "environment": newest.environment,
        "agreement_id": newest.agreement_id,
        "customer": newest.customer,
        "evidence_no": newest.evidence_no,
        "charges": [moment.isoformat() for moment in moments],
        "proves": any(one.proves for one in heard),
        **terms,
    }


_OF_CUSTOMERS = text(f"""
    SELECT given.customer, known.* FROM unnest(cast(:customers AS bigint[])) AS given (customer) CROSS JOIN LATERAL (
        SELECT {_COLUMNS} FROM cardsync.known_agreements AS k
        WHERE k.customer = given.customer ORDER BY heard_no DESC LIMIT :limit
    ) AS known
""")


def of_customers(connection: Transaction, customers: Sequence[int]) -> Answer[dict[int, list[Known]]]:
    """The agreements known of each customer, those that a notification named last first."""
    rows = connection.execute(_OF_CUSTOMERS, {"customers": list(customers), "limit": OF_A_CUSTOMER_MAX})

    def read() -> dict[int, list[Known]]:
        found: dict[int, list[Known]] = {customer: [] for customer in customers}
        for row in rows:
            found[row.customer].append(_known(row))
        return found

    return read


def _known(row: Any) -> Known:
    terms = Terms(**{name: getattr(row, name) for name in _TERMS})
    return Known(
        row.environment,
        row.agreement_id,
        Agreement(terms, tuple(row.charges), row.told_next_at),
        row.expected_at,
        None if row.cycle_days is None else Cycle(row.cycle_months, row.cycle_days),
        has_card=row.has_card,
        heard_no=row.heard_no,
        answered_no=row.answered_no,
    )


_EXPECT = text("""
    UPDATE cardsync.known_agreements AS k
    SET expected_at = e.expected_at, cycle_months = e.cycle_months, cycle_days = e.cycle_days
    FROM json_to_recordset(cast(:expected AS json)) AS e (
        environment text, agreement_id text, expected_at timestamptz, cycle_months smallint, cycle_days smallint
    )
    WHERE k.environment = e.environment AND k.agreement_id = e.agreement_id
""")


def expect(connection: Transaction, known: Iterable[Known], *, now: dt.datetime) -> None:
    """Write when each agreement is charged next, where that is another moment, or another cycle, than is written."""
    changed = []
    for one in known:
        expected, step = next_charge(one.agreement, after=now), cycle(one.agreement)
        # A cycle counts from a charge, or up to the last one: that of an agreement whose cycles are over says so.
        has_cycle = expected is not None or one.agreement.terms.total_cycles is not None
        if expected == one.expected_at and (step == one.step or not has_cycle):
            continue
        changed.append(
            {
                "environment": one.environment,
                "agreement_id": one.agreement_id,
                "expected_at": None if expected is None else expected.isoformat(),
                "cycle_months": None if step is None else step.months,
                "cycle_days": None if step is None else step.days,
            }
        )
    if changed:
        connection.execute(_EXPECT, {"expected": json.dumps(changed)})


_OWNER = text("""
    SELECT o.id FROM cardsync.known_agreements AS k JOIN cardsync.customers AS o ON o.id = k.customer
    WHERE k.environment = :environment AND k.agreement_id = :agreement_id FOR NO KEY UPDATE OF o
""")
_LOCKED = text(f"""
    SELECT {_COLUMNS} FROM cardsync.known_agreements
    WHERE environment = :environment AND agreement_id = :agreement_id FOR UPDATE
""")
_CHARGED = text("""
    UPDATE cardsync.known_agreements SET charges = :charges, told_next_at = :told_next_at
    WHERE environment = :environment AND agreement_id = :agreement_id
""")


def lock_owner(connection: Connection, environment: Environment, agreement_id: str) -> int | None:
    """Lock the customer of an agreement; ``None`` if the agreement is not known."""
    parameters = {"environment": environment, "agreement_id": agreement_id}
    owner: int | None = connection.execute(_OWNER, parameters).scalar_one_or_none()
    return owner


def lock(connection: Connection, environment: Environment, agreement_id: str) -> Known | None:
    """Lock a known agreement, whose customer the caller holds."""
    parameters = {"environment": environment, "agreement_id": agreement_id}
    row = connection.execute(_LOCKED, parameters).one_or_none()
    return None if row is None else _known(row)


def note_charges(connection: Connection, known: Known, agreement: Agreement) -> None:
    """Write the charges of a locked agreement, and what billing told of the next one."""
    parameters = {
        "environment": known.environment,
        "agreement_id": known.agreement_id,
        "charges": list(agreement.charges),
        "told_next_at": agreement.told_next_at,
    }
    connection.execute(_CHARGED, parameters)
