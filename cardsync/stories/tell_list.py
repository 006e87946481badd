"""What a believed list changed, counted and logged after its commit; by our own ids alone (``apply_list``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog

from cardsync import metrics
from cardsync.core import diff
from cardsync.core.deletion import next_phase
from cardsync.core.oddities import Oddity
from cardsync.store.customers import Ticket

log = structlog.get_logger(__name__)

TOLD_AT_MOST: Final = 20  # ids in one line of the log: a list may have a thousand


def tell(ticket: Ticket, plan: diff.Plan, elsewhere: bool, oddities: Sequence[Oddity]) -> None:
    """Count and log what was believed. ``elsewhere``: a card that it contradicts is one of another customer."""
    for change, count in (
        ("added", len(plan.added) + sum(1 for s in plan.shown if s.revive and s.was == "unconfirmed")),
        ("returned", sum(1 for s in plan.shown if s.revive and s.was == "removed")),
        ("updated", sum(1 for s in plan.shown if s.changed and not s.revive)),
        ("removed", len(plan.removed) + len(plan.proved)),
    ):
        if count:
            metrics.CARD_CHANGES.labels(change).inc(count)
    for verdict in plan.deletions:
        after = next_phase(verdict.deletion.phase, verdict.seen.event)
        if after in ("done", "blocked", "failed"):
            metrics.DELETIONS.labels(after).inc()
            if after == "done":
                metrics.DELETION_SECONDS.observe(max(0.0, verdict.deletion.tried_seconds))
            log.info("deletion_ended", deletion_id=str(verdict.deletion.deletion_id), status=after)
    for oddity in oddities:
        metrics.LIST_ODDITIES.labels(oddity).inc()
    if oddities:
        log.warning(
            "odd_list",
            customer=ticket.customer,
            observation=ticket.number,
            oddities=sorted(set(oddities)),
            withheld=len(plan.withheld),
        )
    if plan.held:
        metrics.REMOVALS_HELD.inc(len(plan.held))
    if plan.suspicious:
        reason = "another_customers_card" if elsewhere else "not_listed"
        metrics.SUSPICIOUS.labels(reason).inc(len(plan.suspicious))
        log.warning(
            "suspicious_hint",
            customer=ticket.customer,
            observation=ticket.number,
            reason=reason,
            count=len(plan.suspicious),
            card_ids=[str(c) for c in plan.suspicious[:TOLD_AT_MOST]],
        )


def tell_of_the_brake(ticket: Ticket, plan: diff.Plan, *, expected: int) -> None:
    """One line when removals stop. What it holds from now on is counted, and shown by ``cardsync brake show``."""
    metrics.BRAKE_ENGAGED.inc()
    log.error(
        "removal_brake_engaged",
        customer=ticket.customer,
        observation=ticket.number,
        lane=ticket.lane,
        cards_expected=expected,
        cards_lacking=len(plan.held),
        what_to_do="cardsync brake show",
    )
