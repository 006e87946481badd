"""What services read in SQL explains itself: every view of the registry has a comment, and so has each of its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from sqlalchemy import Connection, Engine, text

from cardsync import db
from cardsync.core.cards import CARD_STATUSES
from cardsync.core.deletion import STATUS
from cardsync.core.feed import CAUSE_MEANS, CAUSES, CHANGE_MEANS, CHANGES
from cardsync.store.deletions.requests import CODES

_SILENT = text("""
    SELECT c.relname || coalesce('.' || a.attname, '')
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE n.nspname = 'registry' AND c.relkind IN ('v', 'm', 'r')
      AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid, 'pg_class') IS NULL)
    ORDER BY 1
""")
_SAID = text("""
    SELECT col_description(attrelid, attnum) FROM pg_attribute WHERE attrelid = cast(:view AS regclass) AND attname = :name
""")


def test_every_view_and_every_column_of_it_has_a_comment(engine: Engine) -> None:
    with engine.connect() as connection:
        assert connection.execute(_SILENT).scalars().all() == []


@pytest.mark.parametrize(
    ("view", "column", "words"),
    [
        ("registry.card_changes", "change", CHANGES),
        ("registry.card_changes", "cause", CAUSES),
        ("registry.cards", "status", CARD_STATUSES),
        ("registry.deletions", "status", tuple(set(STATUS.values()))),
        ("registry.deletions", "code", CODES),
    ],
)
def test_a_comment_names_each_value(engine: Engine, view: str, column: str, words: Sequence[str]) -> None:
    with engine.connect() as connection:
        said = connection.execute(_SAID, {"view": view, "name": column}).scalar_one()
    assert [word for word in words if word not in said] == []


@pytest.mark.parametrize(("column", "means"), [("change", CHANGE_MEANS), ("cause", CAUSE_MEANS)])
def test_the_comments_of_the_feed_say_what_each_word_means(
    engine: Engine, column: str, means: Mapping[str, str]
) -> None:
    """In the words of the page for consumers and of the API's description (``tests/web/test_description.py``)."""
    with engine.connect() as connection:
        said = connection.execute(_SAID, {"view": "registry.card_changes", "name": column}).scalar_one()
    assert [w for w, meaning in means.items() if f" {w}: {meaning.replace('`', '')}." not in said] == []


def test_the_feed_knows_no_other_changes(engine: Engine) -> None:
    with engine.connect() as connection:
        rule = connection.execute(
            text("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'card_changes_change_known'")
        ).scalar_one()
    assert [change for change in CHANGES if f"'{change}'" not in rule] == []


def test_a_step_back_from_the_feeds_epochs_and_forth_again_loses_no_comment_and_no_right(
    database_url: str, engine: Engine
) -> None:
    def rights(connection: Connection) -> list[tuple[str, ...]]:
        held = text(
            "SELECT relname, relacl::text FROM pg_class WHERE relnamespace = 'registry'::regnamespace ORDER BY 1"
        )
        return [(row.relname, *sorted(row.relacl.strip("{}").split(","))) for row in connection.execute(held)]

    with engine.connect() as connection:
        before = rights(connection)
    db.downgrade(database_url, "0035")
    with engine.connect() as connection:
        assert connection.execute(_SILENT).scalars().all() == []
        feed = text("SELECT relname, relacl::text FROM pg_class WHERE oid = 'registry.card_changes'::regclass")
        (row,) = connection.execute(feed)
        assert (row.relname, *sorted(row.relacl.strip("{}").split(","))) in before
    db.upgrade(database_url)
    with engine.connect() as connection:
        assert connection.execute(_SILENT).scalars().all() == []
        assert rights(connection) == before
