"""What is sent: notifications of saved cards as Ottu's stand-in writes and signs them, 2 to 3 KB each, no two alike."""

from __future__ import annotations

import datetime as dt
from random import Random
from typing import Any, Final

from cardsync.dev.simulator import payloads
from cardsync.dev.simulator.cards import SimCard, draw_facts, draw_token
from cardsync.dev.simulator.payloads import body, draw_purchase, payment_event, sign

KEY: Final = "bench-webhook-key-0001"
AT: Final = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
CUSTOMERS: Final = 50_000  # a merchant's; two hints for one customer within a round are rare, as in life
# Gateways answer with more than the stand-in invents; without this a body has 2 KB.
_MORE_OF_THE_GATEWAY: Final[dict[str, Any]] = {
    "authentication": {"3ds": {"acsEci": "05", "transactionId": "invented"}, "version": "3DS2"},
    "device": {"browser": "Invented Browser 1.0", "ipAddress": "192.0.2.1"},
    "transaction": {"acquirer": {"batch": 1, "id": "INVENTED", "merchantId": "0001"}, "type": "VERIFICATION"},
    "version": "72",
}


def notifications(count: int, *, seed: str) -> list[bytes]:
    """``count`` signed bodies; the same seed gives the same ones, another seed none of them."""
    draws = Random(seed)  # noqa: S311  (invented data, not a secret)
    return [_notification(draws, f"{seed}-{number}") for number in range(count)]


def _notification(draws: Random, name: str) -> bytes:
    customer_id = f"customer-{draws.randrange(CUSTOMERS):05d}"
    card = SimCard(
        environment="sandbox", customer_id=customer_id, token=draw_token(draws), label=name, **draw_facts(draws)
    )
    purchase = draw_purchase(draws, "sandbox", customer_id, amount="0.000")
    event = payment_event(purchase, at=AT, payment_type="save_card", card=card)
    event["gateway_response"] = {**event["gateway_response"], **_MORE_OF_THE_GATEWAY}
    return body(sign(event, KEY))


def signed(event: dict[str, Any]) -> bytes:
    """Any event of the stand-in's, signed with the benchmark's key."""
    return body(payloads.sign(event, KEY))


def posts(path: str, bodies: list[bytes]) -> list[bytes]:
    """The bodies as whole HTTP requests."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: "
    start = head.encode("ascii")
    return [b"%b%d\r\n\r\n%b" % (start, len(one), one) for one in bodies]
