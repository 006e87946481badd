"""Lists as Ottu answers them, for the tests of the client."""

from __future__ import annotations

from cardsync.ottu import CardList

CUSTOMER = "shopper 1/ü%&"
FIRST = "tok-fake-0001"


def card(token=FIRST, **more):
    """A card as Ottu lists it; ``...`` leaves a field out."""
    whole = {
        "token": token,
        "customer_id": CUSTOMER,
        "brand": "VISA",
        "number": "**** 0008",
        "pg_code": "fake-pg",
        "agreements": ["agreement-1"],
        **more,
    }
    return {name: value for name, value in whole.items() if value is not ...}


def cards(*numbers):
    return [card(f"tok-fake-{n:04}") for n in numbers]


def page(results, count, following=None, **more):
    return {"count": count, "next": following, "previous": None, "results": results, **more}


def listed(client, **more):
    return client.list_cards("sandbox", CUSTOMER, **{"deadline_seconds": 60, **more})


def tokens(found: CardList):
    return [c.token.reveal() for c in found.cards]
