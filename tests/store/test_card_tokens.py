"""Tokens of cards at rest: in either form, bound to the card, moved to the other form in traffic, and read with a record."""

from __future__ import annotations

import uuid

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from cardsync.ciphers import KeyRing, card_token_to_store, stored_card_token
from cardsync.core.cards import CardFacts, Token
from cardsync.core.diff import Plan, RemoteCard
from cardsync.errors import MalformedBody, UnknownSecretKey
from cardsync.store import card_tokens, cards
from cardsync.store.access import keys, token_reads
from cardsync.store.access.keys import Scope
from tests.factories import RING, SECRET, CustomerFactory, make_card
from tests.store.rows import beside, change, one, wait_until_blocked

ENCRYPTING = KeyRing(SECRET, encrypts_cards=True)
NEXT = KeyRing(b"the secret key after the rotation", [SECRET], encrypts_cards=True)
FIRST = uuid.UUID(int=0)
T1 = "9999000000000001"


def add(engine: Engine, ring: KeyRing, token: str = T1) -> uuid.UUID:
    """An active card, as a list of Ottu's makes it in a process with this ring."""
    customer = CustomerFactory().id
    fingerprint = Token(token).fingerprint(SECRET, "sandbox")
    plan = Plan(added=(RemoteCard(fingerprint, Token(token), CardFacts(agreements=())),))
    with engine.begin() as connection:
        return cards.apply(connection, customer, plan, ring=ring, confirmed_at=None, cause="sweep")[fingerprint]


def stored(engine: Engine, card_id: uuid.UUID) -> str:
    return str(one(engine, "SELECT token FROM cardsync.cards WHERE card_id = :id", id=card_id).token)


def convert(engine: Engine, ring: KeyRing, limit: int = 99) -> card_tokens.Converted:
    with engine.begin() as connection:
        return card_tokens.convert(connection, ring, after=FIRST, limit=limit)


def other_forms(engine: Engine, ring: KeyRing) -> int:
    with engine.connect() as connection:
        return card_tokens.count_of_other_forms(connection, ring, at_most=99)


def key(connection: Connection, *scopes: Scope) -> uuid.UUID:
    return keys.create(connection, "billing", keys.key_hash(keys.new_key()), scopes)


def test_a_card_is_written_in_the_form_in_force_and_read_in_either(engine: Engine) -> None:
    clear, encrypted = add(engine, RING), add(engine, ENCRYPTING)
    assert stored(engine, clear) == T1
    assert stored(engine, encrypted).startswith(ENCRYPTING.prefix)
    for card_id in (clear, encrypted):
        assert stored_card_token(RING, card_id, stored(engine, card_id)) == Token(T1)


def test_a_ciphertext_opens_only_at_its_card_and_with_its_key(engine: Engine) -> None:
    card_id, other = add(engine, ENCRYPTING), add(engine, ENCRYPTING, "9999000000000002")
    with pytest.raises(MalformedBody):
        stored_card_token(RING, other, stored(engine, card_id))
    with pytest.raises(UnknownSecretKey):
        stored_card_token(KeyRing(b"a secret key of another database."), card_id, stored(engine, card_id))


@pytest.mark.parametrize("text_", ["x" * 51, "c1." + "x" * 60, "c2." + "x" * 150, "c1." + "x" * 400])
def test_the_database_takes_no_token_of_any_other_length_or_kind(engine: Engine, text_: str) -> None:
    with pytest.raises(IntegrityError, match="cards_token_bounded"):
        make_card(CustomerFactory(), token=text_, fingerprint=bytes(32))


@pytest.mark.parametrize("size", [1, 50])
def test_every_token_that_ottu_can_give_has_a_ciphertext_that_fits(engine: Engine, size: int) -> None:
    card_id = add(engine, ENCRYPTING, "\u20ac" * size)
    assert stored_card_token(ENCRYPTING, card_id, stored(engine, card_id)) == Token("\u20ac" * size)


def test_cards_move_to_the_form_in_force_and_back_and_the_feed_shows_nothing(
    engine: Engine, worker_engine: Engine
) -> None:
    made = [add(engine, RING, f"tok-{n}") for n in range(5)]
    change(engine, "UPDATE cardsync.cards SET status = 'deleting' WHERE card_id = :id", id=made[0])
    head = one(engine, "SELECT seq FROM cardsync.feed_head").seq
    assert other_forms(engine, ENCRYPTING) == 5
    first = convert(worker_engine, ENCRYPTING, limit=3)
    assert (first.written, first.unreadable, first.next_after is not None) == (3, 0, True)
    assert other_forms(engine, ENCRYPTING) == 2
    assert convert(worker_engine, ENCRYPTING).written == 2
    assert convert(worker_engine, ENCRYPTING).written == 0
    assert convert(worker_engine, NEXT).written == 5
    assert all(stored(engine, card_id).startswith(NEXT.prefix) for card_id in made)
    assert convert(worker_engine, KeyRing(NEXT.current.secret)).written == 5
    assert [stored(engine, card_id) for card_id in made] == [f"tok-{n}" for n in range(5)]
    assert one(engine, "SELECT seq FROM cardsync.feed_head").seq == head


def test_a_batch_passes_over_a_card_that_somebody_holds(engine: Engine) -> None:
    held, free = add(engine, RING), add(engine, RING, "9999000000000002")
    with engine.begin() as connection:
        connection.execute(text("SELECT 1 FROM cardsync.cards WHERE card_id = :id FOR UPDATE"), {"id": held})
        assert convert(engine, ENCRYPTING).written == 1
    assert stored(engine, held) == T1
    assert stored(engine, free).startswith("c1.")
    assert convert(engine, ENCRYPTING).written == 1


def test_a_change_of_a_card_waits_for_a_batch_and_is_not_lost(engine: Engine) -> None:
    card_id = add(engine, RING)
    with engine.connect() as connection:
        card_tokens.convert(connection, ENCRYPTING, after=FIRST, limit=9)
        with beside(engine, lambda other: _remove(other, card_id)) as second:
            wait_until_blocked(engine)
            connection.commit()
            second()
    row = one(engine, "SELECT status, token FROM cardsync.cards")
    assert (row.status, row.token) == ("removed", None)


def _remove(connection: Connection, card_id: uuid.UUID) -> None:
    cards.apply(connection, 0, Plan(removed=(card_id,)), ring=RING, confirmed_at=None, cause="sweep")


def test_a_token_of_a_key_that_was_lost_is_counted_and_left(engine: Engine) -> None:
    card_id = add(engine, KeyRing(b"a secret key that nobody kept....", encrypts_cards=True))
    before = stored(engine, card_id)
    done = convert(engine, ENCRYPTING)
    assert (done.written, done.unreadable, stored(engine, card_id)) == (0, 1, before)


def test_the_index_answers_which_cards_are_left(engine: Engine) -> None:
    """Also where the planner takes the table for large, and no statistics of the index tell it better."""
    customer = CustomerFactory().id
    rows = """
        INSERT INTO cardsync.cards (customer, fingerprint, token, status, cause)
        SELECT :customer, sha256(n::text::bytea), 'tok-' || n, 'active', 'sweep' FROM generate_series(1, 3000) AS n
    """
    change(engine, rows, customer=customer)
    change(engine, "ANALYZE cardsync.cards")
    for form in ("", ENCRYPTING.current.key_id.hex()):
        with engine.connect() as connection:
            statement = text(f"EXPLAIN {card_tokens._COUNT.text}")
            plan = "\n".join(connection.execute(statement, {"form": form, "at_most": 9}).scalars())
        assert plan.count("cards_token_forms") == 2, plan


# Over SQL, and over the web's one function.


def test_sql_gives_clear_tokens_and_says_of_an_encrypted_one_where_it_is(engine: Engine) -> None:
    clear, encrypted = add(engine, RING), add(engine, ENCRYPTING, "9999000000000002")
    query = text("SELECT token FROM registry.card_tokens WHERE card_id = :id")
    with engine.connect() as connection:
        connection.execute(text("SET LOCAL ROLE cardsync_charger"))
        assert connection.execute(query, {"id": clear}).scalar_one() == T1
        found = connection.execute(text("SELECT card_id FROM registry.card_tokens")).scalars()
        assert set(found) == {clear, encrypted}
        with pytest.raises(DBAPIError, match="tokens:read") as refused:
            connection.execute(query, {"id": encrypted}).scalar_one()
    assert "c1." not in str(refused.value.orig)


def test_the_web_is_given_tokens_of_active_cards_each_with_a_record(engine: Engine, web_engine: Engine) -> None:
    clear, encrypted, going = (add(engine, r, f"tok-{n}") for n, r in enumerate((RING, ENCRYPTING, ENCRYPTING)))
    change(engine, "UPDATE cardsync.cards SET status = 'deleting' WHERE card_id = :id", id=going)
    with engine.begin() as connection:
        key_id = key(connection, "cards:read", "tokens:read")
    with web_engine.begin() as connection:
        given = token_reads.give(connection, key_id, [clear, encrypted, going, uuid.uuid4()], RING)
        assert given == {clear: Token("tok-0"), encrypted: Token("tok-1")}
        assert token_reads.give(connection, key_id, [], RING) == {}
    with engine.connect() as connection:
        noted = token_reads.listing(connection, card_id=None, key_id=key_id, limit=9)
    assert {read.card_id for read in noted} == {clear, encrypted}


@pytest.mark.parametrize("what", ["another scope", "revoked", "expired", "unknown"])
def test_the_web_is_given_no_token_for_a_key_that_may_not_read_them(
    engine: Engine, web_engine: Engine, what: str
) -> None:
    card_id = add(engine, ENCRYPTING)
    with engine.begin() as connection:
        key_id = key(connection, "cards:read", *(() if what == "another scope" else ("tokens:read",)))
        if what in ("revoked", "expired"):
            column = {"revoked": "revoked_at", "expired": "expires_at"}[what]
            connection.execute(text(f"UPDATE cardsync.api_keys SET {column} = now() - interval '1 s'"))
    with web_engine.begin() as connection:
        asked = uuid.uuid4() if what == "unknown" else key_id
        assert token_reads.give(connection, asked, [card_id], RING) == {}
    assert one(engine, "SELECT count(*) AS n FROM cardsync.token_reads").n == 0


def test_a_clear_token_and_its_ciphertext_are_as_long_as_they_should_be() -> None:
    token = Token("\u20ac" * 50)
    assert 100 < len(card_token_to_store(ENCRYPTING, uuid.uuid4(), Token("x"))) < 400
    assert 100 < len(card_token_to_store(ENCRYPTING, uuid.uuid4(), token)) < 400
