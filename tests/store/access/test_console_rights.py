"""The console's login: no right on anything that is secret, and none to write a table."""

from __future__ import annotations

from cardsync.store.access import console_rights, privileges

SECRET_COLUMNS = (
    "token",
    "facts",
    "fingerprint",
    "key_hash",
    "link_hash",
    "session_hash",
    "secret_check",
    "body",
    "signature_hash",
)


def test_it_only_reads_and_no_secret_column():
    for name, said in console_rights.RELATIONS.items():
        assert said.startswith("SELECT"), name
        assert not any(word in said for word in ("INSERT", "UPDATE", "DELETE", "TRUNCATE")), name
        columns = {one.strip() for one in said.partition("(")[2].rstrip(")").split(",")}
        assert columns.isdisjoint(SECRET_COLUMNS), name


def test_tables_with_secrets_are_read_by_columns_alone():
    for table in ("events", "cards", "gate", "api_keys", "operators", "console_sessions"):
        assert "(" in console_rights.RELATIONS[f"cardsync.{table}"], table
    for name in ("registry.card_tokens", "cardsync.secret_keys", "cardsync.token_reads", "cardsync.signatures"):
        assert name not in console_rights.RELATIONS


def test_everybody_else_s_rights_stay_as_they_are():
    assert privileges.RELATIONS["cardsync.events"][privileges.WORKER].startswith("SELECT")
    assert privileges.CONSOLE not in privileges.RELATIONS["cardsync.secret_keys"]
