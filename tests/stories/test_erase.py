"""Erasing a person: all cards of both environments, proof of each, and only then the names; receipts stay."""

from __future__ import annotations

import datetime as dt
import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, null, text
from sqlalchemy.exc import OperationalError

from cardsync.core.cards import CardFacts, Token
from cardsync.errors import Conflict, NotFound
from cardsync.ottu import DeleteAnswer
from cardsync.store import customers
from cardsync.store.deletions import erasures, receipts, requests
from cardsync.stories import endpoints, erase
from cardsync.stories.delete import DeletePolicy, delete
from cardsync.stories.endpoints import NewEndpoint
from cardsync.stories.erase import Wish
from cardsync.stories.receive import examine, store
from tests import payloads
from tests.factories import RING, CustomerFactory, EventFactory, make_card
from tests.store.rows import wait_until_blocked
from tests.stories.shop import KEYS, Shop, listed
from tests.waiting import WAIT_SECONDS

PERSON = "cust/1 é"
WISH = Wish(PERSON, "support")
NAME = "JOY OF THE TESTS"
PERSONAL = {
    "name_on_card": NAME,
    "number": "**** 0008",
    "last4": "0008",
    "expiry_month": "01",
    "expiry_year": "39",
    "expires_on": dt.date(2039, 1, 31),
    "agreements": ["agr-1"],
}


@pytest.fixture
def person(engine: Engine) -> dict[str, Any]:
    """A person with a card in each environment, and one that is gone already."""
    sandbox = CustomerFactory(customer_id=PERSON)
    production = CustomerFactory(customer_id=PERSON, environment="production")
    gone = {"status": "removed", "token": None, "fingerprint": b"g" * 32}
    removed = {"removed_at": dt.datetime.now(dt.UTC), "removed_because": "absent"}
    return {
        "customers": [production.id, sandbox.id],
        "cards": [
            make_card(sandbox, token="9999000000000001", **PERSONAL).card_id,
            make_card(production, token="9999000000000002", **PERSONAL).card_id,
        ],
        "removed": make_card(sandbox, **gone, **removed, **PERSONAL).card_id,
    }


DELETES = DeletePolicy(RING, daily_calls=1_000, call_seconds=10.0)


class Refusing:
    """An Ottu that deletes no card."""

    def delete_card(self, environment: str, customer_id: str, token: Token) -> DeleteAnswer:
        return DeleteAnswer(status_code=400, reason="the card serves an agreement")


def show(engine: Engine, erasure_id: uuid.UUID) -> tuple[erasures.Erasure, list[requests.Deletion]]:
    with engine.connect() as connection:
        return erase.show(connection, erasure_id)


def status(engine: Engine, erasure_id: uuid.UUID) -> str:
    return show(engine, erasure_id)[0].status


def advance(shop: Shop) -> list[uuid.UUID]:
    """Let the time pass until every erasure is due, and take each as far as it goes."""
    shop.execute("UPDATE cardsync.erasures SET due_at = clock_timestamp() WHERE due_at IS NOT NULL")
    return erase.advance(shop.worker, 10)


def lists_show(shop: Shop, person: dict[str, Any], *tokens: str) -> None:
    """Ottu is asked in both environments, and lists these."""
    shop.ottu.cards = listed(*tokens)
    for customer in person["customers"]:
        shop.reconcile(customer, lane="deletion")


def personal(shop: Shop) -> list[Any]:
    """What still names the person in the cards' table."""
    return shop.execute("""
        SELECT name_on_card, number, last4, expiry_month, expiry_year, expires_on, agreements
        FROM cardsync.cards WHERE coalesce(name_on_card, number, last4, expiry_month, expiry_year) IS NOT NULL
           OR expires_on IS NOT NULL OR agreements <> '{}'
    """)


def test_all_cards_are_deleted_and_proved_and_then_nothing_names_the_person(
    shop: Shop, engine: Engine, person: dict[str, Any]
) -> None:
    EventFactory(
        customer_id=PERSON,
        status="failed",
        session_id="s" * 40,
        reference_number="r-1",
        order_no="o-1",
        agreement_id="agr-1",
    )
    settled = {"status": "ignored", "ignored_because": "no card", "token": None, "facts": null()}
    EventFactory(customer_id=PERSON, session_id="s" * 40, reference_number="r-2", order_no="o-2", **settled)
    bystander = make_card(CustomerFactory(), **PERSONAL)
    shop.execute(
        "INSERT INTO cardsync.gateway_asks (customer, pg_code) SELECT id, 'one' FROM cardsync.customers"
    )  # that readers asked about
    begun = erase.begin(shop.web, Wish(PERSON, "support", "ticket 1"))
    assert len(begun.deletion_ids) == 2
    assert sorted(begun.customers) == sorted(person["customers"])
    assert set(shop.cards(PERSON).values()) == {"deleting", "removed"}
    advance(shop)
    assert status(engine, begun.erasure_id) == "pending"
    assert len(personal(shop)) == 4  # nothing is taken away before all is proved
    lists_show(shop, person)
    advance(shop)
    erasure, waited_for = show(engine, begun.erasure_id)
    assert (erasure.status, erasure.error, erasure.requested_by) == ("done", None, "support")
    assert erasure.finished_at is not None
    assert {d.status for d in waited_for} == {"done"}
    assert shop.cards(PERSON) == {"(erased)": "removed"}
    (left,) = personal(shop)
    assert left.name_on_card == bystander.name_on_card
    asked_about = shop.execute("SELECT customer FROM cardsync.gateway_asks")
    assert [row.customer for row in asked_about] == [bystander.customer]
    events = shop.execute("SELECT * FROM cardsync.events WHERE customer_id = :id", id=PERSON)
    assert {e.status for e in events} == {"done", "ignored"}
    for event in events:
        assert (
            event.token,
            event.facts,
            event.session_id,
            event.reference_number,
            event.order_no,
            event.agreement_id,
        ) == (None,) * 6
    assert advance(shop) == []


def test_the_kept_notifications_of_the_person_go_with_the_names_and_those_of_others_stay(
    shop: Shop, engine: Engine, person: dict[str, Any]
) -> None:
    endpoints.add(shop.worker, NewEndpoint("orders", "https://orders.example.test/hook", "notifications"), RING)
    theirs = payloads.payment(PERSON, token=None, session_id="theirs")
    refund = payloads.operation(session_id="theirs", customer_id=None)
    others = payloads.payment("cust-2", token=None, session_id="others")
    came = [examine(payloads.signed(one), KEYS, keep_body=True) for one in (theirs, refund, others)]
    *_, stays = (receipt.event_id for receipt in store(shop.ingest, came))
    begun = erase.begin(shop.web, WISH)
    advance(shop)
    assert len(shop.execute("SELECT FROM cardsync.kept_bodies WHERE body IS NOT NULL")) == 3  # nothing is proved yet
    lists_show(shop, person)
    advance(shop)
    assert status(engine, begun.erasure_id) == "done"
    (left,) = shop.execute("SELECT event_id, customer_id FROM cardsync.kept_bodies WHERE body IS NOT NULL")
    assert (left.event_id, left.customer_id) == (stays, "cust-2")
    assert shop.execute("SELECT FROM cardsync.kept_bodies WHERE customer_id = :id", id=PERSON) == []
    assert shop.execute("SELECT event_id FROM cardsync.deliveries WHERE status = 'pending'") == [(stays,)]


def test_the_feed_tells_that_names_and_numbers_are_gone(shop: Shop, engine: Engine, person: dict[str, Any]) -> None:
    erase.begin(shop.web, WISH)
    lists_show(shop, person)
    advance(shop)
    told = shop.execute("SELECT change, cause, fields FROM registry.card_changes ORDER BY seq DESC LIMIT 3")
    assert {(t.change, t.cause) for t in told} == {("updated", "erasure")}
    assert set(told[0].fields) == set(PERSONAL)


def test_receipts_stay_whole_and_hold_nothing_of_the_person(shop: Shop, engine: Engine, person: dict[str, Any]) -> None:
    with engine.begin() as connection:
        earlier = requests.request(
            connection, card_id=person["cards"][0], requested_by="shop", reason=f"{NAME} called"
        ).deletion_id
    begun = erase.begin(shop.web, WISH)
    lists_show(shop, person)
    advance(shop)
    erasure, waited_for = show(engine, begun.erasure_id)
    assert erasure.status == "done"
    assert earlier in {d.deletion_id for d in waited_for}
    assert {d.reason for d in waited_for} == {None}
    with engine.connect() as connection:
        for deletion in waited_for:
            steps = receipts.steps(connection, deletion.deletion_id)
            assert [s.step for s in steps][-1] == "done"
            said = str([(s.step, s.detail) for s in steps])  # of the rest, moments and hashes hold any digits
            told = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{64}", "", said)  # and so do ids
            assert not any(word in told for word in (NAME, "0008", "9999", PERSON))
        assert receipts.verify(connection).broken_at is None


def test_lists_from_before_the_wish_prove_nothing(shop: Shop, engine: Engine) -> None:
    person = {"customers": [CustomerFactory(customer_id=PERSON, environment=e).id for e in ("production", "sandbox")]}
    lists_show(shop, person)
    begun = erase.begin(shop.web, WISH)
    advance(shop)
    assert status(engine, begun.erasure_id) == "pending"
    shop.reconcile(person["customers"][0], lane="deletion")
    advance(shop)
    assert status(engine, begun.erasure_id) == "pending"  # the other environment was not asked
    shop.reconcile(person["customers"][1], lane="deletion")
    advance(shop)
    assert status(engine, begun.erasure_id) == "done"


def test_a_person_nobody_knows_is_looked_for_in_both_environments(shop: Shop, engine: Engine) -> None:
    begun = erase.begin(shop.web, Wish("nobody", "support"))
    for customer in begun.customers:
        assert shop.reconcile(customer).outcome == "unchanged"
    assert sorted(shop.ottu.asked_for) == [("production", "nobody"), ("sandbox", "nobody")]
    advance(shop)
    assert status(engine, begun.erasure_id) == "done"


def test_a_card_that_a_list_shows_only_now_is_deleted_too(shop: Shop, engine: Engine, person: dict[str, Any]) -> None:
    begun = erase.begin(shop.web, WISH)
    lists_show(shop, person, "9999000000000077")
    assert "active" in shop.cards(PERSON).values()
    asked_for = advance(shop)
    assert len(asked_for) == 2  # one in each environment
    assert set(shop.cards(PERSON).values()) == {"deleting", "removed"}
    lists_show(shop, person)
    advance(shop)
    assert status(engine, begun.erasure_id) == "done"
    assert len(show(engine, begun.erasure_id)[1]) == 4


def test_a_hint_that_came_in_meanwhile_is_settled_first(shop: Shop, engine: Engine, person: dict[str, Any]) -> None:
    begun = erase.begin(shop.web, WISH)
    lists_show(shop, person)
    receipt = shop.receive(customer_id=PERSON, token="9999000000000088", name_on_card=NAME)
    advance(shop)
    assert status(engine, begun.erasure_id) == "pending"
    shop.process(receipt)
    assert "unconfirmed" in shop.cards(PERSON).values()
    lists_show(shop, person)
    advance(shop)
    assert status(engine, begun.erasure_id) == "pending"  # not listed yet: it is waited for
    shop.age_hints(200)
    lists_show(shop, person)
    advance(shop)
    assert status(engine, begun.erasure_id) == "done"
    assert shop.cards(PERSON) == {"(erased)": "removed"}
    assert not shop.execute(
        "SELECT 1 FROM cardsync.events WHERE customer_id = :id AND session_id IS NOT NULL", id=PERSON
    )


def settle_as(shop: Shop, deletion_id: uuid.UUID, phase: str, error: str) -> None:
    """Let a deletion end in trouble: the card is active again."""
    shop.execute(
        """UPDATE cardsync.deletions SET phase = :phase, error = :error, due_at = NULL, finished_at = clock_timestamp()
           WHERE deletion_id = :id""",
        phase=phase,
        error=error,
        id=deletion_id,
    )
    shop.execute(
        """UPDATE cardsync.cards SET status = 'active'
           WHERE card_id = (SELECT card_id FROM cardsync.deletions WHERE deletion_id = :id)""",
        id=deletion_id,
    )


@pytest.mark.parametrize(("phase", "said"), [("blocked", "is locked: in use"), ("failed", "failed: in use")])
def test_a_card_that_cannot_be_deleted_is_named_and_its_names_stay_until_it_can(
    shop: Shop, engine: Engine, person: dict[str, Any], phase: str, said: str
) -> None:
    begun = erase.begin(shop.web, WISH)
    lists_show(shop, {"customers": person["customers"][:1]})
    stuck = next(d for d in show(engine, begun.erasure_id)[1] if d.environment == "sandbox")
    settle_as(shop, stuck.deletion_id, phase, "in use")
    advance(shop)
    erasure, _ = show(engine, begun.erasure_id)
    assert (erasure.status, erasure.finished_at) == (phase, None)
    assert erasure.error is not None
    assert str(stuck.card_id) in erasure.error
    assert said in erasure.error
    assert len(personal(shop)) == 3
    assert advance(shop) == []  # it waits for this deletion, and asks for no other
    with engine.begin() as connection:
        assert requests.replay(connection, stuck.deletion_id)
    advance(shop)
    assert (status(engine, begun.erasure_id), show(engine, begun.erasure_id)[0].error) == ("pending", None)
    lists_show(shop, person)
    advance(shop)
    assert status(engine, begun.erasure_id) == "done"
    assert personal(shop) == []


def test_a_locked_card_is_deleted_as_soon_as_another_card_serves_its_agreement(shop: Shop, engine: Engine) -> None:
    token, agreement = "9999000000000001", ("agr-1",)
    for customer in erase.begin(shop.web, WISH).customers:  # known in both, before there is any card
        shop.reconcile(customer)
    advance(shop)
    sandbox = next(c for c in shop.execute("SELECT * FROM cardsync.customers") if c.environment == "sandbox").id
    production = next(c for c in shop.execute("SELECT * FROM cardsync.customers") if c.environment == "production").id
    shop.ottu.cards = listed(token, agreements=agreement, name_on_card=NAME)
    shop.reconcile(sandbox, lane="hint")
    begun = erase.begin(shop.web, WISH)
    (deletion_id,) = begun.deletion_ids
    refusing = Refusing()
    assert delete(shop.worker, refusing, deletion_id, DELETES, jitter=0.5).outcome == "declined"
    shop.reconcile(sandbox, lane="deletion")
    advance(shop)
    erasure, _ = show(engine, begun.erasure_id)
    assert erasure.status == "blocked"
    assert "serves an agreement" in str(erasure.error)
    assert shop.cards(PERSON) == {token: "active"}

    shop.ottu.cards = (*listed(token), *listed("9999000000000002", agreements=agreement))
    shop.reconcile(sandbox, lane="sweep")
    assert shop.cards(PERSON)[token] == "deleting"  # it went on by itself
    asked_for = advance(shop)
    assert status(engine, begun.erasure_id) == "pending"
    assert len(asked_for) == 1  # the other card is the person's, too
    shop.ottu.cards = ()
    shop.reconcile(sandbox, lane="deletion")
    shop.reconcile(production, lane="deletion")
    advance(shop)
    assert status(engine, begun.erasure_id) == "done"
    assert personal(shop) == []


def test_somebody_else_s_deletion_that_would_not_go_on_by_itself_does_from_then_on(
    shop: Shop, engine: Engine, person: dict[str, Any]
) -> None:
    with engine.begin() as connection:
        theirs = requests.request(connection, card_id=person["cards"][0], requested_by="shop").deletion_id
    settle_as(shop, theirs, "blocked", "in use")
    begun = erase.begin(shop.web, WISH)
    ours = {d.deletion_id for d in show(engine, begun.erasure_id)[1]}
    assert theirs in ours  # refused a moment ago: asking Ottu again would be refused again
    assert all(d.when_unlocked for d in show(engine, begun.erasure_id)[1])


def test_a_second_wish_joins_the_first_and_needs_lists_of_its_own(
    shop: Shop, engine: Engine, person: dict[str, Any]
) -> None:
    first = erase.begin(shop.web, WISH)
    lists_show(shop, person)
    second = erase.begin(shop.web, WISH)
    assert (second.erasure_id, second.fresh) == (first.erasure_id, False)
    advance(shop)
    assert status(engine, first.erasure_id) == "pending"
    lists_show(shop, person)
    advance(shop)
    assert status(engine, first.erasure_id) == "done"
    third = erase.begin(shop.web, WISH)
    assert third.fresh


def test_a_key_stands_for_one_wish_also_after_the_end(shop: Shop, engine: Engine, person: dict[str, Any]) -> None:
    wish = Wish(PERSON, "support", key="k1", request_hash=b"1" * 32)
    begun = erase.begin(shop.web, wish)
    lists_show(shop, person)
    advance(shop)
    again = erase.begin(shop.web, wish)
    assert (again.erasure_id, again.fresh, again.deletion_ids, again.customers) == (begun.erasure_id, False, (), ())
    assert shop.customer(PERSON).due_at is None  # a repeated request costs no call
    with pytest.raises(Conflict):
        erase.begin(shop.web, Wish("cust-2", "support", key="k1", request_hash=b"2" * 32))


def test_a_notification_afterwards_begins_a_new_life_of_the_card(
    shop: Shop, engine: Engine, person: dict[str, Any]
) -> None:
    begun = erase.begin(shop.web, WISH)
    lists_show(shop, person)
    advance(shop)
    fingerprint = listed("9999000000000001")[0].token.fingerprint(shop.policy.fingerprint_key, "sandbox")
    (before,) = shop.execute("SELECT card_id, life FROM cardsync.cards WHERE fingerprint = :f", f=fingerprint)
    shop.hint(customer_id=PERSON, token="9999000000000001")
    assert personal(shop) == []  # a hint fills in nothing
    shop.ottu.cards = listed("9999000000000001", name_on_card=NAME)
    shop.reconcile(person["customers"][1], lane="hint")
    (after,) = shop.execute("SELECT * FROM cardsync.cards WHERE fingerprint = :f", f=fingerprint)
    assert (after.card_id, after.life, after.status, after.name_on_card) == (
        before.card_id,
        before.life + 1,
        "active",
        NAME,
    )
    advance(shop)
    assert shop.cards(PERSON)["9999000000000001"] == "active"  # the erasure is over
    assert status(engine, begun.erasure_id) == "done"


def test_an_erasure_that_cannot_be_looked_at_holds_up_no_other(
    shop: Shop, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = (erase.begin(shop.web, Wish(c, "support")) for c in ("cust-1", "cust-2"))
    for customer in (*bad.customers, *good.customers):
        shop.reconcile(customer)
    real = erasures.lock

    def lock(connection: Any, erasure_id: uuid.UUID) -> erasures.Open | None:
        if erasure_id == bad.erasure_id:
            raise OperationalError("", None, Exception())
        return real(connection, erasure_id)

    monkeypatch.setattr(erasures, "lock", lock)
    advance(shop)
    assert (status(engine, bad.erasure_id), status(engine, good.erasure_id)) == ("pending", "done")
    monkeypatch.undo()
    advance(shop)
    assert status(engine, bad.erasure_id) == "done"


def test_a_wish_is_whole_or_not_at_all(
    shop: Shop, engine: Engine, person: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(customers, "mark_dirty", die)
    with pytest.raises(KeyboardInterrupt):
        erase.begin(shop.web, WISH)
    assert sorted(shop.cards(PERSON).values()) == ["active", "active", "removed"]
    assert shop.execute("SELECT 1 FROM cardsync.erasures UNION ALL SELECT 1 FROM cardsync.deletions") == []


def test_two_wishes_at_once_are_one_erasure(shop: Shop, engine: Engine, person: dict[str, Any]) -> None:
    with ThreadPoolExecutor(2) as executor:
        with engine.begin() as connection:
            connection.execute(text("SELECT 1 FROM cardsync.customers FOR UPDATE"))
            both = [executor.submit(erase.begin, engine, WISH) for _ in range(2)]
            wait_until_blocked(engine, 2)
        first, second = (one.result(WAIT_SECONDS) for one in both)
    assert first.erasure_id == second.erasure_id
    assert {first.fresh, second.fresh} == {True, False}
    assert len(shop.execute("SELECT 1 FROM cardsync.deletions")) == 2


def test_what_was_never_asked_for_is_not_found(engine: Engine) -> None:
    with pytest.raises(NotFound):
        show(engine, uuid.uuid4())


def test_the_facts_that_are_removed_are_all_that_can_name_a_person() -> None:
    kept = {
        "pg_code",
        "pg_name",
        "brand",
        "is_expired",
        "is_preferred",
        "cvv_required",
    }  # of the card's kind, not its holder
    assert set(CardFacts.__dataclass_fields__) == (set(PERSONAL) - {"last4", "expires_on"}) | kept
