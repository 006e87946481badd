"""``ask_agreement``: ask Ottu which card one agreement is charged to: ticket, call, believe once.

For an agreement that two cards of a list claim, or that no card claims although a notification named it, and for a reader who
wants to know it fresh. The call is counted in the budget like any list. Its answer decides about this agreement alone: a card
that it shows and that is not known is evidence to ask for the complete list, and no card is removed by it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, Protocol

import structlog
from sqlalchemy import Connection, Engine

from cardsync import metrics
from cardsync.core.backoff import after_failure
from cardsync.core.cards import LISTED_STATUSES, Environment, ListedCard
from cardsync.errors import CardsyncError
from cardsync.store import agreement_asks, cards, customers
from cardsync.store.agreement_asks import Ticket
from cardsync.store.calls import gate
from cardsync.stories.counted_calls import CountedCall, log_turn
from cardsync.stories.filtered_lists import FilteredListPolicy, end_without_answer

log = structlog.get_logger(__name__)

AT_ONCE: Final = 5  # of one tick: a call may take ten seconds, and a tick comes every second
NEWER_LIST_SECONDS: Final = 1.0

Outcome = Literal["linked", "none", "unknown_card", "older", "superseded", "failed"]


class AgreementLists(Protocol):
    """What this story needs of Ottu."""

    def list_agreement(
        self, environment: Environment, customer_id: str, agreement_id: str, *, before_call: Callable[[], None]
    ) -> ListedCard | None:
        """Ask for the card used last for an agreement."""
        ...


def ask_agreements(engine: Engine, ottu: AgreementLists, policy: FilteredListPolicy, *, jitter: float) -> list[Outcome]:
    """Ask about the agreements that are due longest, a few of them."""
    outcomes: list[Outcome] = []
    while len(outcomes) < AT_ONCE:
        with engine.begin() as connection:
            ticket = agreement_asks.take(connection, lease_seconds=policy.lease_seconds)
        if ticket is None:
            break
        outcomes.append(_ask(engine, ottu, ticket, policy, jitter))
        log.info("agreement_asked", customer=ticket.customer, observation=ticket.number, outcome=outcomes[-1])
        if outcomes[-1] == "failed":  # the next one would hear the same
            break
    return outcomes


def _ask(engine: Engine, ottu: AgreementLists, ticket: Ticket, policy: FilteredListPolicy, jitter: float) -> Outcome:
    call = CountedCall(engine, ticket.lane, ticket.customer, policy.daily_calls, policy.lease_seconds)
    try:
        card = ottu.list_agreement(ticket.environment, ticket.customer_id, ticket.agreement_id, before_call=call.spend)
    except CardsyncError as error:

        def put_off(connection: Connection, wait_seconds: float, said: str) -> None:
            agreement_asks.put_off(connection, ticket, wait_seconds=wait_seconds, error=said, counted=call.made)

        end_without_answer(engine, ticket, error, call, endpoint="list_agreement", jitter=jitter, put_off=put_off)
        return "failed"
    metrics.CALLS.labels("list_agreement", "answered").inc()
    return _believe(engine, ticket, card, policy, jitter)


def _believe(
    engine: Engine, ticket: Ticket, card: ListedCard | None, policy: FilteredListPolicy, jitter: float
) -> Outcome:
    """Link the agreement as Ottu says, in one transaction, if the ticket still stands."""
    with engine.begin() as connection:
        is_newest = agreement_asks.lock(connection, ticket)
        turn = gate.heard(connection, "answered", who=ticket.customer)
        known = None
        if card is not None:
            known = cards.find(
                connection, ticket.customer, card.token.fingerprint(policy.fingerprint_key, ticket.environment)
            )
        outcome: Outcome
        if not is_newest:
            said = "a newer list was believed meanwhile"
            agreement_asks.put_off(connection, ticket, wait_seconds=NEWER_LIST_SECONDS, error=said, counted=False)
            outcome = "older"
        elif card is not None and (known is None or known.status not in LISTED_STATUSES):
            # Only a complete list makes a card active. The agreement is asked about again, later each time.
            customers.mark_dirty(connection, ticket.customer, evidence_no=None, lane="retry")
            wait_seconds = after_failure(ticket.failures + 1, jitter=jitter)
            agreement_asks.put_off(connection, ticket, wait_seconds=wait_seconds, error="an unknown card", counted=True)
            outcome = "unknown_card"
        elif not agreement_asks.settle(connection, ticket):
            outcome = "superseded"
        else:
            agreement_asks.link(connection, ticket, None if known is None else known.card_id)
            outcome = "none" if known is None else "linked"
    log_turn(turn)
    return outcome
