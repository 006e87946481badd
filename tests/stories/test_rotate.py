"""A rotation of the secret key, and of the form of cards: online, in batches, run again; nothing is lost, and no card changes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from sqlalchemy import Engine

from cardsync.ciphers import KeyRing
from cardsync.core.cards import Token
from cardsync.errors import Conflict, Misconfigured
from cardsync.store import inbox
from cardsync.store.access import secret_keys
from cardsync.stories import rotate as story
from cardsync.stories.process import HintPolicy
from cardsync.stories.receive import Receipt, WebhookKeys
from cardsync.stories.rotate import Rotated
from tests import payloads
from tests.factories import RING, SECRET, EventFactory, fingerprint_with
from tests.stories.shop import Shop, listed, receive

NEW = b"the secret key after the rotation"
AFTER = KeyRing(NEW, [SECRET])
T1 = "9999000000000001"


@pytest.fixture(autouse=True)
def _fingerprints(engine: Engine) -> None:
    """The shop's policies go by this key."""
    fingerprint_with(engine)


def rotate(engine: Engine, ring: KeyRing = AFTER) -> Rotated:
    return story.rotate(engine, ring, tell=lambda _: None)


def received(shop: Shop, keys: WebhookKeys, **fields: str) -> Receipt:
    """A notification that a web process with these keys takes."""
    return receive(shop.ingest, payloads.signed(payloads.payment("cust-1", T1, **fields)), keys)


def stored(shop: Shop) -> list[str]:
    return [row.token for row in shop.execute("SELECT token FROM cardsync.events ORDER BY evidence_no")]


def test_open_hints_move_to_the_new_key_and_work_goes_on_with_it_alone(shop: Shop) -> None:
    receipts = [shop.receive(session_id=f"{n:040x}") for n in range(3)]
    assert all(text.startswith(RING.prefix) for text in stored(shop))
    assert rotate(shop.engine) == Rotated(written=3, unreadable=0)
    assert all(text.startswith(AFTER.prefix) for text in stored(shop))
    assert rotate(shop.engine) == Rotated(written=0, unreadable=0)
    assert story.retire(shop.engine, AFTER) == 1
    alone = KeyRing(NEW)
    with shop.engine.begin() as connection:
        assert secret_keys.fingerprint_key(connection, alone) == SECRET
    shop.hints = HintPolicy(SECRET, believed=False, ring=alone)
    (customer,) = shop.process(*receipts)
    shop.ottu.cards = listed(T1)
    shop.reconcile(customer)
    assert shop.cards() == {T1: "active"}


def test_meanwhile_processes_with_the_old_and_with_the_new_key_read_each_others_hints(shop: Shop) -> None:
    rotate(shop.engine)
    new_web = WebhookKeys.of([payloads.KEY], AFTER)
    hints = [shop.receive(session_id="a" * 40), received(shop, new_web, session_id="b" * 40)]
    shop.hints = HintPolicy(SECRET, believed=False, ring=AFTER)
    assert len(shop.process(*hints)) == 1
    assert [r.status for r in shop.execute("SELECT status FROM cardsync.events")] == ["done", "done"]


def test_a_worker_without_the_new_key_puts_its_hints_off_and_no_attempt_is_used_up(shop: Shop) -> None:
    receipt = received(shop, WebhookKeys.of([payloads.KEY], AFTER))
    assert shop.process(receipt) == []
    (row,) = shop.execute("SELECT status, attempts, last_error FROM cardsync.events")
    assert row == ("pending", 0, "UnknownSecretKey")
    shop.hints = HintPolicy(SECRET, believed=False, ring=AFTER)
    assert len(shop.process(receipt)) == 1


def test_an_interrupted_rotation_goes_on_with_what_is_left(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "ROWS_AT_ONCE", 2)
    for n in range(5):
        shop.receive(session_id=f"{n:040x}")

    class Stopped(Exception):
        """The operator presses Ctrl-C."""

    def stop(_count: int) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        story.rotate(shop.engine, AFTER, tell=stop)
    assert sum(text.startswith(AFTER.prefix) for text in stored(shop)) == 2
    with pytest.raises(Conflict, match="3 open hints"):
        story.retire(shop.engine, AFTER)
    assert rotate(shop.engine) == Rotated(written=3, unreadable=0)


def test_what_was_stored_in_the_clear_before_encryption_is_encrypted(shop: Shop) -> None:
    EventFactory(token=T1)
    EventFactory(token=T1, status="failed")
    assert rotate(shop.engine, RING) == Rotated(written=2, unreadable=0)
    assert not any(T1 in text for text in stored(shop))
    (row,) = shop.execute("SELECT DISTINCT facts FROM cardsync.events")
    assert set(row.facts) == {"agreements"}


def test_a_stranger_to_the_database_rotates_nothing(shop: Shop) -> None:
    shop.receive()
    rotate(shop.engine, RING)  # the database is bound
    with pytest.raises(Misconfigured):
        rotate(shop.engine, KeyRing(b"a secret key of another database."))
    assert all(text.startswith(RING.prefix) for text in stored(shop))


def test_a_hint_of_a_key_that_was_lost_is_counted_and_left(shop: Shop) -> None:
    lost = KeyRing(b"a secret key that nobody kept....")
    received(shop, WebhookKeys.of([payloads.KEY], lost))
    assert rotate(shop.engine) == Rotated(written=0, unreadable=1)


def test_a_repeat_that_takes_over_a_row_is_read_as_the_newest_body_said(shop: Shop) -> None:
    genuine = payloads.payment("cust-2", "9999000000000002")
    signature = payloads.signed(genuine)
    receive(shop.ingest, signature)
    for token in ("9999000000000003", "9999000000000004"):
        signed = {**json.loads(signature), "customer_id": "cust-1", "token": payloads.card(token, "cust-1")}
        receive(shop.ingest, json.dumps(signed).encode())
    with shop.engine.begin() as connection:
        opened = inbox.open_hints(connection, "sandbox", "cust-1", fingerprint_key=SECRET, ring=RING)
    assert [hint.fingerprint for hint in opened] == [Token("9999000000000004").fingerprint(SECRET, "sandbox")]


# Cards.

ENCRYPTED = KeyRing(SECRET, encrypts_cards=True)
AFTER_ENCRYPTED = KeyRing(NEW, [SECRET], encrypts_cards=True)


def cards_of(shop: Shop, count: int) -> None:
    shop.ottu.cards = listed(*(f"tok-{n}" for n in range(count)))
    (customer,) = shop.hint()
    shop.reconcile(customer)


def tokens(shop: Shop) -> list[str]:
    return [row.token for row in shop.execute("SELECT token FROM cardsync.cards WHERE token IS NOT NULL")]


def test_cards_take_the_form_that_the_settings_say_and_work_goes_on(shop: Shop) -> None:
    cards_of(shop, 3)
    changes = shop.feed()
    assert rotate(shop.engine, ENCRYPTED).cards == 4  # the hinted one is not listed
    assert all(text.startswith(ENCRYPTED.prefix) for text in tokens(shop))
    assert rotate(shop.engine, ENCRYPTED) == Rotated(0, 0)
    shop.policy = replace(shop.policy, ring=ENCRYPTED)
    shop.ottu.cards = listed("tok-0", brand="MASTERCARD") + listed("tok-3")
    shop.reconcile(shop.customer().id, lane="sweep")
    assert shop.execute("SELECT count(*) FROM cardsync.cards WHERE status = 'active'") == [(2,)]
    assert all(text.startswith(ENCRYPTED.prefix) for text in tokens(shop))
    assert changes == shop.feed()[: len(changes)]
    rotate(shop.engine, RING)
    assert {"tok-0", "tok-3"} <= set(tokens(shop))


def test_cards_move_to_the_next_key_and_no_key_is_retired_before(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "ROWS_AT_ONCE", 2)
    cards_of(shop, 4)
    rotate(shop.engine, ENCRYPTED)
    with shop.engine.begin() as connection:
        secret_keys.fingerprint_key(connection, AFTER_ENCRYPTED)
    with pytest.raises(Conflict, match="5 cards"):
        story.retire(shop.engine, AFTER_ENCRYPTED)
    assert rotate(shop.engine, AFTER_ENCRYPTED).cards == 5
    assert story.retire(shop.engine, AFTER_ENCRYPTED) == 1
    assert all(text.startswith(AFTER_ENCRYPTED.prefix) for text in tokens(shop))


def test_a_card_of_a_key_that_was_lost_is_counted_and_ends_the_run(shop: Shop) -> None:
    cards_of(shop, 1)
    rotate(shop.engine, ENCRYPTED)
    shop.execute("UPDATE cardsync.cards SET token = overlay(token placing '0123456789abcdef' from 4 for 16)")
    done = rotate(shop.engine, AFTER_ENCRYPTED)
    assert (done.cards, done.unreadable_cards) == (0, 2)
