"""Rows of the private tables, truly committed: races, locks and crashes need what other connections can see.

Each test has a database of its own, so nothing is rolled back. ``Sequence`` keeps unique columns unique.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
from typing import Any

import factory
from sqlalchemy import Engine, null, text
from sqlalchemy.orm import scoped_session, sessionmaker

from cardsync.ciphers import KeyRing
from cardsync.core.cards import Token
from cardsync.core.change_rate import NEWCOMERS, Estimate
from cardsync.store.schema import registry

ESTIMATE = Estimate(NEWCOMERS, changes=0.0, days=0.0, look_by=None)
SECRET = b"a secret of the tests, 32 bytes."
RING = KeyRing(SECRET)
SESSIONS = scoped_session(sessionmaker(expire_on_commit=False))


def bind(engine: Engine) -> None:
    """Point all factories at a database."""
    SESSIONS.remove()
    SESSIONS.configure(bind=engine)


def fingerprint_with(engine: Engine, key: bytes = SECRET) -> None:
    """Make a key of the tests' the key of the fingerprints, as a release before rotation left its secret key."""
    check = hmac.digest(key, b"card-token-fingerprints", "sha256")
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.gate SET secret_check = :check"), {"check": check})


def unbind() -> None:
    """Give the factories' connection back, so that the database can be dropped."""
    SESSIONS.remove()


class Row(factory.alchemy.SQLAlchemyModelFactory):  # type: ignore[type-arg]
    """One committed row."""

    class Meta:
        abstract = True
        sqlalchemy_session = SESSIONS
        sqlalchemy_session_persistence = "commit"


class CustomerFactory(Row):
    """A customer with nothing to do."""

    class Meta:
        model = registry.CustomerRow

    environment = "sandbox"
    customer_id = factory.Sequence(lambda n: f"cust/{n} é%")

    class Params:
        dirty = factory.Trait(
            dirty_no=1,
            dirty_since=factory.LazyFunction(lambda: dt.datetime.now(dt.UTC)),
            due_at=factory.LazyFunction(lambda: dt.datetime.now(dt.UTC) - dt.timedelta(minutes=1)),
            lane="hint",
        )


class CardFactory(Row):
    """An active card; ``make_card`` knows its token."""

    class Meta:
        model = registry.CardRow

    fingerprint = factory.LazyAttribute(lambda o: Token(o.token).fingerprint(SECRET, "sandbox"))
    token = factory.Sequence(lambda n: f"99990000{n:08d}")
    status = "active"
    brand = "VISA"
    number = "**** 0008"
    last4 = "0008"
    agreements = factory.LazyFunction(list)
    cause = "hint"


class EventFactory(Row):
    """A pending hint."""

    class Meta:
        model = registry.EventRow

    body_hash = factory.Sequence(lambda n: hashlib.sha256(str(n).encode()).digest())
    status = "pending"
    kind = "payment"
    environment = "sandbox"
    customer_id = "cust-1"
    scheme = "standard"
    key_id = "0123456789ab"
    token = factory.Sequence(lambda n: f"99990001{n:08d}")
    facts = factory.LazyFunction(lambda: {"brand": "VISA", "number": "**** 0008", "agreements": None})

    class Params:
        settled = factory.Trait(status="done", token=None, facts=null())


def make_card(customer: registry.CustomerRow, **overrides: Any) -> registry.CardRow:
    """An active card of the customer."""
    row: registry.CardRow = CardFactory(customer=customer.id, **overrides)
    return row
