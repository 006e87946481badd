"""``note_charge``: billing tells of a charge of an agreement that Ottu does not notify, or of the next one.

The card is looked at shortly before the next charge: the date goes into the customer's row, where the schedule finds it. A next
charge that is nearer than that makes the customer due now. It runs in the caller's transaction, which is also that of the
request's idempotency key: a charge is noted, and its answer kept, together or not at all.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from cardsync.core.agreements import CHARGES_KEPT, Agreement, next_charge
from cardsync.core.cards import Environment
from cardsync.core.change_rate import BEFORE_A_CHARGE
from cardsync.errors import NotFound
from cardsync.store import customers, freshness, known_agreements
from cardsync.store.access.key_use import CallQuota


@dataclass(frozen=True, slots=True)
class Noted:
    """When the next charge is expected, and whether the customer is due now, so that a bell is to ring after the commit."""

    next_charge_at: dt.datetime | None
    is_due: bool


def note_charge(
    connection: Connection,
    environment: Environment,
    agreement_id: str,
    *,
    charged_at: dt.datetime | None,
    next_charge_at: dt.datetime | None,
    lists: bool,
    now: dt.datetime,
    quota: CallQuota | None = None,
) -> Noted:
    """Note a charge and when the next one is. Raises ``NotFound`` for an unknown agreement.

    ``lists`` is false where Ottu offers none (KSA), so that there is no look to ask for. ``now`` is the database's moment.
    """
    customer = known_agreements.lock_owner(connection, environment, agreement_id)
    known = None if customer is None else known_agreements.lock(connection, environment, agreement_id)
    if customer is None or known is None:
        raise NotFound("there is no such agreement", code="agreement_not_found")
    told = _with(known.agreement, charged_at=charged_at, next_charge_at=next_charge_at)
    known_agreements.note_charges(connection, known, told)
    expected = next_charge(told, after=now)
    known_agreements.expect(connection, [replace(known, agreement=told)], now=now)
    is_due = False
    if expected is not None and expected - BEFORE_A_CHARGE > now:
        customers.look_by(connection, customer, expected - BEFORE_A_CHARGE)
    elif expected is not None and lists:
        is_due = freshness.ask(connection, customer, quota=quota) == "asked"
    return Noted(expected, is_due)


def _with(known: Agreement, *, charged_at: dt.datetime | None, next_charge_at: dt.datetime | None) -> Agreement:
    """The agreement with what billing told. A charge makes an earlier word about the next one old."""
    charges = sorted({*known.charges, *([charged_at] if charged_at else [])}, reverse=True)[:CHARGES_KEPT]
    told = known.told_next_at
    if next_charge_at is not None:
        told = next_charge_at
    elif told is not None and charged_at is not None and charged_at >= told - BEFORE_A_CHARGE:
        told = None
    return Agreement(known.terms, tuple(charges), told)
