"""Sessions: opened by a link once, found by their secret, ended; and the refusals of the console's functions."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from cardsync.errors import Conflict, NotSignedIn, RoleTooLow, SignInTooOld
from cardsync.store.console import operators, sessions
from tests.store.rows import beside, change

SECRET = b"a session's secret of 32 bytes.."


def signed_in(connection, role="viewer", secret=SECRET, name="Amal"):
    link = operators.new_secret()
    operators.invite(connection, name, role, link, by="cli:test")
    assert sessions.open_by_link(connection, link, secret, came_from="192.0.2.1") == name


def test_a_session_is_found_by_its_secret_alone(engine):
    with engine.begin() as connection:
        signed_in(connection, "support")
        found = sessions.find(connection, SECRET)
        assert found is not None
        assert (found.name, found.role, found.is_fresh) == ("Amal", "support", True)
        assert sessions.find(connection, b"another secret of thirty-two byt") is None


def test_a_sign_in_is_fresh_for_ten_minutes(engine):
    with engine.begin() as connection:
        signed_in(connection)
    change(engine, "UPDATE cardsync.console_sessions SET began_at = began_at - interval '11 minutes'")
    with engine.begin() as connection:
        found = sessions.find(connection, SECRET)
        assert found is not None
        assert not found.is_fresh


def test_one_link_opens_one_session_however_many_come_at_once(engine):
    link = operators.new_secret()
    with engine.begin() as connection:
        operators.invite(connection, "Amal", "viewer", link, by="cli:test")
    with engine.begin() as connection:
        first = sessions.open_by_link(connection, link, SECRET, came_from=None)
        with beside(
            engine, lambda other: sessions.open_by_link(other, link, b"second".ljust(32), came_from=None)
        ) as second:
            connection.commit()
            assert (first, second()) == ("Amal", None)


def test_all_sessions_of_an_operator_end_at_once_and_no_other_s(engine):
    with engine.begin() as connection:
        signed_in(connection)
        signed_in(connection, name="Bilal", secret=b"b" * 32)
        connection.execute(
            text(
                "INSERT INTO cardsync.console_sessions (session_hash, operator_id)"
                " SELECT sha256('second'), operator_id FROM cardsync.operators WHERE name = 'Amal'"
            )
        )
        assert sessions.close(connection, SECRET, everywhere=True, came_from=None) == 2
        assert sessions.find(connection, SECRET) is None
        assert sessions.find(connection, b"second") is None
        assert sessions.find(connection, b"b" * 32) is not None
        assert sessions.close(connection, SECRET, everywhere=True, came_from=None) == 0


@pytest.mark.parametrize(
    ("asked", "refusal"),
    [
        ("sha256('x'), 'viewer'", NotSignedIn),
        (":secret, 'support'", RoleTooLow),
        (":secret, 'nothing'", RoleTooLow),
        (":secret, 'viewer', interval '0'", SignInTooOld),
    ],
)
def test_the_database_refuses_who_may_not_act(engine, asked, refusal):
    with engine.begin() as connection:
        signed_in(connection, "viewer")
    with engine.begin() as connection, pytest.raises(refusal), sessions.refusals():
        connection.execute(text(f"SELECT cardsync.acting_operator({asked})"), {"secret": SECRET})


def test_a_key_that_came_with_another_request_is_a_conflict(engine):
    with engine.begin() as connection:
        signed_in(connection)
    request = text(
        "SELECT cardsync.was_carried_out(operator_id, '00000000-0000-0000-0000-000000000001', :action, 'x')"
        " FROM cardsync.operators"
    )
    with engine.begin() as connection:
        assert connection.execute(request, {"action": "one"}).scalar_one() is False
        connection.execute(
            text(
                "SELECT cardsync.note_operator_action(operator_id, 'Amal', 'one', 'x', 'x', NULL, NULL, NULL, NULL,"
                " '00000000-0000-0000-0000-000000000001') FROM cardsync.operators"
            )
        )
        assert connection.execute(request, {"action": "one"}).scalar_one() is True
        with pytest.raises(Conflict), sessions.refusals():
            connection.execute(request, {"action": "another"})
