"""A small deployment with something on every page of the console: for the browser tests and the screenshots."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine, text

from cardsync.store.deletions import requests
from cardsync.stories import endpoints, erase
from cardsync.stories.endpoints import NewEndpoint
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
    erasure: uuid.UUID
    held: uuid.UUID
    operation: uuid.UUID


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
    _fill_endpoint(engine, [event.event_id for event in failed])
    return Example(
        customer=customer.id,
        card=card.card_id,
        event=failed[0].event_id,
        erasure=_erasure(engine),
        held=_held_deletion(engine),
        operation=_operation(engine, [event.event_id for event in failed]),
    )


_DELIVERY: Final = text("""
    INSERT INTO cardsync.deliveries (endpoint_id, event_id, status, attempts, finished_at, last_status, last_error)
    SELECT endpoint_id, :event, 'failed', 12, clock_timestamp(), 500, 'answered 500' FROM cardsync.endpoints
""")


def _fill_endpoint(engine: Engine, events: list[uuid.UUID]) -> None:
    """An endpoint that took none of these notifications."""
    endpoints.add(engine, NewEndpoint("shop", "https://shop.example/hooks/cards", "notifications"), factories.RING)
    with engine.begin() as connection:
        for event in events:
            connection.execute(_DELIVERY, {"event": event})


_END_BADLY: Final = text("""
    UPDATE cardsync.deletions SET phase = 'failed', finished_at = now(), due_at = NULL, error = 'Ottu: HTTP 500'
    WHERE deletion_id = ANY(:deletions)
""")


def _erasure(engine: Engine) -> uuid.UUID:
    """An erasure that does not go on, since the deletion of one of two cards failed."""
    customer = factories.CustomerFactory(customer_id="who is erased", environment="production")
    for last in ("1111", "2222"):
        factories.make_card(customer, number=f"**** {last}", fingerprint=last.encode() * 8)
    begun = erase.begin(engine, erase.Wish("who is erased", "cli:example", "asked by letter"))
    with engine.begin() as connection:
        connection.execute(_END_BADLY, {"deletions": [begun.deletion_ids[0]]})
        connection.execute(
            text(
                "UPDATE cardsync.cards AS c SET status = 'active' FROM cardsync.deletions AS d"
                " WHERE d.card_id = c.card_id AND d.phase = 'failed'"
            )
        )
        connection.execute(text("UPDATE cardsync.erasures SET due_at = now()"))
    erase.advance(engine, 1)
    return begun.erasure_id


def _held_deletion(engine: Engine) -> uuid.UUID:
    """A deletion of an asker who asked for more than one may in a day."""
    card = factories.make_card(factories.CustomerFactory())
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.deletion_brake SET floor = 0, share = 0.0001"))
        asked = requests.request(connection, card_id=card.card_id, requested_by="key shop", asker="api:shop")
        connection.execute(text("UPDATE cardsync.deletion_brake SET floor = 1000"))
    assert asked.held
    return asked.deletion_id


_OPERATION: Final = text("""
    INSERT INTO cardsync.operations
        (kind, subject, filter, operator_id, actor, status, expected, done, failed, failures, finished_at)
    SELECT 'replay_deliveries', 'shop', cast(:filter AS jsonb), operator_id, name, 'done', 40, 38, 2,
           cast(:failures AS jsonb), now()
    FROM cardsync.operators RETURNING operation_id
""")


def _operation(engine: Engine, events: list[uuid.UUID]) -> uuid.UUID:
    """An operation that is done, and has failures."""
    failures = [{"ref": str(event), "why": "its body is not kept any more"} for event in events[:2]]
    given = {
        "filter": json.dumps({"endpoint": "shop", "until": dt.datetime.now(dt.UTC).isoformat()}),
        "failures": json.dumps(failures),
    }
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO cardsync.operators (name, role) VALUES ('Example', 'admin')"))
        made: uuid.UUID = connection.execute(_OPERATION, given).scalar_one()
    return made
