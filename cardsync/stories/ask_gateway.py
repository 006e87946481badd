"""``ask_gateway``: ask Ottu for one gateway's cards of a customer, for a reader who waits: ticket, call, compare once.

The call is counted in the budget like any list, and goes through the gate. Its answer changes no card. If it agrees with what is
known, the gateway's cards are known as of the call. If it does not, the complete list is asked for at once, and the reader waits
for that (``core.gateway_list``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, Protocol

import structlog
from sqlalchemy import Connection, Engine

from cardsync import metrics
from cardsync.core.cards import Environment
from cardsync.core.diff import believable
from cardsync.core.gateway_list import agrees
from cardsync.errors import CardsyncError
from cardsync.ottu import CardList
from cardsync.store import cards, customers, gateway_asks
from cardsync.store.calls import gate
from cardsync.store.gateway_asks import Ticket
from cardsync.stories.apply_list import remote_card
from cardsync.stories.counted_calls import CountedCall, log_turn
from cardsync.stories.filtered_lists import FilteredListPolicy, end_without_answer

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


def claim_gateways(engine: Engine, policy: FilteredListPolicy, *, limit: int) -> list[Ticket]:
    """Take the tickets of the questions that are due longest."""
    with engine.begin() as connection:
        return gateway_asks.take(connection, limit=limit, lease_seconds=policy.lease_seconds)


def ask_gateway(
    engine: Engine, ottu: GatewayLists, ticket: Ticket, policy: FilteredListPolicy, *, jitter: float
) -> Outcome:
    """Ask Ottu under the ticket, and compare the answer with what is known."""
    outcome = _ask(engine, ottu, ticket, policy, jitter)
    log.info("gateway_asked", customer=ticket.customer, observation=ticket.number, outcome=outcome)
    return outcome


def _ask(engine: Engine, ottu: GatewayLists, ticket: Ticket, policy: FilteredListPolicy, jitter: float) -> Outcome:
    call = CountedCall(engine, "read", ticket.customer, policy.daily_calls, policy.lease_seconds)
    ask = partial(ottu.list_gateway, ticket.environment, ticket.customer_id, ticket.pg_code)
    try:
        answer = ask(deadline_seconds=policy.call_seconds, before_call=call.spend)
    except CardsyncError as error:

        def put_off(connection: Connection, wait_seconds: float, said: str) -> None:
            gateway_asks.put_off(connection, ticket, wait_seconds=wait_seconds, error=said)

        end_without_answer(engine, ticket, error, call, endpoint="list_gateway", jitter=jitter, put_off=put_off)
        return "failed"
    metrics.CALLS.labels("list_gateway", "answered").inc(answer.calls)
    return _compare(engine, ticket, answer, policy)


def _compare(engine: Engine, ticket: Ticket, answer: CardList, policy: FilteredListPolicy) -> Outcome:
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
