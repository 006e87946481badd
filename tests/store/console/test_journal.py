"""The journal of operators' actions: append-only, in pages, and chained so that no row is changed or removed unseen."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from cardsync.store.console import journal, operators
from tests.store.rows import change


@pytest.fixture
def written(engine):
    for n in range(5):
        with engine.begin() as connection:
            operators.invite(connection, f"operator {n}", "viewer", operators.new_secret(), by="cli:test")
    return engine


def test_pages_show_each_action_once_the_newest_first(written):
    with written.connect() as connection:
        first = journal.page(connection, before=None, limit=3)
        second = journal.page(connection, before=first[-1].action_id, limit=3)
    assert [e.after["name"][-1] for e in (*first, *second)] == ["4", "3", "2", "1", "0"]


def test_a_chain_that_was_not_touched_is_whole(written):
    with written.connect() as connection:
        verified = journal.verify(connection)
    assert (verified.length, verified.broken_at) == (5, None)


def test_several_actions_of_one_transaction_are_chained_in_their_order(engine):
    with engine.begin() as connection:
        for n in range(3):
            operators.invite(connection, f"operator {n}", "viewer", operators.new_secret(), by="cli:test")
    with engine.connect() as connection:
        assert journal.verify(connection).broken_at is None


@pytest.mark.parametrize(
    ("harm", "broken_at"),
    [
        ("UPDATE cardsync.operator_actions SET actor = 'other' WHERE action_id = 3", 3),
        ("UPDATE cardsync.operator_actions SET after = NULL WHERE action_id = 5", 5),
        ("DELETE FROM cardsync.operator_action_chain WHERE action_no = 5", 5),
        ("UPDATE cardsync.operator_action_head SET action_no = 4", 5),
        ("UPDATE cardsync.operator_action_chain SET hash = sha256('x') WHERE action_no = 2", 2),
    ],
)
def test_what_the_owner_changes_is_found(written, harm, broken_at):
    change(written, "ALTER TABLE cardsync.operator_actions DISABLE TRIGGER USER")
    change(written, "ALTER TABLE cardsync.operator_action_chain DISABLE TRIGGER USER")
    assert change(written, harm) == 1
    with written.connect() as connection:
        assert journal.verify(connection).broken_at == broken_at


@pytest.mark.parametrize("table", ["operator_actions", "operator_action_chain"])
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "TRUNCATE {} CASCADE"])
def test_nothing_is_removed_even_by_the_owner(written, table, statement):
    with written.begin() as connection, pytest.raises(DBAPIError):
        connection.execute(text(statement.format(f"cardsync.{table}")))
