"""Which card an agreement is charged to. Ottu links one card to an agreement at a time; a list shows who claims it now.

Where there is no list a hint links it (``core.believe``): then ``since_at`` says when the evidence arrived. A link that a list
made has none, and any hint counts as newer.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, TextClause, text

from cardsync.core.believe import Order
from cardsync.core.cards import Environment
from cardsync.db import Transaction


@dataclass(frozen=True, slots=True)
class Claims:
    """What one card claims now, and what it claimed before."""

    card_id: uuid.UUID
    now: tuple[str, ...]
    before: tuple[str, ...]


# Each of these takes all pairs of a list at once: 40 cards with 5 agreements each cost three statements. Pairs come
# in the order of agreements, so that two transactions never wait for each other.
_UNLINK = text("""
    DELETE FROM cardsync.agreements AS a
    WHERE a.environment = :environment AND a.card_id = ANY(cast(:letting_go AS uuid[])) AND a.since_no < :number
      AND NOT EXISTS (
          SELECT FROM unnest(cast(:cards AS uuid[]), cast(:agreements AS text[])) AS kept (card_id, agreement_id)
          WHERE kept.card_id = a.card_id AND kept.agreement_id = a.agreement_id
      )
""")
# Of several cards that newly claim one agreement, one that has not got it already.
_TAKE_OVER = text("""
    INSERT INTO cardsync.agreements AS a (environment, agreement_id, card_id, since_no)
    SELECT DISTINCT ON (c.agreement_id) :environment, c.agreement_id, c.card_id, cast(:number AS bigint)
    FROM unnest(cast(:cards AS uuid[]), cast(:agreements AS text[])) WITH ORDINALITY AS c (card_id, agreement_id, place)
    LEFT JOIN cardsync.agreements AS old ON old.environment = :environment AND old.agreement_id = c.agreement_id
    ORDER BY c.agreement_id, old.card_id IS NOT DISTINCT FROM c.card_id, c.place
    ON CONFLICT (environment, agreement_id) DO UPDATE
    SET card_id = excluded.card_id, since_no = excluded.since_no, since_at = NULL
    WHERE a.since_no < excluded.since_no AND a.card_id <> excluded.card_id
""")
_KEEP = text("""
    INSERT INTO cardsync.agreements (environment, agreement_id, card_id, since_no)
    SELECT :environment, c.agreement_id, c.card_id, :number
    FROM unnest(cast(:cards AS uuid[]), cast(:agreements AS text[])) WITH ORDINALITY AS c (card_id, agreement_id, place)
    ORDER BY c.agreement_id, c.place
    ON CONFLICT (environment, agreement_id) DO NOTHING
""")

_Pair = tuple[uuid.UUID, str]  # a card, and an agreement that it claims


def apply(
    connection: Transaction, environment: Environment, claims: Sequence[Claims], gone: Sequence[uuid.UUID], number: int
) -> bool:
    """Link agreements as a list shows them: let go first, then new claims take over, then old claims fill gaps.

    Where two cards claim one agreement at once, the one that did not before has taken it over. True if links may have moved;
    that old claims fill gaps is no move.
    """
    letting_go = [claim for claim in claims if set(claim.before) - set(claim.now)]
    kept = [(claim.card_id, agreement_id) for claim in letting_go for agreement_id in claim.now]
    moved = bool(gone or letting_go)
    if moved:
        cards = [*gone, *(claim.card_id for claim in letting_go)]
        _execute(connection, _UNLINK, environment, number, kept, letting_go=cards)
    for statement, newly in ((_TAKE_OVER, True), (_KEEP, False)):
        pairs = [
            (claim.card_id, agreement_id)
            for claim in claims
            for agreement_id in claim.now
            if (agreement_id not in claim.before) is newly
        ]
        if pairs:
            moved = moved or newly
            _execute(connection, statement, environment, number, pairs)
    return moved


def _execute(
    connection: Transaction,
    statement: TextClause,
    environment: Environment,
    number: int,
    pairs: Sequence[_Pair],
    **more: object,
) -> None:
    cards, agreements = [card_id for card_id, _ in pairs], [agreement_id for _, agreement_id in pairs]
    parameters = {"environment": environment, "number": number, "cards": cards, "agreements": agreements, **more}
    connection.execute(statement, parameters)


_LINKS = text("""
    SELECT agreement_id, coalesce(since_at, 'epoch') AS since_at, since_no FROM cardsync.agreements
    WHERE environment = :environment AND agreement_id = ANY(cast(:agreement_ids AS text[]))
""")


def links(connection: Connection, environment: Environment, agreement_ids: Sequence[str]) -> dict[str, Order]:
    """Since what evidence each of these agreements is charged to the card that has it now."""
    parameters = {"environment": environment, "agreement_ids": list(agreement_ids)}
    rows = connection.execute(_LINKS, parameters) if agreement_ids else ()
    return {r.agreement_id: Order(r.since_at, r.since_no) for r in rows}


# The loser's facts are cleared with the link: a card that still claimed the agreement would keep it from coming back one day.
_MOVE = text("""
    WITH moved AS (
        INSERT INTO cardsync.agreements AS a (environment, agreement_id, card_id, since_no, since_at)
        VALUES (:environment, :agreement_id, :card_id, :number, :at)
        ON CONFLICT (environment, agreement_id) DO UPDATE
        SET card_id = excluded.card_id, since_no = excluded.since_no, since_at = excluded.since_at
        RETURNING card_id
    )
    UPDATE cardsync.cards AS c SET agreements = array_remove(c.agreements, :agreement_id), cause = 'hint'
    FROM cardsync.agreements AS old
    WHERE old.environment = :environment AND old.agreement_id = :agreement_id AND old.card_id <> :card_id
      AND c.card_id = old.card_id AND :agreement_id = ANY(c.agreements) AND EXISTS (SELECT FROM moved)
""")


def move(
    connection: Connection, environment: Environment, agreement_ids: Sequence[str], *, card_id: uuid.UUID, since: Order
) -> None:
    """Link agreements to a card by a hint, and take them from the facts of the cards that had them until now.

    The caller holds the customers of both cards (``holders``).
    """
    for agreement_id in agreement_ids:
        parameters = {
            "environment": environment,
            "agreement_id": agreement_id,
            "card_id": card_id,
            "number": since.number,
            "at": since.at,
        }
        connection.execute(_MOVE, parameters)


_HOLDERS = text("""
    SELECT DISTINCT o.environment, o.customer_id COLLATE "C" AS customer_id
    FROM cardsync.events AS e
    CROSS JOIN LATERAL (
        SELECT e.agreement_id AS agreement_id WHERE e.agreement_id IS NOT NULL
        UNION
        SELECT jsonb_array_elements_text(
            CASE WHEN jsonb_typeof(e.facts -> 'agreements') = 'array' THEN e.facts -> 'agreements' ELSE '[]' END
        )
    ) AS wanted
    JOIN cardsync.agreements AS a ON a.environment = e.environment AND a.agreement_id = wanted.agreement_id
    JOIN cardsync.cards AS c ON c.card_id = a.card_id
    JOIN cardsync.customers AS o ON o.id = c.customer
    WHERE e.event_id = ANY(:ids) AND e.status = 'pending'
""")


def holders(connection: Connection, event_ids: Sequence[uuid.UUID]) -> set[tuple[Environment, str]]:
    """The customers whose cards have the agreements that these events name: they are locked with the events' own."""
    rows = connection.execute(_HOLDERS, {"ids": list(event_ids)})
    return {(row.environment, row.customer_id) for row in rows}
