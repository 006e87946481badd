"""What operators do: once for each key, under the row's guard, with a row in the journal that is written with it."""

from __future__ import annotations

import datetime as dt
import uuid

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from cardsync.store.console import journal
from tests.factories import CustomerFactory, make_card
from tests.store.rows import change, one


def journalled(engine):
    with engine.connect() as connection:
        return [
            (e.actor.partition("-")[0], e.action, e.kind, e.subject)
            for e in journal.page(connection, before=None, limit=50)
        ]


def test_a_look_is_asked_for_once_however_often_the_form_is_sent(signed_in, engine):
    customer, browser, key = CustomerFactory(), signed_in("support"), str(uuid.uuid4())
    for _ in range(2):
        answer = browser.post(f"/customers/{customer.id}/look-now", request_key=key)
        assert (answer.status_code, answer.headers["Location"]) == (303, f"/customers/{customer.id}?done=look_now")
    row = one(engine, "SELECT lane, due_at <= clock_timestamp() AS is_due, dirty_no FROM cardsync.customers")
    assert (row.lane, row.is_due) == ("read", True)
    assert journalled(engine)[0] == ("support", "look_now", "customer", str(customer.id))
    assert sum(action == "look_now" for _, action, _, _ in journalled(engine)) == 1
    other = CustomerFactory()
    assert browser.post(f"/customers/{other.id}/look-now", request_key=key).status_code == 409
    assert "A look is asked for" in browser.get(f"/customers/{customer.id}?done=look_now").text


def test_a_deletion_is_asked_for_in_the_operator_s_name(signed_in, engine):
    card, browser, key = make_card(CustomerFactory()), signed_in("support"), str(uuid.uuid4())
    for _ in range(2):
        answer = browser.post(f"/cards/{card.card_id}/deletions", request_key=key, reason=" asked  by phone ")
        assert answer.status_code == 303
    row = one(engine, "SELECT requested_by, asker, reason FROM cardsync.deletions")
    assert row.requested_by.startswith("console:support-")
    assert (row.asker, row.reason) == (row.requested_by, "asked by phone")
    assert one(engine, "SELECT status FROM cardsync.cards").status == "deleting"
    assert [action for _, action, _, _ in journalled(engine)].count("request_deletion") == 1
    page = browser.get(f"/cards/{card.card_id}").text
    assert "waits for its call to Ottu" in page
    assert "Ask for its deletion" not in page


def test_a_customer_s_page_offers_the_deletion_of_each_active_card_to_who_may_ask_for_it(signed_in, engine):
    customer = CustomerFactory()
    cards = [make_card(customer, token=f"999900000000000{n}", fingerprint=bytes([n]) * 32) for n in (1, 2)]
    page = f"/customers/{customer.id}"
    assert "/deletions" not in signed_in("viewer").get(page).text.partition('id="cards"')[2]
    browser = signed_in("support")
    offered = [f'action="/cards/{card.card_id}/deletions"' in browser.get(page).text for card in cards]
    assert offered == [True, True]
    assert browser.post(f"/cards/{cards[0].card_id}/deletions").status_code == 303
    offered = [f'action="/cards/{card.card_id}/deletions"' in browser.get(page).text for card in cards]
    assert offered == [False, True]


def test_what_the_row_does_not_allow_is_not_offered_and_refused(signed_in, engine):
    gone = {"status": "removed", "token": None, "removed_because": "absent", "removed_at": dt.datetime.now(dt.UTC)}
    card = make_card(CustomerFactory(), **gone, fingerprint=b"r" * 32)
    browser = signed_in("admin")
    assert "Ask for its deletion" not in browser.get(f"/cards/{card.card_id}").text
    answer = browser.post(f"/cards/{card.card_id}/deletions")
    assert (answer.status_code, "only an active one can be deleted" in answer.text) == (409, True)
    assert browser.post(f"/cards/{uuid.uuid4()}/deletions").status_code == 404
    assert browser.post("/customers/12345/look-now").status_code == 404
    assert "request_deletion" not in [action for _, action, _, _ in journalled(engine)]


@pytest.mark.parametrize("reason", ["x" * 201, "card 4111 1111 1111 1111"])
def test_a_reason_that_must_not_be_kept_is_refused(signed_in, engine, reason):
    card = make_card(CustomerFactory())
    assert signed_in("admin").post(f"/cards/{card.card_id}/deletions", reason=reason).status_code == 400
    assert one(engine, "SELECT count(*) AS n FROM cardsync.deletions").n == 0


def test_a_form_without_a_key_is_refused(signed_in):
    customer = CustomerFactory()
    assert signed_in("admin").post(f"/customers/{customer.id}/look-now", request_key="x").status_code == 400


def test_the_journal_shows_who_did_what_from_where(signed_in, engine):
    customer, browser = CustomerFactory(), signed_in("support")
    browser.post(f"/customers/{customer.id}/look-now")
    page = browser.get("/audit").text
    for shown in ("asked for a look", "signed in", "cli:test", "127.0.0.1"):
        assert shown in page
    assert "asked for a look" in browser.get(f"/customers/{customer.id}").text


def test_the_console_s_login_alone_acts_for_no_operator(console_engine, signed_in, engine):
    customer, browser = CustomerFactory(), signed_in("viewer")
    with console_engine.connect() as connection:
        for session in ("sha256('x')", "(SELECT session_hash FROM cardsync.console_sessions)"):
            with pytest.raises(DBAPIError):
                connection.exec_driver_sql(
                    f"SELECT cardsync.console_look_now({session}, {customer.id}, NULL, gen_random_uuid())"
                )
    assert browser.get("/").status_code == 200
    assert one(engine, "SELECT due_at FROM cardsync.customers").due_at is None


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT token FROM cardsync.cards",
        "SELECT fingerprint FROM cardsync.cards",
        "SELECT token FROM cardsync.events",
        "SELECT facts FROM cardsync.events",
        "SELECT * FROM registry.card_tokens",
        "SELECT secret_check FROM cardsync.gate",
        "SELECT key_hash FROM cardsync.api_keys",
        "SELECT link_hash FROM cardsync.operators",
        "SELECT session_hash FROM cardsync.console_sessions",
        "SELECT * FROM cardsync.secret_keys",
        "SELECT * FROM cardsync.token_reads",
        "UPDATE cardsync.customers SET due_at = now()",
        "UPDATE cardsync.operators SET role = 'admin'",
        "INSERT INTO cardsync.console_sessions (session_hash, operator_id) VALUES (sha256('x'), gen_random_uuid())",
        "INSERT INTO cardsync.operator_actions (actor, action, kind, subject) VALUES ('x', 'x', 'x', 'x')",
        "DELETE FROM cardsync.operator_actions",
        "SELECT cardsync.request_deletion(gen_random_uuid(), 'x', NULL, NULL, NULL::bytea[], false, NULL)",
        "SELECT cardsync.note_operator_action(NULL, 'x', 'x', 'x', 'x', NULL, NULL, NULL, NULL, NULL)",
        "SELECT cardsync.invite_operator('x', 'admin', sha256('x'), NULL, 'x', NULL, NULL)",
        "SELECT cardsync.acting_operator(sha256('x'), 'viewer')",
    ],
)
def test_the_console_s_login_reads_no_secret_and_writes_no_table(console_engine, statement):
    with console_engine.connect() as connection, pytest.raises(DBAPIError) as refused:
        connection.exec_driver_sql(statement)
    assert getattr(refused.value.orig, "sqlstate", None) == "42501"


def test_an_action_that_fails_leaves_no_row_in_the_journal(signed_in, engine):
    card, browser = make_card(CustomerFactory()), signed_in("admin")
    before = journalled(engine)
    with engine.begin() as connection:
        connection.execute(
            text("ALTER TABLE cardsync.deletion_steps ADD CONSTRAINT none CHECK (step <> 'asked') NOT VALID")
        )
    assert browser.post(f"/cards/{card.card_id}/deletions").status_code == 500
    assert journalled(engine) == before


def test_all_calls_are_paused_with_a_typed_word_and_everybody_sees_who_did_it(signed_in, engine):
    browser, support = signed_in("operator"), signed_in("support")
    assert "Pause all calls" in browser.get("/calls").text
    assert "Pause all calls" not in support.get("/calls").text
    assert browser.post("/calls/pause", word="pause").status_code == 400
    asked = browser.post("/calls/pause", word="PAUSE", reason="Ottu asked us to")
    assert (asked.status_code, asked.headers["Location"]) == (303, "/calls?done=pause_calls")
    name = one(engine, "SELECT operator_paused_by AS by FROM cardsync.gate").by
    assert name.startswith("operator-")
    page, now = browser.get("/calls").text, signed_in("viewer").get("/").text
    assert "Resume calls" in page
    assert ">Pause all calls</button>" not in page
    assert f"{name} paused all calls to Ottu, since <time" in now
    assert "Ottu asked us to" in now
    assert browser.post("/calls/pause", word="PAUSE").status_code == 409
    assert support.post("/calls/resume", word="RESUME").status_code == 403
    assert browser.post("/calls/resume", word="RESUME").status_code == 303
    assert browser.post("/calls/resume", word="RESUME").status_code == 409
    assert "paused all calls to Ottu" not in support.get("/").text
    assert [entry for entry in journalled(engine) if entry[2] == "calls"] == [
        ("operator", "resume_calls", "calls", "all"),
        ("operator", "pause_calls", "calls", "all"),
    ]
    assert (
        f'<span class="quiet">by</span> <bdi>{name}</bdi>, <span class="quiet">since</span> <time'
        in browser.get("/audit").text
    )


def test_calls_are_not_paused_without_a_row_in_the_journal(signed_in, engine):
    browser = signed_in("operator")
    change(
        engine,
        "ALTER TABLE cardsync.operator_actions ADD CONSTRAINT none CHECK (action <> 'pause_calls') NOT VALID",
    )
    assert browser.post("/calls/pause", word="PAUSE").status_code == 500
    assert one(engine, "SELECT operator_paused_at FROM cardsync.gate").operator_paused_at is None


def test_in_a_console_that_only_reads_calls_are_neither_paused_nor_resumed(make_console, signed_in, engine):
    browser = signed_in("admin", app=make_console(console_read_only=True))
    assert "Pause all calls" not in browser.get("/calls").text
    assert browser.post("/calls/pause", word="PAUSE").status_code == 403
    assert one(engine, "SELECT operator_paused_at FROM cardsync.gate").operator_paused_at is None
