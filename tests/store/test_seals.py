"""Seals of the journal's chain; those of the receipts' are in ``deletions/test_receipts.py``."""

from __future__ import annotations

import hashlib

import pytest
from sqlalchemy import text

from cardsync.store import seals
from cardsync.store.console import journal, operators
from cardsync.stories.seal import Sealer

SECRET = b"s" * 32
KEYS = [seals.JOURNAL.key(SECRET)]


@pytest.fixture
def written(engine):
    for n in range(5):
        with engine.begin() as connection:
            operators.invite(connection, f"operator {n}", "viewer", operators.new_secret(), by="cli:test")
    return engine


def verified(engine):
    with engine.connect() as connection:
        return journal.verify(connection, keys=KEYS)


def test_a_worker_seals_the_journal_as_it_does_the_receipts(written, worker_engine):
    assert verified(written).sealed_to == 0
    assert Sealer(seals.JOURNAL, SECRET).seal(worker_engine)
    assert (verified(written).sealed_to, verified(written).unsealed_since) == (5, None)
    assert not Sealer(seals.JOURNAL, SECRET).seal(worker_engine)
    with written.begin() as connection:
        operators.invite(connection, "one more", "viewer", operators.new_secret(), by="cli:test")
    assert (verified(written).broken_at, verified(written).unsealed_since is None) == (None, False)


def test_a_seal_of_another_key_or_of_receipts_is_none(written):
    Sealer(seals.JOURNAL, b"x" * 32).seal(written)
    assert verified(written).broken_at == 5
    assert seals.RECEIPTS.key(SECRET) != seals.JOURNAL.key(SECRET)


def test_a_journal_that_its_owner_made_again_does_not_fit_its_seals(written):
    Sealer(seals.JOURNAL, SECRET).seal(written)
    with written.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text("UPDATE cardsync.operator_actions SET actor = 'other' WHERE action_id = 3"))
        before = bytes(32)
        for number in range(1, 6):
            said = connection.execute(
                text(
                    "SELECT cardsync.operator_action_said(c.action_no, a) FROM cardsync.operator_action_chain AS c"
                    " JOIN cardsync.operator_actions AS a USING (action_id) WHERE c.action_no = :number"
                ),
                {"number": number},
            ).scalar_one()
            before = hashlib.sha256(before + said.encode()).digest()
            given = {"number": number, "hash": before}
            connection.execute(
                text("UPDATE cardsync.operator_action_chain SET hash = :hash WHERE action_no = :number"), given
            )
        connection.execute(text("UPDATE cardsync.operator_action_head SET hash = :hash"), {"hash": before})
    with written.connect() as connection:
        assert journal.verify(connection).broken_at is None  # without the key nothing is seen
    assert verified(written).broken_at == 5
    assert not Sealer(seals.JOURNAL, SECRET).seal(written)
