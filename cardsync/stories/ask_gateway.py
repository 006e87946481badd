"""``ask_gateway``: ask Ottu for one gateway's cards of a customer, for a reader who waits: ticket, call, compare once.

The call is counted in the budget like any list, and goes through the gate. Its answer changes no card. If it agrees with what is
known, the gateway's cards are known as of the call. If it does not, the complete list is asked for at once, and the reader waits
for that (``core.gateway_list``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import structlog
from sqlalchemy import Engine

from cardsync import metrics
from cardsync.core import leases
from cardsync.core.backoff import after_failure
from cardsync.core.cards import Environment
from cardsync.core.diff import believable
from cardsync.core.gateway_list import agrees
from cardsync.errors import CardsyncError, named
from cardsync.ottu import CardList
from cardsync.settings import Settings
from cardsync.store import cards, customers, gateway_asks
from cardsync.store.calls import failures, gate
from cardsync.store.gateway_asks import Ticket
from cardsync.stories.apply_list import remote_card
from cardsync.stories.counted_calls import CountedCall, log_turn

log = structlog.get_logger(__name__)

Outcome = Literal["agrees", "differs", "older", "superseded", "failed"]


class GatewayLists(Protocol):
    """What this story needs of Ottu."""

    def list_gateway(
        self,
        environment: Environment,
        customer_id: str,
        pg_code: str,
        *,
        deadline_seconds: float,
        before_call: Callable[[], None],
    ) -> CardList:
        """Ask for the cards of one gateway."""
        ...


@dataclass(frozen=True, slots=True)
class AskGatewayPolicy:
    """The settings that this story goes by. ``call_seconds`` bounds one call, and all pages of this list together."""

    fingerprint_key: bytes
    daily_calls: int
    call_seconds: float

    @classmethod
    def of(cls, settings: Settings, fingerprint_key: bytes) -> AskGatewayPolicy:
        """Take the policy from the settings; the key of the fingerprints is the database's (``store.access.secret_keys``)."""
        return cls(fingerprint_key, settings.ottu_daily_calls, settings.ottu_timeout_s)

    @property
    def lease_seconds(self) -> float:
        """How long a ticket stands: the calls, and the applying."""
        return leases.lease_seconds(self.call_seconds)


def claim_gateways(engine: Engine, policy: AskGatewayPolicy, *, limit: int) -> list[Ticket]:
    """Take the tickets of the questions that are due longest."""
    with engine.begin() as connection:
        return gateway_asks.take(connection, limit=limit, lease_seconds=policy.lease_seconds)


def ask_gateway(
    engine: Engine, ottu: GatewayLists, ticket: Ticket, policy: AskGatewayPolicy, *, jitter: float
) -> Outcome:
    """Ask Ottu under the ticket, and compare the answer with what is known."""
    outcome = _ask(engine, ottu, ticket, policy, jitter)
    log.info("gateway_asked", customer=ticket.customer, observation=ticket.number, outcome=outcome)
    return outcome


def _ask(engine: Engine, ottu: GatewayLists, ticket: Ticket, policy: AskGatewayPolicy, jitter: float) -> Outcome:
    call = CountedCall(engine, "read", ticket.customer, policy.daily_calls, policy.lease_seconds)
    ask = partial(ottu.list_gateway, ticket.environment, ticket.customer_id, ticket.pg_code)
    try:
        answer = ask(deadline_seconds=policy.call_seconds, before_call=call.spend)
    except CardsyncError as error:
        _put_off(engine, ticket, error, made=call.made, jitter=jitter)
        return "failed"
    metrics.CALLS.labels("list_gateway", "answered").inc(answer.calls)
    return _compare(engine, ticket, answer, policy)


def _compare(engine: Engine, ticket: Ticket, answer: CardList, policy: AskGatewayPolicy) -> Outcome:
    """Note what the answer says, in one transaction, if the ticket still stands."""
    remote = [remote_card(card, ticket.environment, policy.fingerprint_key) for card in answer.cards]
    with engine.begin() as connection:
        is_newest = gateway_asks.lock(connection, ticket)
        turn = gate.heard(connection, "answered", who=ticket.customer)
        local = cards.of_customer(connection, ticket.customer, [card.fingerprint for card in remote])()
        holds = agrees(local, believable(remote, local), ticket.pg_code, answer.oddities)
        outcome: Outcome
        if not gateway_asks.settle(connection, ticket, agrees=is_newest and holds):
            outcome = "superseded"
        elif not is_newest:
            outcome = "older"  # the complete list that is newer serves the reader
        elif holds:
            outcome = "agrees"
        else:
            customers.mark_dirty(connection, ticket.customer, evidence_no=None, lane="read")
            outcome = "differs"
    log_turn(turn)
    return outcome


def _put_off(engine: Engine, ticket: Ticket, error: CardsyncError, *, made: bool, jitter: float) -> None:
    """Give the ticket back; the gate hears how the call ended."""
    with engine.begin() as connection:
        ended = failures.told(connection, error, call="list", who=ticket.customer)
        wait = after_failure(
            ticket.failures + 1 if made else 1, jitter=jitter, retry_after_seconds=ended.retry_after_seconds
        )
        gateway_asks.put_off(connection, ticket, wait_seconds=wait, error=named(error))
    log_turn(ended.turn)
    if made:
        metrics.CALLS.labels("list_gateway", type(error).__name__).inc()
