"""Ottu as a story sees it, in the test's own hands: what is listed, what fails, and what happens during a call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Engine, text

from cardsync.core.call_budget import LANES, Lane
from cardsync.core.cards import CardFacts, ListedCard, Token
from cardsync.ottu import CardList
from cardsync.stories.claim import claim_looks
from cardsync.stories.process import HintPolicy, process
from cardsync.stories.receive import Receipt, WebhookKeys, examine, store
from cardsync.stories.reconcile import CountedTicket, ReconcilePolicy, Result, reconcile
from tests import payloads
from tests.factories import RING, SECRET

KEYS = WebhookKeys.of([payloads.KEY], RING)
POLICY = ReconcilePolicy(
    fingerprint_key=SECRET,
    ring=RING,
    confirm_seconds=120.0,
    daily_calls=1_000,
    call_seconds=10.0,
    brake_share=0.05,
    brake_floor=50,
)
FACTS = CardFacts(brand="VISA", number="**** 0008", expiry_month="01", expiry_year="39", is_preferred=True)


def receive(engine: Engine, body: bytes, keys: WebhookKeys = KEYS) -> Receipt:
    """Verify one notification and store it, as the endpoint does."""
    return store(engine, [examine(body, keys)])[0]


def listed(*tokens: str, **facts: Any) -> tuple[ListedCard, ...]:
    """Cards as Ottu lists them."""
    return tuple(ListedCard(Token(t), replace(FACTS, **facts)) for t in tokens)


@dataclass
class Ottu:
    """Answers every list with ``cards``, after ``meanwhile``; raises ``error`` instead if there is one."""

    cards: tuple[ListedCard, ...] = ()
    error: Exception | None = None
    meanwhile: Callable[[], None] = lambda: None
    calls: int = 0
    asked_for: list[tuple[str, str]] = field(default_factory=list)

    def list_cards(
        self,
        environment: str,
        customer_id: str,
        *,
        deadline_seconds: float,
        before_call: Callable[[], None],
    ) -> CardList:
        before_call()
        self.calls += 1
        self.asked_for.append((environment, customer_id))
        answer = self.cards
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        if self.error is not None:
            raise self.error
        return CardList(answer, calls=1)


@dataclass
class Shop:
    """The stories on one database, driven step by step, each with the rights of its process; ``engine`` is the owner's."""

    engine: Engine
    ingest: Engine
    web: Engine
    worker: Engine
    ottu: Ottu = field(default_factory=Ottu)
    policy: ReconcilePolicy = POLICY
    hints: HintPolicy = field(default_factory=lambda: HintPolicy(SECRET, believed=False, ring=RING))

    def receive(self, customer_id: str = "cust-1", token: str = "9999000000000001", **overrides: Any) -> Receipt:
        """A notification arrives; of another customer or session it is of another order, which its signature covers."""
        overrides.setdefault("order_no", f"order-{customer_id}-{overrides.get('session_id', 1)}")
        return receive(self.ingest, payloads.signed(payloads.payment(customer_id, token, **overrides)), KEYS)

    def hint(self, customer_id: str = "cust-1", token: str = "9999000000000001", **overrides: Any) -> list[int]:
        """A notification arrives and is processed; the customers that became due."""
        return self.process(self.receive(customer_id, token, **overrides))

    def process(self, *receipts: Receipt) -> list[int]:
        """Process what was received."""
        return process(self.worker, [r.event_id for r in receipts], self.hints, jitter=0.5)

    def claim(self, *lanes: Lane, limit: int = 100, policy: ReconcilePolicy | None = None) -> list[CountedTicket]:
        """A worker claims what is due, by default in all lanes, hints among it."""
        hints = None if lanes else self.hints
        found = claim_looks(self.worker, policy or self.policy, lanes or LANES, limit=limit, jitter=0.5, hints=hints)
        return list(found.tickets)

    def reconcile(self, customer: int, *, lane: str | None = None) -> Result:
        """Reconcile a customer; with ``lane``, make it due first."""
        if lane is not None:
            self.execute(
                "UPDATE cardsync.customers SET due_at = clock_timestamp(), lane = :lane WHERE id = :id",
                lane=lane,
                id=customer,
            )
        return reconcile(self.worker, self.ottu, customer, self.policy, jitter=0.5)

    def execute(self, statement: str, **parameters: Any) -> list[Any]:
        """Run SQL of the test's own, committed."""
        with self.engine.begin() as connection:
            result = connection.execute(text(statement), parameters)
            return list(result) if result.returns_rows else []

    def open_gate(self) -> None:
        """Let whatever stops calls be over: the pause, the limited pace, the breaker."""
        columns = ("paused_until", "pace_per_second", "pace_since", "pace_next_at")
        columns += ("breaker_reason", "breaker_opened_at", "breaker_shut_until", "breaker_probing")
        self.execute(f"UPDATE cardsync.gate SET {', '.join(f'{c} = NULL' for c in columns)}")

    def cards(self, customer_id: str = "cust-1") -> dict[str, str]:
        """The customer's cards: masked number or id, and status."""
        rows = self.execute(
            """SELECT coalesce(c.token, '(erased)') AS token, c.status FROM cardsync.cards AS c
               JOIN cardsync.customers AS o ON o.id = c.customer WHERE o.customer_id = :id""",
            id=customer_id,
        )
        return {row.token: row.status for row in rows}

    def customer(self, customer_id: str = "cust-1") -> Any:
        """The customer's row."""
        return self.execute("SELECT * FROM cardsync.customers WHERE customer_id = :id", id=customer_id)[0]

    def age_hints(self, seconds: float) -> None:
        """Let time pass for every hint that is awaited, and let its customer be due."""
        self.execute(
            "UPDATE cardsync.cards SET awaited_at = awaited_at - make_interval(secs => :seconds)", seconds=seconds
        )
        self.execute("UPDATE cardsync.customers SET due_at = clock_timestamp() WHERE due_at IS NOT NULL")

    def feed(self) -> list[str]:
        """The changes that consumers see, in order."""
        return [r.change for r in self.execute("SELECT change FROM registry.card_changes ORDER BY seq")]
