"""Views that filter are security barriers: a reader's own function sees no row that the view hides."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text

from tests.factories import CustomerFactory, make_card

SHOWN, HIDDEN = "9999000000000001", "9999000000000002"
ROLE = "leaky_charger"


@pytest.fixture
def leaky(engine: Engine) -> Iterator[str]:
    """A charger's function that costs nearly nothing, so the planner runs it first, and tells what it is shown."""
    with engine.begin() as connection:
        connection.execute(text(f"DROP ROLE IF EXISTS {ROLE}"))
        connection.execute(text(f"CREATE ROLE {ROLE} IN ROLE cardsync_charger"))
        connection.execute(text(f"CREATE SCHEMA mine AUTHORIZATION {ROLE}"))
        connection.execute(text(f"SET LOCAL ROLE {ROLE}"))
        connection.execute(
            text("""
                CREATE FUNCTION mine.leak(anyelement) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$
                BEGIN
                    PERFORM set_config('leak.seen', coalesce(current_setting('leak.seen', true), '') || ' ' || $1::text, false);
                    RETURN true;
                END $$
            """)
        )
    yield "mine.leak"
    with engine.begin() as connection:
        connection.execute(text(f"DROP SCHEMA mine CASCADE; DROP ROLE {ROLE}"))


def test_a_cheap_function_of_a_chargers_is_shown_no_token_of_a_card_that_is_hidden(engine: Engine, leaky: str) -> None:
    make_card(CustomerFactory(), token=SHOWN)
    make_card(CustomerFactory(), token=HIDDEN, status="deleting")
    with engine.begin() as connection:
        connection.execute(text(f"SET LOCAL ROLE {ROLE}"))
        connection.execute(text(f"SELECT card_id FROM registry.card_tokens WHERE {leaky}(token)")).all()
        seen = connection.execute(text("SELECT current_setting('leak.seen', true)")).scalar_one()
    assert SHOWN in seen
    assert HIDDEN not in seen


NO_ROW_HIDDEN = {"card_changes"}  # its WHERE finds a change's epoch; as a barrier it would be read whole for each page


def test_every_view_that_filters_is_a_barrier(engine: Engine) -> None:
    filtering = text("""
        SELECT c.relname, coalesce('security_barrier=true' = ANY(c.reloptions), false) AS is_barrier
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = 'registry' AND c.relkind = 'v' AND pg_get_viewdef(c.oid) ~ 'WHERE'
    """)
    with engine.connect() as connection:
        found = {row.relname: row.is_barrier for row in connection.execute(filtering)}
    assert {"card_tokens", "active_cards", "agreement_cards"} <= set(found)
    assert [view for view, is_barrier in found.items() if is_barrier is (view in NO_ROW_HIDDEN)] == []
