"""Lists with odd entries: what is certain is believed, nothing is removed on their account, and an operator can see it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner
from prometheus_client import REGISTRY
from sqlalchemy import Engine

from cardsync.cli import main
from cardsync.core.oddities import ODDITIES
from cardsync.errors import OttuUnavailable
from cardsync.store.ops import odd_lists
from cardsync.stories import erase
from cardsync.stories.erase import Wish
from tests import factories
from tests.stories.fake_ottu import CUSTOMER, DeletingShop, Fault

pytestmark = pytest.mark.usefixtures("still_clock")  # a busy machine may need longer than waits of two seconds

T1, T2, T3 = "9999000000000001", "9999000000000002", "9999000000000003"
Cards = list[dict[str, Any]]


@pytest.fixture
def shop(engine: Engine, ingest_engine: Engine, web_engine: Engine, worker_engine: Engine) -> DeletingShop:
    return DeletingShop(engine, ingest_engine, web_engine, worker_engine)


def entry(token: Any = T3, **more: Any) -> dict[str, Any]:
    """A whole card as Ottu lists it; ``...`` leaves a field out."""
    whole = {
        "token": token,
        "customer_id": CUSTOMER,
        "pg_code": "fake-pg",
        "brand": "VISA",
        "number": "**** 0003",
        **more,
    }
    return {name: value for name, value in whole.items() if value is not ...}


def without(cards: Cards, token: str) -> Cards:
    return [card for card in cards if card["token"] != token]


def active(shop: DeletingShop) -> set[str]:
    return {str(row.token) for row in shop.execute("SELECT token FROM registry.card_tokens")}


def counted(oddity: str) -> float:
    return REGISTRY.get_sample_value("cardsync_list_oddities_total", {"oddity": oddity}) or 0.0


ODD: dict[str, tuple[str, Callable[[Cards], Any], set[str]]] = {
    "twice": ("listed_twice", lambda cards: [*cards, entry(T3), entry(T3, brand="MC")], {T3}),
    "a number": ("number_token", lambda cards: [*cards, entry(int(T3))], {T3}),
    "a short number": ("short_number_token", lambda cards: [*cards, entry(42)], {"42"}),
    "null": ("unreadable_token", lambda cards: [*cards, entry(None)], set()),
    "no token": ("unreadable_token", lambda cards: [*cards, entry(...)], set()),
    "blanks around it": ("padded_token", lambda cards: [*cards, entry(f" {T3}\n")], {T3}),
    "64 characters": ("long_token", lambda cards: [*cards, entry("9" * 64)], set()),
    "no card": ("not_a_card", lambda cards: [*cards, None], set()),
    "a bare token": ("not_a_card", lambda cards: [*cards, {"token": T3}], set()),
    "no gateway": ("incomplete", lambda cards: [*cards, entry(pg_code=...)], {T3}),
    "no owner": ("owner_absent", lambda cards: [*cards, entry(customer_id=...)], set()),
    "an owner in other case": ("owner_case", lambda cards: [*cards, entry(customer_id=CUSTOMER.upper())], set()),
}
odd = pytest.mark.parametrize(("oddity", "make", "added"), ODD.values(), ids=ODD.keys())


@odd
def test_beside_an_odd_entry_good_ones_are_believed_and_nothing_is_removed(
    shop: DeletingShop, oddity: str, make: Callable[[Cards], Any], added: set[str]
) -> None:
    shop.stock(T1, T2)
    before = counted(oddity)
    shop.desk.answer = lambda cards: make([{**c, "brand": "FAKE"} for c in without(cards, T1)])
    assert shop.reconcile_now().outcome == "changed"
    assert active(shop) == {T1, T2} | added
    assert shop.card(T2).brand == "FAKE"
    customer = shop.customer(CUSTOMER)
    assert (customer.failures, customer.list_oddities, customer.dirty_since) == (0, [oddity], None)
    assert counted(oddity) == before + 1


def test_every_oddity_is_a_series_from_the_start() -> None:
    for oddity in ODDITIES:
        assert REGISTRY.get_sample_value("cardsync_list_oddities_total", {"oddity": oddity}) is not None


@odd
def test_beside_an_odd_entry_a_deletion_that_ottu_confirmed_is_proved(
    shop: DeletingShop, oddity: str, make: Callable[[Cards], Any], added: set[str]
) -> None:
    card, _ = shop.stock(T1, T2)
    shop.desk.answer = make
    deletion = shop.ask(card)
    shop.work_for(5)
    assert (shop.show(deletion).status, shop.card(T1).status, shop.card(T1).token) == ("done", "removed", None)
    assert T2 in active(shop)


@pytest.mark.parametrize("kind", ["twice", "blanks around it", "64 characters", "no gateway", "a number"])
def test_where_no_odd_entry_can_be_the_card_its_absence_is_proof_without_an_answer(
    shop: DeletingShop, kind: str
) -> None:
    card, _ = shop.stock(T1, T2)
    shop.desk.answer = ODD[kind][1]
    shop.desk.faults["delete"].append(Fault(OttuUnavailable("no answer"), after=True))
    deletion = shop.ask(card)
    shop.work_for(5)
    assert shop.show(deletion).status == "done"


@pytest.mark.parametrize("kind", ["null", "no card", "no owner", "an owner in other case"])
def test_where_an_odd_entry_may_be_the_card_a_deletion_waits_for_a_better_list(shop: DeletingShop, kind: str) -> None:
    card, _ = shop.stock(T1, T2)
    shop.desk.answer = ODD[kind][1]
    shop.desk.faults["delete"].append(Fault(OttuUnavailable("no answer"), after=True))
    deletion = shop.ask(card)
    shop.work_for(30, step=5.0)
    assert (shop.show(deletion).status, shop.card(T1).status) == ("in_progress", "deleting")
    assert shop.desk.lists < 12
    shop.desk.answer = lambda cards: cards
    shop.work_for(60, step=5.0)
    assert (shop.show(deletion).status, shop.customer(CUSTOMER).list_oddities) == ("done", [])


def test_facts_that_two_entries_contradict_stay_as_they_were(shop: DeletingShop) -> None:
    shop.stock(T1, brand="VISA")
    shop.desk.answer = lambda cards: [cards[0] | {"agreements": ["agr-1"]}]
    shop.reconcile_now()
    shop.desk.answer = lambda cards: [
        cards[0] | {"name_on_card": "SOMEBODY", "agreements": ["agr-1"]},
        cards[0] | {"name_on_card": "SOMEBODY", "brand": "MC", "agreements": []},
    ]
    shop.reconcile_now()
    card = shop.card(T1)
    assert (card.brand, card.agreements, card.name_on_card) == ("VISA", ["agr-1"], "SOMEBODY")
    assert [r.agreement_id for r in shop.execute("SELECT agreement_id FROM cardsync.agreements")] == ["agr-1"]


@pytest.mark.parametrize("confirms", [{"customer_id": ...}, {"customer_id": CUSTOMER.upper()}])
def test_an_entry_that_does_not_surely_name_the_customer_confirms_what_a_hint_named(
    shop: DeletingShop, confirms: dict[str, Any]
) -> None:
    shop.hint(CUSTOMER, T3)
    shop.desk.answer = lambda _: [entry(T3, **confirms)]
    shop.look()
    assert active(shop) == {T3}


@pytest.mark.parametrize(
    ("asked", "named"),
    [("cust-1", "cust-1  "), ("cust-1 ", "cust-1"), ("caf\u00e9", "cafe\u0301"), ("cafe\u0301", "caf\u00e9")],
)
def test_a_customer_whose_id_ottu_spells_otherwise_is_listed_like_any_other(
    shop: DeletingShop, asked: str, named: str
) -> None:
    shop.execute("INSERT INTO cardsync.customers (environment, customer_id) VALUES ('sandbox', :id)", id=asked)
    before = counted("owner_spelling")
    shop.desk.answer = lambda _: [entry(T1, customer_id=named)]
    shop.reconcile_now(asked)
    assert active(shop) == {T1}
    assert (shop.customer(asked).list_oddities, counted("owner_spelling")) == (["owner_spelling"], before + 1)
    shop.desk.answer = lambda _: [entry(T2, customer_id=named)]
    shop.reconcile_now(asked)
    assert active(shop) == {T2}


def test_a_card_under_an_id_in_other_case_is_not_taken_for_this_customers(shop: DeletingShop) -> None:
    shop.execute("INSERT INTO cardsync.customers (environment, customer_id) VALUES ('sandbox', 'aB3')")
    shop.desk.answer = lambda _: [entry(T1, customer_id="Ab3")]
    shop.reconcile_now("aB3")
    assert active(shop) == set()
    customer = shop.customer("aB3")
    assert (customer.failures, customer.last_error, customer.list_oddities) == (0, None, ["owner_case"])


@pytest.mark.parametrize(
    "answer",
    [
        {"token": "a" * 40, "expires_in": 3600},
        [{"token": "abc123"}],
        {"count": 0, "next": None, "results": [], "errors": ["x"]},
        {"count": 0, "next": None, "results": [], "success": False},
        {"count": 0, "next": None, "results": [], "status": "error"},
        [{"detail": "Not found."}],
        [entry(T1, customer_id="another")],
    ],
    ids=lambda answer: json.dumps(answer)[:60],
)
def test_an_answer_that_is_no_list_of_cards_erases_nothing(shop: DeletingShop, answer: Any) -> None:
    shop.stock(T1, T2)
    shop.desk.answer = lambda _: answer
    assert shop.reconcile_now().outcome == "failed"
    assert active(shop) == {T1, T2}
    assert shop.customer(CUSTOMER).last_error.startswith("InvalidAnswer: ")


def test_one_card_in_place_of_a_list_adds_and_removes_nothing(shop: DeletingShop) -> None:
    shop.stock(T1, T2)
    shop.desk.answer = lambda _: entry(T3)
    shop.reconcile_now()
    assert active(shop) == {T1, T2, T3}
    assert shop.customer(CUSTOMER).list_oddities == ["single_object"]


def test_one_card_in_place_of_a_list_is_not_odd_where_it_is_the_only_card(shop: DeletingShop) -> None:
    shop.desk.answer = lambda cards: cards[0] if len(cards) == 1 else cards
    card, _ = shop.stock(T1, T2)
    deletion = shop.ask(card)
    shop.work_for(5)
    assert shop.show(deletion).status == "done"
    shop.reconcile_now()
    assert (active(shop), shop.customer(CUSTOMER).list_oddities) == ({T2}, [])


@pytest.mark.parametrize(("kind", "done"), [("null", False), ("64 characters", False), ("no gateway", True)])
def test_an_erasure_is_done_only_when_no_list_hides_a_card(shop: DeletingShop, kind: str, done: bool) -> None:
    shop.stock(T1)
    shop.desk.answer = lambda cards: (
        ODD[kind][1](cards) if kind != "no gateway" else [{**c, "pg_code": None} for c in cards]
    )
    begun = erase.begin(shop.web, Wish(CUSTOMER, "support"))
    for _ in range(5):
        shop.work_for(2)
        shop.execute("UPDATE cardsync.erasures SET due_at = clock_timestamp() WHERE due_at IS NOT NULL")
        erase.advance(shop.worker, 10)
    with shop.web.connect() as connection:
        assert (erase.show(connection, begun.erasure_id)[0].status == "done") is done
    assert shop.card(T1).status == "removed"


def test_explain_and_doctor_show_what_was_odd_and_no_content(
    shop: DeletingShop, database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARDSYNC_DATABASE_URL", database_url)
    monkeypatch.setenv("CARDSYNC_SECRET_KEY", factories.SECRET.decode())
    (card,) = shop.stock(T1)
    shop.desk.answer = lambda cards: [*cards, entry(None), entry(CUSTOMER * 20)]
    shop.reconcile_now()
    explained = CliRunner().invoke(main, ["explain", str(card)])
    assert (
        "The last list was odd: a token is longer than 50 characters; a card has no readable token." in explained.output
    )
    examined = CliRunner().invoke(main, ["doctor", "--offline", "--json"])
    (check,) = [c for c in json.loads(examined.stdout)["checks"] if c["name"] == "odd lists"]
    assert check["status"] == "warning"
    assert check["found"].startswith("the last list of 1 customers was odd: ")
    assert f"cardsync explain {card}" in check["advice"]
    assert CUSTOMER not in check["found"] + check["advice"]
    shop.desk.answer = lambda cards: cards
    shop.reconcile_now()
    with shop.worker.connect() as connection:
        assert odd_lists.summary(connection).customers == 0
    assert "was odd" not in CliRunner().invoke(main, ["explain", str(card)]).output


def test_last_four_digits_of_an_earlier_version_are_put_right_by_the_next_list(shop: DeletingShop) -> None:
    shop.stock(T1, number="411111******")
    assert shop.card(T1).last4 is None
    shop.execute("UPDATE cardsync.cards SET last4 = '1111'")
    assert shop.reconcile_now().outcome == "changed"
    assert shop.card(T1).last4 is None
    assert shop.reconcile_now().outcome == "unchanged"
