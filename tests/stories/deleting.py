"""What the tests of deletions share: two tokens, how a card stands, and an Ottu that is difficult."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from typing import Any

from cardsync.ciphers import KeyRing
from cardsync.errors import ListNotFound
from cardsync.store import card_tokens, customers
from tests.factories import SECRET
from tests.stories.fake_ottu import DeletingShop

T1, T2 = "9999000000000001", "9999000000000002"
HOUR = 3_600.0


def statuses(shop: DeletingShop, token: str = T1) -> str:
    return str(shop.card(token).status)


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    return thread, results


def locked(shop: DeletingShop, locked_status: int = 400) -> uuid.UUID:
    card, _ = shop.stock(T1, T2)
    shop.desk.world.knobs = shop.desk.knobs.turned(locked_status=locked_status)
    shop.desk.world.pay("sandbox", "cust-1", T1, agreement_id="agreement-1")
    shop.reconcile_now()
    return card


def served(shop: DeletingShop) -> list[str]:
    """The tokens that a charger can read."""
    return [row.token for row in shop.execute("SELECT token FROM registry.card_tokens")]


def an_ottu_without_empty_lists(shop: DeletingShop, *, in_json: bool = True) -> None:
    """From now on a customer without cards has no list, but a 404; the others have one."""
    shop.stock(T2, customer_id="cust-2")
    asked = shop.desk.list_cards

    def list_cards(environment: Any, customer_id: str, **how: Any) -> Any:
        answer = asked(environment, customer_id, **how)
        if answer.cards:
            return answer
        raise ListNotFound("Ottu rejects the list: 404", says_why=in_json)

    shop.desk.list_cards = list_cards  # type: ignore[method-assign]


def others_lists_work(shop: DeletingShop, customer_id: str = "cust-2") -> None:
    assert shop.reconcile_now(customer_id).outcome == "unchanged"


def make_known(shop: DeletingShop, customer_id: str) -> None:
    with shop.engine.begin() as connection:
        customers.add_known(connection, [("sandbox", customer_id)])


def encrypt_cards(shop: DeletingShop) -> None:
    """What ``cardsync secret rotate`` does where cards hold their tokens encrypted."""
    ring = KeyRing(SECRET, encrypts_cards=True)
    with shop.worker.begin() as connection:
        assert card_tokens.convert(connection, ring, after=uuid.UUID(int=0), limit=9).written > 0
