"""What a shopper can do at Ottu: each deed changes the world first and is then notified, as Ottu would.

A ``Checkout`` is one visit: its randomness and its moment are its own, so what happens in one visit never
changes what another one draws. It holds no thread and does no I/O; ``send`` takes the unsigned event and its
label.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from random import Random
from typing import Any

from cardsync.dev.simulator import payloads
from cardsync.dev.simulator.cards import Environment, SimCard, draw_facts, draw_token
from cardsync.dev.simulator.delivery import Delivery
from cardsync.dev.simulator.world import NoSuchCardError, World

Send = Callable[[dict[str, Any], str], "Future[Delivery] | None"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """What one deed came to: the payment, the card if there is one, and the notification if one was sent."""

    deed: str
    purchase: payloads.Purchase
    result: str = "success"
    card: SimCard | None = None
    agreement_id: str | None = None
    event: dict[str, Any] | None = None
    delivery: Future[Delivery] | None = None


class Checkout:
    """One visit. ``notify=False`` on a deed means a notification that Ottu never made."""

    def __init__(self, world: World, send: Send, *, draws: Random, at: dt.datetime) -> None:
        self._world = world
        self._send = send
        self._draws = draws
        self._at = at

    def save_card(
        self,
        environment: Environment,
        customer_id: str,
        *,
        token: str | None = None,
        notify: bool = True,
        **facts: Any,
    ) -> Visit:
        """Save a card without a charge. Raises ``TypeError`` for a fact that cards do not have."""
        invented = draw_facts(self._draws)
        token = token or draw_token(self._draws)
        card = self._world.save_card(environment, customer_id, token=token, **{**invented, **facts})
        purchase = payloads.draw_purchase(self._draws, environment, customer_id, amount="0.000")
        state = self._world.knobs.save_card_state
        return self._told("save_card", purchase, notify, payment_type="save_card", state=state, card=card)

    def pay(
        self,
        environment: Environment,
        customer_id: str,
        token: str,
        *,
        result: payloads.Result = "success",
        notify: bool = True,
    ) -> Visit:
        """Pay with a saved card; a card that is gone makes it a failed payment without a card."""
        purchase = payloads.draw_purchase(self._draws, environment, customer_id)
        try:
            card = self._world.pay(environment, customer_id, token)
        except NoSuchCardError:
            return self._told("pay", purchase, notify, result="failed")
        return self._told("pay", purchase, notify, result=result, card=card)

    def pay_without_card(
        self,
        environment: Environment,
        customer_id: str,
        *,
        result: payloads.Result = "success",
        notify: bool = True,
    ) -> Visit:
        """Pay, or fail to, without a saved card: an event that names none."""
        purchase = payloads.draw_purchase(self._draws, environment, customer_id)
        return self._told("pay_without_card", purchase, notify, result=result)

    def agree(
        self,
        environment: Environment,
        customer_id: str,
        token: str,
        *,
        agreement_id: str,
        notify: bool = True,
    ) -> Visit:
        """Pay with a card that serves the agreement from now on, in place of any other. Raises
        ``NoSuchCardError``.
        """
        card = self._world.pay(environment, customer_id, token, agreement_id=agreement_id)
        purchase = payloads.draw_purchase(self._draws, environment, customer_id)
        return self._told("agree", purchase, notify, payment_type="auto_debit", card=card, agreement_id=agreement_id)

    def charge_agreement(self, environment: Environment, agreement_id: str, *, notify: bool = True) -> Visit:
        """The merchant charges the agreement's card, without the payer. Raises ``NoSuchCardError`` if none
        serves it.
        """
        card = self._world.agreement_card(environment, agreement_id)
        if card is None:
            raise NoSuchCardError
        purchase = payloads.draw_purchase(self._draws, environment, card.customer_id)
        return self._told(
            "charge_agreement",
            purchase,
            notify,
            payment_type="auto_debit",
            card=card,
            agreement_id=agreement_id,
        )

    def refund(self, purchase: payloads.Purchase, *, notify: bool = True) -> Visit:
        """Refund a payment: an operation event."""
        event = payloads.operation_event(purchase, "refund", at=self._at, draws=self._draws)
        return self._sent(Visit(deed="refund", purchase=purchase, event=event), notify)

    def inquire(self, earlier: Visit, *, notify: bool = True) -> Visit:
        """Ottu asks the gateway again: the same payment is notified once more, and a failed one turns out
        paid.
        """
        event = {**(earlier.event or {}), "timestamp_utc": self._at.strftime("%Y-%m-%d %H:%M:%S")}
        if earlier.result == "failed":
            event |= {"result": "success", "state": "paid", "paid_amount": earlier.purchase.amount}
        visit = Visit(
            deed="inquire",
            purchase=earlier.purchase,
            card=earlier.card,
            agreement_id=earlier.agreement_id,
            event=event,
        )
        return self._sent(visit, notify)

    def delete_card(self, environment: Environment, customer_id: str, token: str) -> int:
        """Delete a card in Ottu's own checkout, of which nothing is sent. Returns the status that Ottu would
        answer.
        """
        return self._world.delete_silently(environment, customer_id, token)

    def _told(
        self,
        deed: str,
        purchase: payloads.Purchase,
        notify: bool,
        *,
        payment_type: payloads.PaymentType = "one_off",
        result: payloads.Result = "success",
        state: str | None = None,
        card: SimCard | None = None,
        agreement_id: str | None = None,
    ) -> Visit:
        event = payloads.payment_event(
            purchase,
            at=self._at,
            payment_type=payment_type,
            result=result,
            state=state,
            card=card,
            agreement_id=agreement_id,
        )
        visit = Visit(deed=deed, purchase=purchase, result=result, card=card, agreement_id=agreement_id, event=event)
        return self._sent(visit, notify)

    def _sent(self, visit: Visit, notify: bool) -> Visit:
        event, knobs = visit.event or {}, self._world.knobs
        event = payloads.sparse(event) if knobs.sparse_hints else event
        event = payloads.with_extra_fields(event) if knobs.extra_fields else event
        delivery = self._send(event, visit.deed) if notify else None
        return Visit(
            deed=visit.deed,
            purchase=visit.purchase,
            result=visit.result,
            card=visit.card,
            agreement_id=visit.agreement_id,
            event=event,
            delivery=delivery,
        )
