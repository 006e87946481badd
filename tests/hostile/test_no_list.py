"""One genuine body in strange hands, where Ottu offers no list (KSA): what it may name, and what comes of it.

The attacker holds bodies that Ottu signed, of a payment of his own or of somebody's, and alters whatever their signature does not
cover. Nothing of that is believed; the inquiry endpoint says what was true.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from prometheus_client import Counter
from sqlalchemy import Engine
from sqlalchemy.exc import ProgrammingError

from cardsync import metrics
from cardsync.core.repeats import ROWS_A_SIGNATURE, STRANGERS_A_SIGNATURE
from cardsync.errors import InvalidSignature
from cardsync.settings import Settings
from cardsync.store import intake, retention
from cardsync.stories.forget import ForgetPolicy
from cardsync.stories.receive import examine
from tests.stories.no_list import KEYS, PLAIN_KEY, RING, NoListShop, altered, signed

MINE, YOURS, NEW = "9999000000000001", "9999000000000002", "tok-fake-new"

Grew = Callable[[Counter, str], float]


@pytest.fixture
def shop(engine: Engine, ingest_engine: Engine, worker_engine: Engine) -> NoListShop:
    """A deployment without lists."""
    return NoListShop(engine, ingest_engine, worker_engine)


@pytest.fixture
def grew() -> Grew:
    """By how much a counter's label grew since the test began."""
    before = {
        (id(counter), label): counter.labels(label)._value.get()
        for counter, labels in (
            (metrics.UNCONFIRMED, ("repeated_signature", "standard_scheme", "not_bound", "no_success")),
            (metrics.SUSPICIOUS, ("repeated_signature", "other_environment", "not_in_payment", "unknown_payment")),
        )
        for label in labels
    }
    return lambda counter, label: counter.labels(label)._value.get() - before[id(counter), label]


def test_no_altered_body_takes_an_agreement_over(shop: NoListShop, grew: Grew) -> None:
    shop.hear(signed(shop.ottu.pay("victim", MINE, agreement_id="A")))
    own = shop.ottu.pay("attacker", YOURS)
    shop.hear(signed(own, "standard"))
    stolen = altered(signed(own, "standard"), agreement={"id": "A"}, token_fields={"agreements": ["A"]})
    shop.hear(stolen)
    assert shop.charged() == {"A": MINE}
    assert shop.settle() == [own["session_id"]]
    assert (shop.charged(), shop.claims()) == ({"A": MINE}, {MINE: ["A"], YOURS: []})
    assert shop.cards() == {("production", "victim", MINE), ("production", "attacker", YOURS)}
    assert grew(metrics.UNCONFIRMED, "standard_scheme") == 1
    assert grew(metrics.UNCONFIRMED, "repeated_signature") == 1


def test_no_altered_body_puts_a_foreign_preferred_card_first(shop: NoListShop, grew: Grew) -> None:
    shop.hear(signed(shop.ottu.pay("victim", MINE)))
    own = signed(shop.ottu.pay("attacker", YOURS), "standard")
    shop.hear(altered(own, customer_id="victim", token_fields={"customer_id": "victim", "is_preferred": True}))
    assert shop.cards() == {("production", "victim", MINE)}
    shop.settle()
    assert shop.cards() == {("production", "victim", MINE), ("production", "attacker", YOURS)}
    assert shop.cards("unconfirmed") == set()
    assert grew(metrics.SUSPICIOUS, "not_in_payment") == 1


def test_sixty_invented_customers_get_no_card_and_cost_one_inquiry(shop: NoListShop, grew: Grew) -> None:
    failed = signed(shop.ottu.pay("guest", None, result="failed", state="failed"), "standard")
    shop.receive(failed)
    genuine = signed(shop.ottu.pay("attacker", YOURS), "standard")
    shop.hear(genuine)
    for number in range(60):
        who = {"customer_id": f"invented-{number}", "token": f"tok-fake-{number}"}
        shop.hear(altered(genuine, customer_id=who["customer_id"], token_fields=who))
    assert shop.cards() == set()
    assert len(shop.cards("unconfirmed")) == STRANGERS_A_SIGNATURE + 1
    assert grew(metrics.UNCONFIRMED, "repeated_signature") == STRANGERS_A_SIGNATURE
    # Of the bodies beyond the rows that a signature may have nothing is kept; of the others these name a stranger too many.
    assert grew(metrics.SUSPICIOUS, "repeated_signature") == ROWS_A_SIGNATURE - STRANGERS_A_SIGNATURE
    assert shop.settle() == [genuine["session_id"]]
    assert shop.cards() == {("production", "attacker", YOURS)}
    assert grew(metrics.SUSPICIOUS, "not_in_payment") + len(shop.cards("unconfirmed")) == STRANGERS_A_SIGNATURE


def test_without_lists_what_replays_invented_is_forgotten_and_the_payer_stays(shop: NoListShop) -> None:
    shop.hear(signed(shop.ottu.pay("victim", MINE)))
    genuine = signed(shop.ottu.pay("attacker", YOURS, result="failed", state="failed"), "standard")
    for number in range(STRANGERS_A_SIGNATURE):
        who = {"customer_id": f"invented-{number}", "token": f"tok-fake-{number}"}
        shop.hear(altered(genuine, customer_id=who["customer_id"], token_fields=who))
    assert len(shop.cards("unconfirmed")) > 0
    shop.execute("UPDATE cardsync.customers SET hinted_at = hinted_at - interval '89 days'")
    assert _forgotten(shop) == 0
    shop.execute("UPDATE cardsync.customers SET hinted_at = hinted_at - interval '2 days'")
    assert _forgotten(shop) > 0
    assert shop.cards("unconfirmed") == set()
    assert [row.customer_id for row in shop.execute("SELECT customer_id FROM cardsync.customers")] == ["victim"]
    assert shop.cards() == {("production", "victim", MINE)}
    assert _forgotten(shop) == 0


def _forgotten(shop: NoListShop) -> int:
    days = ForgetPolicy.of(Settings(ottu_cards_api="unavailable")).days
    with shop.worker.begin() as connection:
        return retention.forget(connection, "unlisted_customer", older_days=days["unlisted_customer"])


def test_only_a_worker_tells_of_an_inquiry(shop: NoListShop) -> None:
    """An inquiry's answer makes a card active: an attacker who broke into the web must not be able to write one."""
    body = json.dumps(signed(shop.ottu.pay("attacker", YOURS), "standard")).encode()
    forged = replace(intake.as_row(examine(body, KEYS).new, RING), scheme="inquiry")
    with pytest.raises(ProgrammingError, match="only a worker"), shop.ingest.begin() as connection:
        intake.store_rows(connection, [forged])
    with shop.worker.begin() as connection:
        assert len(intake.store_rows(connection, [forged])) == 1


def test_no_sandbox_body_makes_a_production_card(shop: NoListShop, grew: Grew) -> None:
    sandbox = signed(shop.ottu.pay("attacker", YOURS, "sandbox"))
    with pytest.raises(InvalidSignature):
        shop.hear(altered(sandbox, is_sandbox=False))
    assert grew(metrics.SUSPICIOUS, "other_environment") == 1
    unbound = signed(shop.ottu.pay("attacker", YOURS, "sandbox"), key=PLAIN_KEY)
    shop.hear(altered(unbound, is_sandbox=False))
    assert shop.cards() == set()
    assert grew(metrics.UNCONFIRMED, "not_bound") == 1
    shop.settle()
    assert shop.cards() == {("sandbox", "attacker", YOURS)}


@pytest.mark.parametrize(
    "flags", [{"is_preferred": True}, {"cvv_required": False}, {"agreements": ["A"]}, {"is_expired": True}]
)
def test_what_even_the_subscription_scheme_does_not_sign_is_not_believed(
    shop: NoListShop, flags: dict[str, object]
) -> None:
    shop.hear(signed(shop.ottu.pay("victim", MINE, agreement_id="A")))
    shop.hear(altered(signed(shop.ottu.pay("attacker", YOURS)), token_fields=flags))
    (card,) = shop.execute("SELECT * FROM registry.cards WHERE customer_id = 'attacker'")
    assert (card.status, card.is_preferred, card.cvv_required, card.is_expired) == ("active", False, None, False)
    assert (list(card.agreements), shop.charged()) == ([], {"A": MINE})


def test_a_copy_of_a_signed_body_is_not_believed_and_the_genuine_one_stands(shop: NoListShop, grew: Grew) -> None:
    genuine = signed(shop.ottu.pay("victim", MINE, agreement_id="A"))
    shop.hear(genuine)
    shop.hear(altered(genuine, token_fields={"number": "**** 6666", "expiry_year": "26"}))
    assert (shop.card(MINE).number, shop.charged()) == ("**** 0001", {"A": MINE})
    assert grew(metrics.UNCONFIRMED, "repeated_signature") == 1


def test_an_altered_copy_that_comes_first_is_corrected(shop: NoListShop) -> None:
    genuine = signed(shop.ottu.pay("victim", MINE))
    shop.hear(altered(genuine, token_fields={"number": "**** 6666", "expiry_year": "26"}))
    shop.hear(genuine)
    shop.settle()
    assert (shop.card(MINE).number, shop.card(MINE).expiry_year) == ("**** 0001", "39")


def test_altered_terms_of_an_agreement_that_come_first_are_corrected(shop: NoListShop) -> None:
    terms = {"id": "A", "type": "recurring"}
    genuine = signed(shop.ottu.pay("victim", MINE, agreement_id="A", agreement=terms | {"frequency": "monthly"}))
    shop.hear(altered(genuine, agreement=terms | {"frequency": "daily"}))
    assert shop.execute("SELECT frequency FROM registry.agreements") == [("daily",)]
    shop.hear(genuine)
    shop.settle()
    assert shop.execute("SELECT frequency FROM registry.agreements") == [("monthly",)]


def test_a_copy_that_waits_beside_its_genuine_body_makes_neither_believed(shop: NoListShop) -> None:
    genuine = signed(shop.ottu.pay("victim", MINE))
    both = [shop.receive(altered(genuine, token_fields={"number": "**** 6666"})), shop.receive(genuine)]
    shop.process(*both)
    assert shop.cards() == set()
    shop.settle()
    assert shop.card(MINE).number == "**** 0001"


def test_an_old_payment_that_is_asked_about_again_brings_no_agreement_back(shop: NoListShop) -> None:
    old = signed(shop.ottu.pay("victim", MINE, agreement_id="A", minutes=0))
    shop.hear(old, minutes=1)
    shop.hear(signed(shop.ottu.pay("victim", NEW, agreement_id="A", minutes=5)), minutes=6)
    shop.hear(altered(old, a_field="of the attacker's"), minutes=100)
    assert shop.settle() == [old["session_id"]]
    assert (shop.charged(), shop.claims()) == ({"A": NEW}, {MINE: [], NEW: ["A"]})


def test_a_customer_that_is_named_outside_the_signature_is_not_believed(shop: NoListShop) -> None:
    nameless = signed(shop.ottu.pay("attacker", YOURS, token_fields={"customer_id": ...}))
    shop.hear(altered(nameless, customer_id="victim"))
    assert shop.cards() == set()


def test_a_signed_message_that_can_be_read_in_two_ways_is_not_believed(shop: NoListShop) -> None:
    genuine = signed(shop.ottu.pay("attacker", YOURS))
    merged = altered(genuine, state=f"paid\ntoken.customer_id={genuine['token']['customer_id']}", customer_id="victim")
    del merged["token"]["customer_id"]
    with pytest.raises(InvalidSignature):  # though the message is the same
        shop.hear(merged)
    assert shop.cards() == set()


@pytest.mark.parametrize("result", ["failed", "canceled", "error", "pending"])
def test_a_payment_that_did_not_succeed_makes_no_card_active_and_costs_no_inquiry(
    shop: NoListShop, grew: Grew, result: str
) -> None:
    shop.hear(signed(shop.ottu.pay("victim", MINE, result=result)))
    assert shop.cards("unconfirmed") == {("production", "victim", MINE)}
    assert shop.settle() == []
    assert grew(metrics.UNCONFIRMED, "no_success") == 1


def test_one_signature_causes_inquiries_about_few_payments(shop: NoListShop) -> None:
    genuine = signed(shop.ottu.pay("attacker", YOURS), "standard")
    for number in range(15):
        shop.hear(altered(genuine, session_id=f"{number:040x}"))
    assert shop.settle() == [f"{n:040x}" for n in range(3)]


def test_a_payment_that_ottu_does_not_know_drops_the_card_that_was_named_with_it(shop: NoListShop, grew: Grew) -> None:
    genuine = signed(shop.ottu.pay("attacker", YOURS), "standard")
    shop.hear(altered(genuine, session_id="f" * 40))
    assert shop.settle() == ["f" * 40]
    assert shop.cards("unconfirmed") == set()
    assert grew(metrics.SUSPICIOUS, "unknown_payment") == 1
