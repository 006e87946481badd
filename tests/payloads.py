"""Signed bodies as Ottu sends them, for every test: obviously fake, and salted with personal data that nobody
may keep.

Everything that must never be stored, logged or answered holds ``PERSONAL`` in its text
(``assert_nothing_personal`` searches for it). Tokens are 16 digits that begin with 9999, or texts that begin
with ``tok-fake-``.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final, Literal

from ottu.utils.webhooks import calculate_hmac_signature, calculate_subscription_hmac_signature

from cardsync.core.cards import Environment
from cardsync.core.signature import Scheme

KEY: Final = "test-webhook-key"
TOKEN: Final = "9999000000000001"
PERSONAL: Final = "xx-personal-xx"  # stands in every value that must leave no trace
FULL_NUMBER: Final = "9999123412341234"  # for "a full card number in place of a mask"

Payload = dict[str, Any]


def card(token: str = TOKEN, customer_id: str = "cust-1", **overrides: Any) -> Payload:
    """A ``token`` object, with a field that we do not know. An override of ``...`` leaves the field out."""
    return _with(
        {
            "token": token,
            "customer_id": customer_id,
            "brand": "VISA",
            "name_on_card": "FAKE SHOPPER",
            "number": f"**** {token[-4:]}",
            "expiry_month": "01",
            "expiry_year": "39",
            "pg_code": "fake-pg",
            "pg_name": "Fake Gateway",
            "is_preferred": True,
            "is_expired": False,
            "will_expire_soon": False,
            "cvv_required": True,
            "agreements": [],
            "a_field_of_tomorrow": {"nested": [1, 2.50]},
        },
        overrides,
    )


def payment(
    customer_id: str = "cust-1",
    token: str | None = TOKEN,
    environment: Environment = "sandbox",
    **overrides: Any,
) -> Payload:
    """A paid ``one_off`` payment; with ``token=None`` one in which no saved card took part.

    ``overrides`` replace top-level fields; a value of ``...`` leaves the field out. Fields of the ``token``
    object: pass ``token_fields={...}``.
    """
    token_fields = overrides.pop("token_fields", {})
    session_id = "0" * 36 + "feed"
    # Of another customer or session it is of another order, which its signature covers: no replay of the first.
    order = hashlib.sha256(f"{customer_id}/{overrides.get('session_id', session_id)}".encode("utf-8", "replace"))
    return _with(
        {
            "amount": "86.000",
            "currency_code": "KWD",
            "customer_id": customer_id,
            **_person(),
            "session_id": session_id,
            "order_no": f"order-{order.hexdigest()[:8]}",
            "reference_number": "fakeref01",
            "payment_type": "one_off",
            "result": "success",
            "state": "paid",
            "is_sandbox": environment == "sandbox",
            "gateway_account": "fake-pg",
            "gateway_name": "kpay",
            "gateway_response": {
                "pan": f"999900******0001 {PERSONAL}",
                "payer": {"email": f"{PERSONAL}@example.test"},
            },
            "pg_params": {"card_holder": PERSONAL, "card_number": f"**** {PERSONAL}", "dcc": None},
            "initiator": {"email": f"initiator-{PERSONAL}@example.test", "id": 7},
            "paid_amount": "86.000",
            "remaining_amount": 0.000,
            "fee": "0.000",
            "message": "success",
            "timestamp_utc": "2026-11-02 10:00:00",
            **({} if token is None else {"token": _with(card(token, customer_id), token_fields)}),
        },
        overrides,
    )


def save_card(
    customer_id: str = "cust-1", token: str = TOKEN, environment: Environment = "sandbox", **overrides: Any
) -> Payload:
    """A card saved without a charge; that its ``state`` is ``paid`` is a guess, Ottu does not document it."""
    given = {"payment_type": "save_card", "amount": "0.000", "paid_amount": "0.000", **overrides}
    return payment(customer_id, token, environment, **given)


def auto_debit(
    customer_id: str = "cust-1",
    token: str = TOKEN,
    environment: Environment = "sandbox",
    agreement_id: str = "agreement-1",
    **overrides: Any,
) -> Payload:
    """A payment under an agreement, whose card needs no CVV."""
    given: Payload = {
        "payment_type": "auto_debit",
        "agreement": {"id": agreement_id, "type": "recurring", "seller": {"name": PERSONAL}},
        "token_fields": {"cvv_required": False, "agreements": [agreement_id]},
        **overrides,
    }
    return payment(customer_id, token, environment, **given)


def operation(
    kind: Literal["refund", "void", "capture"] = "refund",
    environment: Environment = "sandbox",
    **overrides: Any,
) -> Payload:
    """An operation event: it says what became of a payment's money, and names no card."""
    return _with(
        {
            "operation": kind,
            "source": "api",
            "success": True,
            "amount": "10.000",
            "currency_code": "KWD",
            "customer_id": "cust-1",
            "customer_email": f"{PERSONAL}@example.test",
            "session_id": "0" * 36 + "feed",
            "reference_number": "fakeref01",
            "order_no": "order-1",
            "gateway_account": "fake-pg",
            "pg_code": "fake-pg",
            "txn": {"amount": "10.000", "reference_number": "fakeref02"},
            "gateway_response": {"payer": PERSONAL},
            "is_sandbox": environment == "sandbox",
        },
        overrides,
    )


def signature(payload: Mapping[str, Any], key: str = KEY, scheme: Scheme = "standard") -> str:
    """The signature that Ottu would put into ``payload``."""
    calculate = calculate_hmac_signature if scheme == "standard" else calculate_subscription_hmac_signature
    return str(calculate(payload=dict(payload), hmac_key=key))


def signed(payload: Mapping[str, Any], key: str = KEY, scheme: Scheme = "standard") -> bytes:
    """The body that Ottu would send: ``payload`` with its signature, as JSON."""
    return json.dumps({**payload, "signature": signature(payload, key, scheme)}).encode()


def assert_nothing_personal(*kept: object) -> None:
    """Fail if any of what is kept, logged or answered shows personal data of these payloads."""
    for thing in kept:
        assert PERSONAL not in (thing if isinstance(thing, str) else repr(thing)), "personal data was kept"


def _person() -> Payload:
    return {
        "customer_first_name": f"First {PERSONAL}",
        "customer_last_name": f"Last {PERSONAL}",
        "customer_email": f"{PERSONAL}@example.test",
        "customer_phone": f"000 {PERSONAL}",
        "customer_address_line1": f"1 {PERSONAL} Street",
        "customer_address_city": PERSONAL,
        "customer_address_country": "KW",
    }


def _with(payload: Payload, overrides: Mapping[str, Any]) -> Payload:
    return copy.deepcopy({name: v for name, v in {**payload, **overrides}.items() if v is not ...})
