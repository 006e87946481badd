"""The bodies of Ottu's webhooks, signed by the functions of Ottu's own SDK.

Rules: pure; randomness and time are arguments. Every body contains the same kinds of personal data as Ottu's. All of it is
invented and easy to recognise (``FAKE_PERSONAL_DATA``), so that a test can search a database or a log for data that must not be
there.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Literal

from ottu.utils.webhooks import calculate_hmac_signature, calculate_subscription_hmac_signature

from cardsync.dev.simulator.cards import Environment, SimCard
from cardsync.dev.simulator.knobs import Scheme

Result = Literal["success", "failed", "pending", "canceled", "error", "cod"]
PaymentType = Literal["one_off", "auto_debit", "save_card"]
Operation = Literal["refund", "void", "capture"]
Terms = Literal["all", "some", "none"]
TERMS: Final = (
    *(
        "type",
        "frequency",
        "amount_variability",
        "start_date",
        "expiry_date",
        "cycle_interval_days",
        "total_cycles",
        "seller",
    ),
)
YEAR: Final = dt.timedelta(days=365)

# The state for each result, if the caller names none.
STATES: Final[dict[Result, str]] = {
    "success": "paid",
    "failed": "failed",
    "pending": "pending",
    "canceled": "canceled",
    "error": "attempted",
    "cod": "cod",
}

_HOLDER = "INVENTED PAYER-HOLDER"
_PAYER: Final[dict[str, Any]] = {
    "customer_first_name": "Invented-First",
    "customer_last_name": "Invented-Last",
    "customer_email": "payer-in-webhook@example.invalid",
    "customer_phone": "+96500000001",
    "customer_address_line1": "1 Invented Street",
    "customer_address_line2": "Invented Block 2",
    "customer_address_city": "Inventedville",
    "customer_address_state": "Inventedshire",
    "customer_address_country": "KW",
    "customer_address_postal_code": "00001",
}
_MASKED_PAN: Final = "999900xxxxxx0001"
FAKE_PERSONAL_DATA: Final[tuple[str, ...]] = (
    _HOLDER,
    _MASKED_PAN,
    "holder-in-gateway@example.invalid",
    *(
        text
        for name, text in _PAYER.items()
        if name not in ("customer_address_country", "customer_address_postal_code")
    ),
)


@dataclass(frozen=True, slots=True)
class Purchase:
    """The facts that all events of one payment share."""

    environment: Environment
    customer_id: str
    session_id: str  # 40 hex characters
    order_no: str
    reference_number: str
    amount: str
    currency_code: str = "KWD"


def draw_purchase(draws: Random, environment: Environment, customer_id: str, *, amount: str | None = None) -> Purchase:
    """Invent a payment of some dinars."""
    fils = draws.randrange(250, 90_000)
    return Purchase(
        environment,
        customer_id,
        session_id=f"{draws.getrandbits(160):040x}",
        order_no=f"order-{draws.randrange(10**8):08d}",
        reference_number=f"fake-{draws.getrandbits(40):010x}",
        amount=amount if amount is not None else f"{fils // 1000}.{fils % 1000:03d}",
    )


def payment_event(
    purchase: Purchase,
    *,
    at: dt.datetime,
    payment_type: PaymentType = "one_off",
    result: Result = "success",
    state: str | None = None,
    card: SimCard | None = None,
    agreement: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return an unsigned payment event; it names ``card`` if there is one, and the agreement (``agreement_of``)."""
    pg_code, pg_name = (card.pg_code, card.pg_name) if card else ("mpgs-fake", "mpgs")
    paid = purchase.amount if result == "success" else "0.000"
    event: dict[str, Any] = {
        "amount": purchase.amount,
        "amount_details": {
            "currency_code": purchase.currency_code,
            "amount": purchase.amount,
            "total": purchase.amount,
            "fee": "0.000",
        },
        "currency_code": purchase.currency_code,
        "customer_id": purchase.customer_id,
        **_PAYER,
        "fee": "0.000",
        "gateway_account": pg_code,
        "gateway_name": pg_name,
        "gateway_response": _gateway_response(purchase, result),
        "initiator": {"id": 1, "username": "stand-in", "email": "initiator@example.invalid"},
        "is_sandbox": purchase.environment == "sandbox",
        "message": "The stand-in says: " + result,
        "order_no": purchase.order_no,
        "paid_amount": paid,
        "payment_type": payment_type,
        "pg_params": _pg_params(purchase, result),
        "reference_number": purchase.reference_number,
        "refunded_amount": 0,
        "remaining_amount": 0,
        "result": result,
        "session_id": purchase.session_id,
        "settled_amount": 0,
        "state": state or STATES[result],
        "timestamp_utc": _timestamp(at),
        "voided_amount": 0,
    }
    if agreement is not None:
        event["agreement"] = dict(agreement)
    if card is not None:
        event["token"] = card.as_hint()
    return event


def agreement_of(agreement_id: str, at: dt.datetime, said: Terms, terms: Mapping[str, Any]) -> dict[str, Any]:
    """What an event says of an agreement: the given terms in place of the invented ones, for as much as is ``said``."""
    invented: dict[str, Any] = {
        "type": "recurring",
        "frequency": "monthly",
        "amount_variability": "fixed",
        "start_date": at.strftime("%d/%m/%Y"),
        "expiry_date": (at + YEAR).strftime("%d/%m/%Y"),
        "cycle_interval_days": 30,
        "total_cycles": 12,
    }
    if "frequency" in terms:
        del invented["cycle_interval_days"]
    shown = {"all": tuple(TERMS), "some": ("type", "frequency"), "none": ()}[said]
    return {"id": agreement_id, **{name: value for name, value in {**invented, **terms}.items() if name in shown}}


def operation_event(
    purchase: Purchase, operation: Operation, *, at: dt.datetime, draws: Random, success: bool = True
) -> dict[str, Any]:
    """Return an unsigned operation event (refund, void, capture): it names no card."""
    return {
        "amount": purchase.amount,
        "amount_details": {
            "currency_code": purchase.currency_code,
            "amount": purchase.amount,
            "total": purchase.amount,
            "fee": "0.000",
        },
        "currency_code": purchase.currency_code,
        "gateway_response": _gateway_response(purchase, "success" if success else "failed"),
        "is_sandbox": purchase.environment == "sandbox",
        "operation": operation,
        "order_no": purchase.order_no,
        "pg_code": "mpgs-fake",
        "reference_number": f"fake-{draws.getrandbits(40):010x}",
        "session_id": purchase.session_id,
        "source": "stand-in",
        "success": success,
        "timestamp_utc": _timestamp(at),
        "txn": {"order_no": purchase.order_no, "session_id": purchase.session_id},
    }


def sparse(event: dict[str, Any]) -> dict[str, Any]:
    """Return the event with a card hint that has only the token and its customer."""
    if "token" not in event:
        return event
    return {**event, "token": {name: event["token"][name] for name in ("token", "customer_id")}}


def with_extra_fields(event: dict[str, Any]) -> dict[str, Any]:
    """Return the event with undocumented fields, in the card hint too."""
    extra = {"undocumented": {"nested": [1, None, "x"]}, "x_flag": True}
    hint = {"token": {**event["token"], **extra}} if "token" in event else {}
    return {**event, **hint, **extra}


def sign(event: dict[str, Any], key: str, scheme: Scheme = "standard") -> dict[str, Any]:
    """Return the event with Ottu's signature over it."""
    calculate = calculate_hmac_signature if scheme == "standard" else calculate_subscription_hmac_signature
    return {**event, "signature": calculate(event, key)}


def body(event: dict[str, Any]) -> bytes:
    """Return the bytes to send: plain ASCII JSON, so that bytes and characters count the same."""
    return json.dumps(event).encode("ascii")


def _gateway_response(purchase: Purchase, result: str) -> dict[str, Any]:
    return {
        "order": {"id": purchase.order_no, "amount": purchase.amount},
        "sourceOfFunds": {"provided": {"card": {"number": _MASKED_PAN, "nameOnCard": _HOLDER}}},
        "customer": {"email": "holder-in-gateway@example.invalid"},
        "result": result.upper(),
    }


def _pg_params(purchase: Purchase, result: str) -> dict[str, Any]:
    return {
        "card_holder": _HOLDER,
        "cardholder_email": "holder-in-gateway@example.invalid",
        "card_number": _MASKED_PAN,
        "ref": purchase.reference_number,
        "result": result.upper(),
    }


def _timestamp(at: dt.datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S")
