"""Questions to Ottu about one agreement: which are due, the ticket of each, and what an answer changes.

The answer is Ottu's list filtered by the agreement: at most one card, the latest used for it. It is believed as an observation of
that agreement alone, under the evidence number that its ticket drew before the call. It links or unlinks the agreement, and says
nothing of any other card.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Connection, text

from cardsync.core.cards import Environment
from cardsync.db import Transaction
from cardsync.store.customers import LAST_ERROR_MAX

AskLane = Literal["read", "retry"]


@dataclass(frozen=True, slots=True)
class Ticket:
    """The right to ask Ottu once about one agreement, and the number under which the answer may be believed."""

    environment: Environment
    agreement_id: str
    customer: int
    customer_id: str
    number: int
    asked_at: dt.datetime
    lane: AskLane
    failures: int

    @property
    def key(self) -> dict[str, Any]:
        """The agreement and the ticket's number, as parameters."""
        return {"environment": self.environment, "agreement_id": self.agreement_id, "number": self.number}


_WANT = text("""
    UPDATE cardsync.known_agreements
    SET due_at = coalesce(due_at, clock_timestamp()), lane = coalesce(lane, 'retry')
    WHERE environment = :environment AND agreement_id = ANY(cast(:agreements AS text[]))
""")


def want(connection: Transaction, environment: Environment, agreements: Collection[str]) -> None:
    """Let Ottu be asked about these agreements."""
    if agreements:
        connection.execute(_WANT, {"environment": environment, "agreements": sorted(agreements)})


# A list asks about what it leaves open. One that was asked for after the notification, and was believed before the notification
# was heard, did not know of the agreement; and no further list is asked for, since the notification is answered.
_WANT_UNCLAIMED = text("""
    UPDATE cardsync.known_agreements AS k
    SET due_at = coalesce(k.due_at, clock_timestamp()), lane = coalesce(k.lane, 'retry')
    FROM cardsync.customers AS o, unnest(cast(:environments AS text[]), cast(:agreements AS text[])) AS heard (environment, id)
    WHERE k.environment = heard.environment AND k.agreement_id = heard.id AND k.without_card_since IS NOT NULL
      AND o.id = k.customer AND coalesce(k.answered_no, 0) < k.heard_no AND k.heard_no < o.applied_no
""")


def want_unclaimed(connection: Transaction, heard: Collection[tuple[Environment, str]]) -> None:
    """Let Ottu be asked about those of the agreements just heard of that a newer list, already believed, left without a card."""
    if heard:
        environments, agreements = zip(*sorted(heard), strict=True)
        connection.execute(_WANT_UNCLAIMED, {"environments": list(environments), "agreements": list(agreements)})


_TAKE = text("""
    UPDATE cardsync.known_agreements AS k
    SET ticket_no = nextval('cardsync.observation_no'), asked_at = clock_timestamp(),
        lease_until = clock_timestamp() + make_interval(secs => :lease_seconds)
    FROM cardsync.customers AS o
    WHERE o.id = k.customer AND (k.environment, k.agreement_id) = (
        SELECT d.environment, d.agreement_id FROM cardsync.known_agreements AS d
        WHERE d.due_at <= statement_timestamp() AND (d.lease_until IS NULL OR d.lease_until <= statement_timestamp())
        ORDER BY d.due_at LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    RETURNING k.environment, k.agreement_id, k.customer, o.customer_id, k.ticket_no, k.asked_at, k.lane, k.failures
""")


def take(connection: Connection, *, lease_seconds: float) -> Ticket | None:
    """Take the ticket of the agreement that is due longest; ``None`` if none is."""
    row = connection.execute(_TAKE, {"lease_seconds": lease_seconds}).one_or_none()
    return None if row is None else Ticket(*row)


_LOCK_CUSTOMER = text("SELECT applied_no FROM cardsync.customers WHERE id = :customer FOR UPDATE")
# A wish that came during the call stays. An agreement that only a reader named, and that has no card, is not known any more.
_SETTLE = text("""
    UPDATE cardsync.known_agreements
    SET answered_no = :number, answered_at = asked_at, failures = 0, last_error = NULL,
        lane = CASE WHEN due_at > asked_at THEN lane END, due_at = CASE WHEN due_at > asked_at THEN due_at END,
        ticket_no = NULL, asked_at = NULL, lease_until = NULL
    WHERE environment = :environment AND agreement_id = :agreement_id AND ticket_no = :number
      AND lease_until > clock_timestamp()
""")
_FORGET = text("""
    DELETE FROM cardsync.known_agreements
    WHERE environment = :environment AND agreement_id = :agreement_id AND without_card_since = 'infinity' AND heard_no = 0
""")


def lock(connection: Connection, ticket: Ticket) -> bool:
    """Lock the ticket's customer; false if a complete list is believed already that was asked for later."""
    applied_no: int = connection.execute(_LOCK_CUSTOMER, {"customer": ticket.customer}).scalar_one()
    return applied_no < ticket.number


def settle(connection: Connection, ticket: Ticket) -> bool:
    """Record that the ticket's answer is believed; false if the ticket stands no more."""
    return connection.execute(_SETTLE, ticket.key).rowcount == 1


_LINK = text("""
    INSERT INTO cardsync.agreements AS a (environment, agreement_id, card_id, since_no)
    VALUES (:environment, :agreement_id, :card_id, :number)
    ON CONFLICT (environment, agreement_id) DO UPDATE
    SET card_id = excluded.card_id, since_no = excluded.since_no, since_at = NULL
    WHERE a.since_no < excluded.since_no AND a.card_id <> excluded.card_id
""")
_UNLINK = text("""
    DELETE FROM cardsync.agreements AS a USING cardsync.cards AS c
    WHERE a.environment = :environment AND a.agreement_id = :agreement_id AND a.since_no < :number
      AND c.card_id = a.card_id AND c.customer = :customer
""")


def link(connection: Connection, ticket: Ticket, card_id: uuid.UUID | None) -> None:
    """Link the agreement to a card of the ticket's customer; ``None`` takes it from the customer's cards."""
    if card_id is not None:
        connection.execute(_LINK, {**ticket.key, "card_id": card_id})
        return
    connection.execute(_UNLINK, {**ticket.key, "customer": ticket.customer})
    connection.execute(_FORGET, {"environment": ticket.environment, "agreement_id": ticket.agreement_id})


_PUT_OFF = text("""
    UPDATE cardsync.known_agreements
    SET due_at = clock_timestamp() + make_interval(secs => :wait_seconds), failures = failures + :counted,
        last_error = :error, ticket_no = NULL, asked_at = NULL, lease_until = NULL
    WHERE environment = :environment AND agreement_id = :agreement_id AND ticket_no = :number
""")


def put_off(connection: Connection, ticket: Ticket, *, wait_seconds: float, error: str, counted: bool) -> None:
    """Give the ticket back, due again later; ``counted`` is false if no call was made."""
    parameters = {"wait_seconds": wait_seconds, "error": error[:LAST_ERROR_MAX], "counted": int(counted)}
    connection.execute(_PUT_OFF, {**ticket.key, **parameters})


# Until when what is known of the agreement's card is certain. A complete list is enough where one card claims it, or where no
# notification named it; else only Ottu's own answer about it. The customer's cards are few.
_OF: Final = """
    SELECT k.customer, k.failures, clock_timestamp() AS read_at,
           extract(epoch FROM k.due_at - clock_timestamp())::float8 AS due_in_seconds,
           k.asked_at, k.answered_at,
           CASE WHEN (
               SELECT count(*) FROM cardsync.cards AS c JOIN registry.cards AS r USING (card_id)
               WHERE c.customer = k.customer AND c.status = 'active' AND k.agreement_id = ANY(r.agreements)
           ) = 1 OR (k.heard_no = 0 AND k.without_card_since < 'infinity')
           THEN greatest(k.answered_at, o.reconciled_at) ELSE k.answered_at END AS certain_at
    FROM cardsync.known_agreements AS k JOIN cardsync.customers AS o ON o.id = k.customer
    WHERE k.environment = :environment AND k.agreement_id = :agreement_id
"""
_OF_AGREEMENT = text(_OF)


@dataclass(frozen=True, slots=True)
class Certainty:
    """How certain it is which card an agreement is charged to: as of when (``None``: not at all), and when it is asked about."""

    customer: int
    failures: int
    read_at: dt.datetime
    due_in_seconds: float | None
    asked_at: dt.datetime | None
    answered_at: dt.datetime | None
    certain_at: dt.datetime | None

    @property
    def as_of(self) -> dt.datetime | None:
        """As of when the card is certain."""
        return self.certain_at


def certainty(connection: Connection, environment: Environment, agreement_id: str) -> Certainty | None:
    """How certain the agreement's card is; ``None`` for an unknown agreement."""
    parameters = {"environment": environment, "agreement_id": agreement_id}
    row = connection.execute(_OF_AGREEMENT, parameters).one_or_none()
    return None if row is None else Certainty(*row)


# Until Ottu shows a card of it, an agreement that only a reader named is at no risk.
_MEET = text("""
    INSERT INTO cardsync.known_agreements (environment, agreement_id, customer, without_card_since)
    VALUES (:environment, :agreement_id, :customer, 'infinity')
    ON CONFLICT DO NOTHING
""")
_WANT_NOW = text("""
    UPDATE cardsync.known_agreements
    SET due_at = CASE WHEN failures > 0 THEN coalesce(due_at, clock_timestamp()) ELSE clock_timestamp() END, lane = 'read'
    WHERE environment = :environment AND agreement_id = :agreement_id
""")


def meet(connection: Connection, environment: Environment, agreement_id: str, customer: int) -> None:
    """Make an agreement known that a reader names, with the customer to ask about; one that is known stays as it is."""
    parameters = {"environment": environment, "agreement_id": agreement_id, "customer": customer}
    connection.execute(_MEET, parameters)


def want_now(connection: Connection, environment: Environment, agreement_id: str) -> None:
    """Let Ottu be asked about the agreement at once, for a reader; after a failure when its wait is over."""
    connection.execute(_WANT_NOW, {"environment": environment, "agreement_id": agreement_id})
