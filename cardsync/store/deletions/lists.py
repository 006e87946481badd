"""What a list says of a customer's deletions: the proof, a card that is still there, or nothing since no list could be had.

Every write here holds the customer's row, and moves a deletion by ``transitions.move``, under a guard on its phase. A 404 to the
list is judged here too: only what the deletions know tells whether it may be read as "no cards".
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Final

from sqlalchemy import Connection, text

from cardsync.core import deletion as core
from cardsync.core.backoff import after_failure
from cardsync.core.deletion import FORBIDDEN, GIVE_UP_SECONDS, is_over
from cardsync.core.diff import Verdict
from cardsync.core.trouble import Trouble
from cardsync.store.customers import Ticket
from cardsync.store.deletions import receipts, requests, transitions

_LOCKED_BY = text("""
    UPDATE cardsync.deletions AS d
    SET locked_by = ARRAY(SELECT agreement_id FROM cardsync.agreements AS a WHERE a.card_id = d.card_id ORDER BY 1)
    WHERE deletion_id = :deletion_id
""")


def apply_list(connection: Connection, ticket: Ticket, verdicts: Iterable[Verdict], *, jitter: float) -> None:
    """Write what a believed list says of deletions, after its cards and agreements are written."""
    for verdict in verdicts:
        deletion, event = verdict.deletion, verdict.seen.event
        step: receipts.Name = "absent" if event == "absent" else "listed"
        receipts.add(
            connection,
            deletion.deletion_id,
            step,
            observation_no=ticket.number,
            asked_at=ticket.asked_at.isoformat(),
        )
        after = transitions.move(
            connection,
            deletion.deletion_id,
            deletion.phase,
            event,
            error="Ottu says that the card is gone, and still lists it" if event == "listed_enough" else None,
            wait_seconds=after_failure(max(1, deletion.failures), jitter=jitter),
            proof_no=ticket.number if event == "absent" else None,
        )
        if after == "done":
            receipts.add(connection, deletion.deletion_id, "done", observation_no=ticket.number)
        if after == "blocked":
            connection.execute(_LOCKED_BY, {"deletion_id": deletion.deletion_id})


_IS_UNLOCKED = text("""
    SELECT locked_by <> '{}' AND NOT EXISTS (SELECT FROM cardsync.agreements AS a WHERE a.card_id = d.card_id)
    FROM cardsync.deletions AS d WHERE deletion_id = :deletion_id AND phase = 'blocked' AND when_unlocked
""")


def unlock(connection: Connection, ticket: Ticket, deletion_ids: Sequence[uuid.UUID]) -> None:
    """Let those of the blocked deletions go on whose cards served agreements then, and serve none now.

    A card of which no list ever showed an agreement was refused for reasons that no list can show to be over.
    """
    for deletion_id in deletion_ids:
        if connection.execute(_IS_UNLOCKED, {"deletion_id": deletion_id}).scalar_one_or_none():
            requests.reopen(connection, deletion_id, "blocked", "unlocked", observation_no=ticket.number)


# A deletion that a release before this one noted as refused has no status: it is read as it was then.
PERHAPS_CREDENTIALS: Final = (FORBIDDEN, None)

_CALLED = text("""
    SELECT deletion_id, phase, tried_since, said_status, error, clock_timestamp() AS now FROM cardsync.deletions
    WHERE customer = :customer AND phase IN ('calling', 'proving', 'refused')
""")


def unlisted(connection: Connection, customer: int, trouble: Trouble, *, error: str, wait_seconds: float) -> int:
    """Write what a list that could not be had says of the customer's deletions; return how many are given up.

    The receipt gets a step when the reason is another than before; how often it was met is no step.
    """
    given_up = 0
    said = f"no list: {error}"[: transitions.ERROR_MAX]
    for row in connection.execute(_CALLED, {"customer": customer}).all():
        event = core.unlisted(
            row.phase,
            explains_refusal=trouble.explains_refusal and row.said_status in PERHAPS_CREDENTIALS,
            refund=trouble.refund,
            is_over=is_over(row.tried_since, row.now),
        )
        if event != "unlisted" or row.error != said:
            receipts.add(connection, row.deletion_id, "unlisted", error=error)
        refund = event == "not_done" and trouble.refund
        transitions.move(
            connection, row.deletion_id, row.phase, event, error=said, wait_seconds=wait_seconds, refund=refund
        )
        given_up += event == "gave_up"
    return given_up


_WAITS = text(f"""
    SELECT EXISTS (
        SELECT FROM cardsync.deletions WHERE customer = :customer AND phase IN ('calling', 'proving', 'refused')
          AND tried_since > clock_timestamp() - interval '{GIVE_UP_SECONDS} seconds'
    )
""")


def waits_for_a_list(connection: Connection, customer: int) -> bool:
    """Tell whether a deletion of the customer waits for a list, and the 24 hours of its tries are not over."""
    return bool(connection.execute(_WAITS, {"customer": customer}).scalar_one())


# What the customer still has, as far as we know, must be what Ottu said to have deleted: no hint is open, and each card is under
# a deletion that was answered with 2xx. A 404 to the DELETE is no such word: the same wrong route may give both. And other
# customers' lists must work: believed within ten minutes, in this environment, and asked for after the last of those calls. They
# must show a card, since a 404 that was read as an empty list is no witness for the next one.
_NOTHING_LEFT = text("""
    WITH left_over AS (
        SELECT c.status, c.awaited_no, d.since_no, d.said_status
        FROM cardsync.cards AS c LEFT JOIN cardsync.deletions AS d
            ON d.card_id = c.card_id AND d.life = c.life AND d.phase = 'proving'
        WHERE c.customer = :customer AND (c.status <> 'removed' OR c.awaited_no IS NOT NULL)
    )
    SELECT NOT EXISTS (
        SELECT FROM left_over
        WHERE awaited_no IS NOT NULL OR status <> 'deleting' OR coalesce(said_status NOT BETWEEN 200 AND 299, true)
    ) AND EXISTS (
        SELECT FROM cardsync.observations AS o JOIN cardsync.customers AS other ON other.id = o.customer
        WHERE o.asked_at > statement_timestamp() - make_interval(secs => :within_seconds)
          AND o.outcome IN ('changed', 'unchanged') AND o.listed > 0
          AND o.customer <> :customer AND other.environment = :environment
          AND o.observation_no > (SELECT coalesce(max(since_no), 0) FROM left_over)
    )
""")
LISTS_WORKED_WITHIN_SECONDS: Final = 600.0


def is_404_an_empty_list(connection: Connection, ticket: Ticket) -> bool:
    """Tell whether a 404 to the customer's list can be read as "no cards": it would remove nothing but what Ottu said is gone."""
    parameters = {
        "customer": ticket.customer,
        "environment": ticket.environment,
        "within_seconds": LISTS_WORKED_WITHIN_SECONDS,
    }
    return bool(connection.execute(_NOTHING_LEFT, parameters).scalar_one())


def note_404(connection: Connection, ticket: Ticket, *, why: str) -> None:
    """Write to the receipts of the customer's deletions that a 404 is read as an empty list."""
    for row in connection.execute(_CALLED, {"customer": ticket.customer}).all():
        receipts.add(connection, row.deletion_id, "unlisted", error=why, observation_no=ticket.number)
