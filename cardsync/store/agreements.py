"""Which card an agreement is charged to. Ottu links one card to an agreement at a time; a list shows who claims it now."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from cardsync.core.cards import Environment


@dataclass(frozen=True, slots=True)
class Claims:
    """What one card claims now, and what it claimed before."""

    card_id: uuid.UUID
    now: tuple[str, ...]
    before: tuple[str, ...]


_UNLINK = text("""
    DELETE FROM cardsync.agreements
    WHERE environment = :environment AND card_id = :card_id AND NOT agreement_id = ANY(:kept) AND since_no < :number
""")
_TAKE_OVER = text("""
    INSERT INTO cardsync.agreements AS a (environment, agreement_id, card_id, since_no)
    VALUES (:environment, :agreement_id, :card_id, :number)
    ON CONFLICT (environment, agreement_id) DO UPDATE SET card_id = excluded.card_id, since_no = excluded.since_no
    WHERE a.since_no < excluded.since_no AND a.card_id <> excluded.card_id
""")
_KEEP = text("""
    INSERT INTO cardsync.agreements (environment, agreement_id, card_id, since_no)
    VALUES (:environment, :agreement_id, :card_id, :number)
    ON CONFLICT (environment, agreement_id) DO NOTHING
""")


def apply(
    connection: Connection, environment: Environment, claims: Sequence[Claims], gone: Sequence[uuid.UUID], number: int
) -> None:
    """Link agreements as a list shows them: let go first, then who newly claims one takes over, then old claims fill gaps.

    Where two cards claim one agreement at once, the one that did not before has taken it over.
    """
    for card_id in gone:
        _unlink(connection, environment, card_id, (), number)
    for claim in claims:
        if set(claim.before) - set(claim.now):
            _unlink(connection, environment, claim.card_id, claim.now, number)
    for statement, newly in ((_TAKE_OVER, True), (_KEEP, False)):
        for claim in claims:
            for agreement_id in claim.now:
                if (agreement_id not in claim.before) is newly:
                    connection.execute(
                        statement,
                        {
                            "environment": environment,
                            "agreement_id": agreement_id,
                            "card_id": claim.card_id,
                            "number": number,
                        },
                    )


def _unlink(
    connection: Connection, environment: Environment, card_id: uuid.UUID, kept: Sequence[str], number: int
) -> None:
    parameters = {"environment": environment, "card_id": card_id, "kept": list(kept), "number": number}
    connection.execute(_UNLINK, parameters)
