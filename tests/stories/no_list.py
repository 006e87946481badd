"""A deployment without a list of cards (KSA): an Ottu that signs and answers inquiries, and a shop that only hears.

``Payments`` knows what is true; a body may say anything. Arrivals are at moments of the test's choice, as the spool brings them.
"""

from __future__ import annotations

import copy
import datetime as dt
import itertools
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sqlalchemy import Engine, text

from cardsync.core.cards import Environment
from cardsync.core.signature import Scheme
from cardsync.ottu.inquiry import Inquired, read_inquired
from cardsync.spool import Spool
from cardsync.store import intake
from cardsync.stories.drain import drain
from cardsync.stories.inquire import InquiryPolicy, inquire_due
from cardsync.stories.process import HintPolicy, process
from cardsync.stories.receive import Receipt, WebhookKeys, examine, write_to_spool
from tests import payloads
from tests.factories import RING, SECRET

PLAIN_KEY: Final = "a-plain-test-key"
SANDBOX_KEY: Final = "a-sandbox-test-key"
KEYS: Final = WebhookKeys.of([f"production:{payloads.KEY}", f"sandbox:{SANDBOX_KEY}", PLAIN_KEY], RING)
POLICY: Final = InquiryPolicy(SECRET, RING, daily_calls=10_000, call_seconds=10.0)
HINTS: Final = HintPolicy(SECRET, believed=True, ring=RING)
BEGAN: Final = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)  # of payments and arrivals; before any clock of this machine
FLAGS: Final = ("is_preferred", "is_expired", "cvv_required", "agreements")

Payload = dict[str, Any]


def at(minutes: float) -> dt.datetime:
    """That number of minutes after the beginning."""
    return BEGAN + dt.timedelta(minutes=minutes)


@dataclass
class Payments:
    """Ottu: what it was paid, and what it answers about it. ``error`` is raised instead if there is one."""

    true: dict[str, Payload] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    error: Exception | None = None
    serving: dict[str, tuple[str, str]] = field(default_factory=dict)  # agreement -> customer and token
    numbers: Any = field(default_factory=itertools.count)

    def pay(
        self,
        customer_id: str = "victim",
        token: str | None = "9999000000000001",
        environment: Environment = "production",
        *,
        agreement_id: str | None = None,
        minutes: float = 0.0,
        **overrides: Any,
    ) -> Payload:
        """A payment, unsigned, as Ottu's answer would hold it."""
        number = next(self.numbers)
        facts = {"is_preferred": False, "cvv_required": agreement_id is None, **overrides.pop("token_fields", {})}
        if agreement_id is not None:
            overrides.setdefault("agreement", {"id": agreement_id, "type": "recurring"})
            overrides.setdefault("payment_type", "auto_debit")
            if overrides.get("result", "success") == "success":
                self.serving[agreement_id] = (customer_id, str(token))
        facts.setdefault("agreements", sorted(a for a, card in self.serving.items() if card == (customer_id, token)))
        payload = payloads.payment(
            customer_id,
            token,
            environment,
            **{
                "session_id": f"{number:040x}",
                "order_no": f"order-{number}",
                "reference_number": f"fake-{number}",
                "timestamp_utc": at(minutes).strftime("%Y-%m-%d %H:%M:%S"),
                "token_fields": facts,
                **overrides,
            },
        )
        self.true[payload["session_id"]] = payload
        return payload

    def inquire(self, session_id: str, *, before_call: Callable[[], None]) -> Inquired | None:
        """Answer about a payment, as the client does."""
        before_call()
        self.asked.append(session_id)
        if self.error is not None:
            raise self.error
        payload = self.true.get(session_id)
        return None if payload is None else read_inquired(payload, session_id)


def signed(payload: Payload, scheme: Scheme = "subscription", key: str | None = None) -> Payload:
    """The payload with Ottu's signature, by the key of its environment unless another is given."""
    made_by = key or (SANDBOX_KEY if payload["is_sandbox"] else payloads.KEY)
    return {**payload, "signature": payloads.signature(payload, made_by, scheme)}


def altered(genuine: Payload, **changes: Any) -> Payload:
    """The same signature beside other values; ``token_fields`` are the card's."""
    made = copy.deepcopy(genuine)
    made["token"] = {**made.get("token", {}), **changes.pop("token_fields", {})}
    return {**made, **changes}


@dataclass
class NoListShop:
    """The stories where hints are the source, with the rights of their processes."""

    engine: Engine
    ingest: Engine
    worker: Engine
    ottu: Payments = field(default_factory=Payments)

    def receive(
        self, payload: Payload, minutes: float | None = None, *, keys: WebhookKeys = KEYS, copies: int = 1
    ) -> uuid.UUID:
        """A body arrives with its copies in one batch, now or ``minutes`` after the beginning. Raises as ``examine``."""
        new = examine(json.dumps(payload).encode(), keys).new
        row = intake.as_row(new, RING)
        if minutes is not None:
            row = replace(row, received_at=at(minutes))
        with self.ingest.connect() as connection:
            first, *others = intake.store_rows(connection, [row] * copies)
        assert all((one.event_id, one.fresh, one.to_ring) == (first.event_id, False, False) for one in others)
        return first.event_id

    def keep(self, spool: Spool, payload: Payload, minutes: float, *, copies: int = 1) -> uuid.UUID:
        """A body arrives while the database is away: it waits on a disk, and its row will have this id."""
        authentic = examine(json.dumps(payload).encode(), KEYS, received_at=at(minutes))
        receipts = write_to_spool(spool, [authentic] * copies, now=at(minutes))
        assert all(isinstance(one, Receipt) for one in receipts)
        return authentic.new.event_id

    def drain(self, spool: Spool) -> int:
        """What waits on a disk becomes rows; returns how many there were."""
        done = drain(self.ingest, spool, keys=RING, kept=None, ring=lambda: None, rest=lambda _: False)
        assert (done.bad, done.erased, spool.is_empty()) == (0, 0, True)
        return done.drained

    def process(self, *event_ids: uuid.UUID) -> list[int]:
        """Process what was received, in the order that the batch has."""
        return process(self.worker, event_ids, HINTS, jitter=0.5)

    def hear(self, payload: Payload, minutes: float | None = None) -> uuid.UUID:
        """A body arrives and is processed."""
        event_id = self.receive(payload, minutes)
        assert self.process(event_id) == []
        return event_id

    def wait(self, minutes: float) -> None:
        """Let time pass for inquiries."""
        self.execute(
            """UPDATE cardsync.inquiries SET heard_at = heard_at - make_interval(secs => :s),
                   due_at = due_at - make_interval(secs => :s), last_asked_at = last_asked_at - make_interval(secs => :s),
                   lease_until = lease_until - make_interval(secs => :s),
                   asked_at = ARRAY(SELECT a - make_interval(secs => :s) FROM unnest(asked_at) AS a)""",
            s=minutes * 60.0,
        )

    def ask(self) -> list[str]:
        """Workers ask about what is due, and process the answers; the sessions that were asked about."""
        before = len(self.ottu.asked)
        for _ in range(100):
            asked = len(self.ottu.asked)
            found = inquire_due(self.worker, self.ottu, POLICY, jitter=0.5)
            self.process(*found)
            if len(self.ottu.asked) == asked:
                break
        return self.ottu.asked[before:]

    def settle(self) -> list[str]:
        """Half an hour later."""
        self.wait(31)
        return self.ask()

    def execute(self, statement: str, **parameters: Any) -> list[Any]:
        """Run SQL of the test's own, committed."""
        with self.engine.begin() as connection:
            result = connection.execute(text(statement), parameters)
            return list(result) if result.returns_rows else []

    def cards(self, status: str = "active") -> set[tuple[str, str, str]]:
        """The cards in a state: environment, customer and token."""
        return {
            (r.environment, r.customer_id, r.token)
            for r in self.execute(
                """SELECT o.environment, o.customer_id, c.token FROM cardsync.cards AS c
                   JOIN cardsync.customers AS o ON o.id = c.customer WHERE c.status = :status""",
                status=status,
            )
        }

    def card(self, token: str) -> Any:
        """The row of the one card with that token."""
        (row,) = self.execute("SELECT * FROM cardsync.cards WHERE token = :token", token=token)
        return row

    def charged(self) -> dict[str, str]:
        """The token that each agreement is charged to."""
        rows = self.execute(
            "SELECT a.agreement_id, t.token FROM registry.agreement_cards AS a JOIN registry.card_tokens AS t USING (card_id)"
        )
        return {r.agreement_id: r.token for r in rows}

    def claims(self) -> dict[str, list[str]]:
        """The agreements that each card's own facts name."""
        rows = self.execute("SELECT token, agreements FROM cardsync.cards WHERE token IS NOT NULL")
        return {r.token: list(r.agreements) for r in rows}
