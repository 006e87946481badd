"""A process that is newer or older than the schema says so."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text
from structlog.testing import capture_logs

from cardsync import db


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (None, []),
        ("0028", [("schema_is_older", "error", "0028")]),
        ("9999", [("schema_is_newer", "warning", "9999")]),
    ],
)
def test_a_schema_that_is_older_or_newer_is_told_at_the_start_of_a_process(
    engine: Engine, worker_engine: Engine, at: str | None, said: list[tuple[str, str, str]]
) -> None:
    if at is not None:
        with engine.begin() as connection:
            connection.execute(text("UPDATE cardsync.alembic_version SET version_num = :at"), {"at": at})
    with capture_logs() as lines:
        db.tell_of_another_schema(worker_engine)
    assert [(line["event"], line["log_level"], line["at"]) for line in lines] == said
