"""Rows of the private tables, truly committed: races, locks and crashes need what other connections can see.

Each test has a database of its own, so nothing is rolled back. ``Sequence`` keeps unique columns unique.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import Any

import factory
from sqlalchemy import Engine
from sqlalchemy.orm import scoped_session, sessionmaker

from cardsync.core.cards import Token
from cardsync.core.outlook import NEWCOMERS, Outlook
from cardsync.store import models

OUTLOOK = Outlook(NEWCOMERS, changes=0.0, days=0.0, look_by=None)
SECRET = b"a secret of the tests, 32 bytes."
SESSIONS = scoped_session(sessionmaker(expire_on_commit=False))


def bind(engine: Engine) -> None:
    """Point all factories at a database."""
    SESSIONS.remove()
    SESSIONS.configure(bind=engine)


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
        model = models.CustomerRow

    environment = "sandbox"
    customer_id = factory.Sequence(lambda n: f"cust/{n} é%")

    class Params:
        dirty = factory.Trait(
            dirty_no=1,
            dirty_since=factory.LazyFunction(lambda: dt.datetime.now(dt.UTC)),
            due_at=factory.LazyFunction(lambda: dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1)),
            lane="hint",
        )


class CardFactory(Row):
    """An active card; ``make_card`` knows its token."""

    class Meta:
        model = models.CardRow

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
        model = models.EventRow

    body_hash = factory.Sequence(lambda n: hashlib.sha256(str(n).encode()).digest())
    status = "pending"
    kind = "payment"
    environment = "sandbox"
    customer_id = "cust-1"
    scheme = "standard"
    key_id = "0123456789ab"
    token = factory.Sequence(lambda n: f"99990001{n:08d}")
    facts = factory.LazyFunction(lambda: {"brand": "VISA", "number": "**** 0008", "agreements": None})


def make_card(customer: models.CustomerRow, **overrides: Any) -> models.CardRow:
    """An active card of the customer."""
    row: models.CardRow = CardFactory(customer=customer.id, **overrides)
    return row
