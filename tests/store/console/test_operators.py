"""Operators: invited by links of which the database holds a hash, listed, disabled."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import DBAPIError

from cardsync.store.console import journal, operators, sessions
from cardsync.store.console.operators import ROLES, may


def invite(engine, name="Amal", role="viewer"):
    link = operators.new_secret()
    with engine.begin() as connection:
        operators.invite(connection, name, role, link, by="cli:test")
    return link


def test_a_role_includes_those_below_it_and_none_above():
    assert [[may(role, needed) for needed in ROLES] for role in ROLES] == [
        [True, False, False, False],
        [True, True, False, False],
        [True, True, True, False],
        [True, True, True, True],
    ]


def test_inviting_again_changes_the_role_keeps_the_row_and_enables(engine):
    invite(engine, role="viewer")
    with engine.begin() as connection:
        assert operators.disable(connection, "Amal", by="cli:test") is True
        assert operators.disable(connection, "Amal", by="cli:test") is False
        assert operators.disable(connection, "Bilal", by="cli:test") is False
        (before,) = operators.listing(connection)
    assert before.disabled_at is not None
    assert before.invited_until is None
    invite(engine, role="admin")
    with engine.begin() as connection:
        (after,) = operators.listing(connection)
    assert (after.operator_id, after.role, after.disabled_at) == (before.operator_id, "admin", None)
    assert after.invited_until is not None


def test_a_list_shows_who_is_signed_in(engine):
    link = invite(engine)
    with engine.begin() as connection:
        assert sessions.open_by_link(connection, link, b"s" * 32, came_from=None) == "Amal"
        (one,) = operators.listing(connection)
    assert (one.sessions, one.invited_until) == (1, None)


def test_every_change_of_an_operator_is_in_the_journal(engine):
    invite(engine)
    with engine.begin() as connection:
        operators.disable(connection, "Amal", by="cli:test")
    with engine.connect() as connection:
        said = [(e.actor, e.action, e.after) for e in journal.page(connection, before=None, limit=9)]
    assert said == [
        ("cli:test", "disable", {"disabled": True, "sessions_ended": 0}),
        ("cli:test", "invite", {"name": "Amal", "role": "viewer", "sessions_ended": 0}),
    ]


@pytest.mark.parametrize(("name", "role"), [("", "viewer"), ("x" * 101, "viewer"), ("Amal", "owner")])
def test_what_is_no_operator_is_refused(engine, name, role):
    with pytest.raises(DBAPIError):
        invite(engine, name, role)
