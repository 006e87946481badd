"""A small deployment with something on every page of the console: for the browser tests and the screenshots."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine, text

from tests import factories

CUSTOMER_ID: Final = "shopper/Ümit 42"
IN_BOTH: Final = "shopper in both environments"
MINUTE: Final = dt.timedelta(minutes=1)

_OBSERVATIONS: Final = text("""
    INSERT INTO cardsync.observations
        (observation_no, customer, lane, asked_at, finished_at, outcome, calls, listed, changed, removed)
    SELECT nextval('cardsync.observation_no'), :customer, (ARRAY['hint', 'sweep', 'read'])[n % 3 + 1],
           now() - n * interval '37 minutes', now(), (ARRAY['unchanged', 'changed', 'error'])[1 + (n % 7) / 3], 1, 2, 0, 0
    FROM generate_series(1, 70) AS n
""")
_CALLS: Final = text("""
    INSERT INTO cardsync.call_minutes
    SELECT date_trunc('minute', now()) - n * interval '7 minutes',
           (ARRAY['deletion', 'hint', 'read', 'retry', 'sweep', 'audit', 'repeat'])[n % 7 + 1], 20 + n
    FROM generate_series(0, 200) AS n
""")
_AUDITS: Final = text("""
    INSERT INTO cardsync.audits (customer, judged_at, verdict, observation_no, causes)
    SELECT :customer, now(), CASE WHEN n = 3 THEN 'wrong' ELSE 'right' END, n,
           CASE WHEN n = 3 THEN '{lag}'::text[] ELSE '{}' END
    FROM generate_series(1, 300) AS n
""")


@dataclass(frozen=True, slots=True)
class Example:
    """The rows that pages with an id in their address are shown of."""

    customer: int
    card: uuid.UUID
    event: uuid.UUID


def fill(engine: Engine) -> Example:
    """Make the rows. The database must be empty; the factories are bound to it, and given back."""
    factories.bind(engine)
    try:
        return _fill(engine)
    finally:
        factories.unbind()


def _fill(engine: Engine) -> Example:
    now = dt.datetime.now(dt.UTC)
    customer = factories.CustomerFactory(
        customer_id=CUSTOMER_ID,
        reconciled_at=now - 12 * MINUTE,
        due_at=now,
        lane="hint",
        dirty_since=now - MINUTE,
        failures=2,
        last_error="OttuFault: 502",
    )
    card = factories.make_card(
        customer,
        confirmed_at=now - dt.timedelta(days=40),
        name_on_card="A PAYER",
        expiry_month="05",
        expires_on=dt.date(now.year + 2, 5, 31),
        agreements=["agr-100"],
    )
    factories.make_card(customer, brand="MASTERCARD", number="**** 4444", confirmed_at=now, is_preferred=True)
    removed = {"status": "removed", "token": None, "removed_because": "absent", "removed_at": now}
    factories.make_card(customer, fingerprint=b"z" * 32, **removed)
    for n in range(60):
        factories.EventFactory(
            customer_id=CUSTOMER_ID,
            received_at=now - 31 * n * MINUTE,
            settled=True,
            result="success",
            state="paid",
            payment_type="save_card" if n % 3 else "one_off",
            session_id=f"{n:040}",
            card_id=card.card_id if n % 2 else None,
        )
    failed = [
        factories.EventFactory(
            customer_id=CUSTOMER_ID,
            received_at=now - 7 * n * MINUTE,
            status="failed",
            last_error="UnusableCard: the text is too long",
        )
        for n in range(3)
    ]
    for environment in ("sandbox", "production"):
        factories.CustomerFactory(customer_id=IN_BOTH, environment=environment)
    for n in range(40):
        factories.CustomerFactory(reconciled_at=now - dt.timedelta(hours=n * n))
    with engine.begin() as connection:
        for statement in (_OBSERVATIONS, _CALLS, _AUDITS):
            connection.execute(statement, {"customer": customer.id})
        agreement = text("INSERT INTO cardsync.agreements VALUES ('sandbox', 'agr-100', :card, 1)")
        connection.execute(agreement, {"card": card.card_id})
        connection.execute(text("ANALYZE cardsync.customers"))
    return Example(customer=customer.id, card=card.card_id, event=failed[0].event_id)
