"""The names of our roles under a prefix, and what released migrations send for a server that has roles and schemas."""

from __future__ import annotations

from cardsync.store.access import role_names

MAKES = """
DO $$ BEGIN
    CREATE ROLE cardsync_web NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;  -- it is there, from another database
END $$
"""


def test_roles_get_the_prefix_once_and_nothing_else_does() -> None:
    statement = "GRANT SELECT ON cardsync.cards TO cardsync_web, cardsync_reader"
    renamed = role_names.renamed(statement, "shop_")
    assert renamed == "GRANT SELECT ON cardsync.cards TO shop_web, shop_reader"
    assert role_names.renamed(renamed, "shop_") == renamed
    assert role_names.renamed("cardsync_web_process", "shop_") == "cardsync_web_process"


def test_a_migration_makes_no_role_and_no_schema_that_is_there() -> None:
    assert "ROLE" not in role_names.for_this_server(MAKES, "cardsync_")
    assert "ROLE" not in role_names.for_this_server(
        "ALTER ROLE cardsync_reader SET statement_timeout = '30s'", "cardsync_"
    )
    made = role_names.for_this_server("CREATE SCHEMA registry;", "cardsync_")
    assert "IF to_regnamespace('registry') IS NULL THEN CREATE SCHEMA registry" in made
    assert role_names.for_this_server(made, "cardsync_") == made
