"""What a shopper can do at Ottu: each action first changes the world and then sends a notification, as Ottu does.

A ``Checkout`` is one visit with its own random numbers and its own time, so that one visit never changes what another one draws.
It has no thread and does no I/O; ``send`` takes the unsigned event and its label.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from cardsync.dev.simulator import payloads
from cardsync.dev.simulator.cards import Environment, SimCard, draw_facts, draw_token
from cardsync.dev.simulator.delivery import Delivery
from cardsync.dev.simulator.world import NoSuchCardError, World

Send = Callable[[dict[str, Any], str], "Future[Delivery] | None"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """The result of one action: the payment, the card if there is one, and the notification if one was sent."""

    action: str
    purchase: payloads.Purchase
    result: str = "success"
    card: SimCard | None = None
    agreement: Mapping[str, Any] | None = None
    later_charge: bool = False
    event: dict[str, Any] | None = None
    delivery: Future[Delivery] | None = None

    @property
    def agreement_id(self) -> str | None:
        """The agreement that was made or charged."""
        return None if self.agreement is None else self.agreement["id"]


class Checkout:
    """One visit. With ``notify=False``, an action sends no notification; else the knobs say whether it does."""

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
        return self._notify_payment("save_card", purchase, notify, payment_type="save_card", state=state, card=card)

    def pay(
        self,
        environment: Environment,
        customer_id: str,
        token: str,
        *,
        result: payloads.Result = "success",
        notify: bool = True,
    ) -> Visit:
        """Pay with a saved card; if the card is gone, it is a failed payment without a card."""
        purchase = payloads.draw_purchase(self._draws, environment, customer_id)
        try:
            card = self._world.pay(environment, customer_id, token)
        except NoSuchCardError:
            return self._notify_payment("pay", purchase, notify, result="failed")
        return self._notify_payment("pay", purchase, notify, result=result, card=card)

    def pay_without_card(
        self,
        environment: Environment,
        customer_id: str,
        *,
        result: payloads.Result = "success",
        notify: bool = True,
    ) -> Visit:
        """Pay, or fail to pay, without a saved card: an event that names no card."""
        purchase = payloads.draw_purchase(self._draws, environment, customer_id)
        return self._notify_payment("pay_without_card", purchase, notify, result=result)

    def agree(
        self,
        environment: Environment,
        customer_id: str,
        token: str,
        *,
        agreement_id: str,
        result: payloads.Result = "success",
        notify: bool = True,
        **terms: Any,
    ) -> Visit:
        """The first payment (CIT): the card serves the agreement from now on instead of any other. Raises ``NoSuchCardError``.

        It is a ``verify`` of the card, or a charge by the knob; ``terms`` are some of ``payloads.TERMS``, such as ``frequency``.
        With another ``result`` the agreement stays as it is; its notification names it all the same.
        """
        for name in terms:
            if name not in payloads.TERMS:
                raise TypeError(f"an agreement has no term named {name!r}")
        made = agreement_id if result == "success" else None
        card = self._world.pay(environment, customer_id, token, agreement_id=made)
        verifies = self._world.knobs.first_payment == "verify"
        purchase = payloads.draw_purchase(self._draws, environment, customer_id, amount="0.000" if verifies else None)
        return self._notify_payment(
            "agree",
            purchase,
            notify,
            payment_type="auto_debit",
            result=result,
            state=self._world.knobs.verify_state if verifies and made else None,
            card=card,
            agreement=self._terms(agreement_id, terms),
        )

    def charge_agreement(
        self, environment: Environment, agreement_id: str, *, result: payloads.Result = "success", notify: bool = True
    ) -> Visit:
        """A later charge (MIT): the merchant charges the agreement's card without the payer, and Ottu notifies none.

        Raises ``NoSuchCardError`` if no card serves the agreement.
        """
        card = self._world.agreement_card(environment, agreement_id)
        if card is None:
            raise NoSuchCardError
        purchase = payloads.draw_purchase(self._draws, environment, card.customer_id)
        return self._notify_payment(
            "charge_agreement",
            purchase,
            notify,
            payment_type="auto_debit",
            result=result,
            card=card,
            agreement=self._terms(agreement_id, {}),
            later_charge=True,
        )

    def refund(self, purchase: payloads.Purchase, *, notify: bool = True) -> Visit:
        """Refund a payment: an operation event."""
        event = payloads.operation_event(purchase, "refund", at=self._at, draws=self._draws)
        return self._notify(Visit(action="refund", purchase=purchase, event=event), notify)

    def inquire(self, earlier: Visit, *, notify: bool = True) -> Visit:
        """Ottu asks the gateway again: a second notification of the same payment; a failed payment is now paid.

        The first payment of an agreement makes it then, if its card is still there.
        """
        event = {**(earlier.event or {}), "timestamp_utc": self._at.strftime("%Y-%m-%d %H:%M:%S")}
        if earlier.result == "failed":
            self._make_the_agreement_of(earlier)
            event |= {"result": "success", "state": "paid", "paid_amount": earlier.purchase.amount}
        visit = Visit(
            action="inquire",
            purchase=earlier.purchase,
            card=earlier.card,
            agreement=earlier.agreement,
            later_charge=earlier.later_charge,
            event=event,
        )
        return self._notify(visit, notify)

    def _make_the_agreement_of(self, earlier: Visit) -> None:
        if earlier.action == "agree" and earlier.card is not None:
            who = (earlier.purchase.environment, earlier.purchase.customer_id)
            with contextlib.suppress(NoSuchCardError):
                self._world.pay(*who, earlier.card.token, agreement_id=earlier.agreement_id)

    def delete_card(self, environment: Environment, customer_id: str, token: str) -> int:
        """Delete a card in Ottu's own checkout, without a notification. Returns the status of Ottu's answer."""
        return self._world.delete(environment, customer_id, token)

    def _notify_payment(
        self,
        action: str,
        purchase: payloads.Purchase,
        notify: bool,
        *,
        payment_type: payloads.PaymentType = "one_off",
        result: payloads.Result = "success",
        state: str | None = None,
        card: SimCard | None = None,
        agreement: Mapping[str, Any] | None = None,
        later_charge: bool = False,
    ) -> Visit:
        event = payloads.payment_event(
            purchase,
            at=self._at,
            payment_type=payment_type,
            result=result,
            state=state,
            card=card,
            agreement=agreement,
        )
        visit = Visit(
            action=action,
            purchase=purchase,
            result=result,
            card=card,
            agreement=agreement,
            later_charge=later_charge,
            event=event,
        )
        return self._notify(visit, notify)

    def _terms(self, agreement_id: str, terms: Mapping[str, Any]) -> dict[str, Any]:
        return payloads.agreement_of(agreement_id, self._at, self._world.knobs.agreement_terms, terms)

    def _notify(self, visit: Visit, notify: bool) -> Visit:
        event, knobs = visit.event or {}, self._world.knobs
        event = payloads.sparse(event) if knobs.sparse_hints else event
        event = payloads.with_extra_fields(event) if knobs.extra_fields else event
        self._world.payments.note(event)
        tells = notify and knobs.tells_of(event, later_charge=visit.later_charge)
        return replace(visit, event=event, delivery=self._send(event, visit.action) if tells else None)
