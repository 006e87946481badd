"""What a list, or the lack of one, does to deletions that wait for it."""

from __future__ import annotations

import uuid

from sqlalchemy import Engine

from cardsync.core.trouble import TABLE
from cardsync.store.deletions import lists
from tests.store.deletions.test_transitions import begun, deletion_id, move, row
from tests.store.rows import change, one

__all__ = ["deletion_id"]  # a fixture


def test_a_blocked_deletion_goes_on_only_when_its_card_was_locked_and_is_not_any_more(
    engine: Engine, deletion_id: uuid.UUID
) -> None:
    change(engine, "UPDATE cardsync.deletions SET when_unlocked = true")
    job = begun(engine, deletion_id)
    move(engine, deletion_id, "calling", "declined", error="locked")
    move(engine, deletion_id, "refused", "listed")

    def unlock() -> str:
        with engine.begin() as connection:
            lists.unlock(connection, job.ticket, [deletion_id])
        phase: str = row(engine).phase
        return phase

    assert unlock() == "blocked"  # no list ever showed an agreement
    change(engine, "UPDATE cardsync.deletions SET locked_by = '{a}'")
    card_id = row(engine).card_id
    change(engine, "INSERT INTO cardsync.agreements VALUES ('sandbox', 'a', :card_id, 1)", card_id=card_id)
    assert unlock() == "blocked"
    change(engine, "DELETE FROM cardsync.agreements")
    assert unlock() == "asked"
    assert one(engine, "SELECT status FROM cardsync.cards").status == "deleting"


def test_where_credentials_are_refused_a_refusal_of_the_card_is_taken_back(
    engine: Engine, deletion_id: uuid.UUID
) -> None:
    job = begun(engine, deletion_id)
    move(engine, deletion_id, "calling", "declined", error="403")

    def unlisted(*, credentials: bool) -> int:
        with engine.begin() as connection:
            return lists.unlisted(
                connection,
                job.ticket.customer,
                TABLE["credentials" if credentials else "silent"],
                error="x",
                wait_seconds=1,
            )

    assert (unlisted(credentials=False), row(engine).phase) == (0, "refused")
    assert (unlisted(credentials=True), row(engine).phase, row(engine).attempts) == (0, "asked", 0)
