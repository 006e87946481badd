"""Actions, with the rights of the console's login: what the database itself refuses."""

from __future__ import annotations

import uuid

import pytest
from sqlalchemy import Engine

from cardsync import db
from cardsync.errors import Conflict, NotFound, NotSignedIn, RoleTooLow, SignInTooOld
from cardsync.store.console import actions, operators, sessions
from cardsync.store.console.actions import Act
from tests.factories import CustomerFactory, make_card
from tests.store.rows import change, one

SECRET = b"a session's secret of 32 bytes.."


@pytest.fixture
def console(database_url, logins):
    made = db.make_engine(logins.url("console", database_url), autocommit=True)
    yield made
    made.dispose()


def sign_in(engine: Engine, role, secret: bytes = SECRET) -> Act:
    link = operators.new_secret()
    with engine.begin() as connection:
        operators.invite(connection, f"an {role}", role, link, by="cli:test")
        sessions.open_by_link(connection, link, secret, came_from=None)
    return Act(secret, "192.0.2.1", uuid.uuid4())


def test_a_viewer_acts_on_nothing_whatever_the_console_s_process_does(engine, console):
    customer, act = CustomerFactory(), sign_in(engine, "viewer")
    card = make_card(customer)
    with console.connect() as connection:
        with pytest.raises(RoleTooLow):
            actions.look_now(connection, act, customer.id)
        with pytest.raises(RoleTooLow):
            actions.pause_calls(connection, act, reason=None)
        with pytest.raises(RoleTooLow):
            actions.resume_calls(connection, act, reason=None)
        with pytest.raises(RoleTooLow):
            actions.request_deletion(connection, act, card.card_id, reason=None, when_unlocked=False)
    assert one(engine, "SELECT status FROM cardsync.cards").status == "active"
    assert (
        one(engine, "SELECT count(*) AS n FROM cardsync.operator_actions WHERE action <> 'sign_in'").n == 1
    )  # the invitation


def test_without_a_session_nothing_is_done(engine, console):
    customer = CustomerFactory()
    with console.connect() as connection, pytest.raises(NotSignedIn):
        actions.look_now(connection, Act(b"x" * 32, None, uuid.uuid4()), customer.id)


def test_a_look_shortens_a_wait_and_keeps_a_more_urgent_lane(engine, console):
    act = sign_in(engine, "support")
    customer = CustomerFactory(dirty=True, lane="deletion")
    with console.connect() as connection:
        assert actions.look_now(connection, act, customer.id) is True
        assert actions.look_now(connection, act, customer.id) is False
        with pytest.raises(NotFound):
            actions.look_now(connection, Act(SECRET, None, uuid.uuid4()), 12_345)
    assert one(engine, "SELECT lane FROM cardsync.customers").lane == "deletion"


def test_the_same_key_for_another_card_is_a_conflict(engine, console):
    act, customer = sign_in(engine, "support"), CustomerFactory()
    first, second = make_card(customer), make_card(customer)
    with console.connect() as connection:
        asked = actions.request_deletion(connection, act, first.card_id, reason=None, when_unlocked=False)
        assert actions.request_deletion(connection, act, first.card_id, reason=None, when_unlocked=False) == asked
        with pytest.raises(Conflict):
            actions.request_deletion(connection, act, second.card_id, reason=None, when_unlocked=False)


def another(act: Act) -> Act:
    """The same operator's next request."""
    return Act(act.secret, act.came_from, uuid.uuid4())


def test_calls_are_paused_and_resumed_once_and_resuming_wants_a_new_sign_in(engine, console):
    act = sign_in(engine, "operator")
    paused = "SELECT operator_paused_by AS by, operator_paused_why AS why FROM cardsync.gate"
    with console.connect() as connection:
        with pytest.raises(Conflict):
            actions.resume_calls(connection, act, reason=None)
        assert actions.pause_calls(connection, act, reason="Ottu asked us to") is True
        assert actions.pause_calls(connection, act, reason="Ottu asked us to") is False
        with pytest.raises(Conflict):
            actions.pause_calls(connection, another(act), reason=None)
        assert tuple(one(engine, paused)) == ("an operator", "Ottu asked us to")
        change(engine, "UPDATE cardsync.console_sessions SET began_at = began_at - interval '11 minutes'")
        with pytest.raises(SignInTooOld):
            actions.resume_calls(connection, another(act), reason=None)
        change(engine, "UPDATE cardsync.console_sessions SET began_at = began_at + interval '11 minutes'")
        assert actions.resume_calls(connection, another(act), reason=None) is True
        assert tuple(one(engine, paused)) == (None, None)
        change(engine, "UPDATE cardsync.console_sessions SET began_at = began_at - interval '11 minutes'")
        assert actions.pause_calls(connection, another(act), reason=None) is True  # in a hurry
