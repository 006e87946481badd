"""The kinds of work, in one table: the most urgent first, how each is claimed, and the threads that it keeps.

To add a kind: a line in ``kinds``, with SQL that an index answers, a claim that takes rows with SKIP LOCKED, and a share of the
threads. A claim returns jobs; a job is a few lines that call a story.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from sqlalchemy import Engine

from cardsync.core.call_budget import Lane
from cardsync.settings import Settings
from cardsync.store import claims, gateway_asks
from cardsync.store.deletions import transitions
from cardsync.store.inbox import SETTLE_AT_ONCE
from cardsync.stories.apply_queue import ApplyQueue
from cardsync.stories.ask_agreement import AgreementLists
from cardsync.stories.ask_gateway import GatewayLists, ask_gateway, claim_gateways
from cardsync.stories.claim import (
    REPEATS_AT_ONCE,
    REPEATS_REST_SECONDS,
    Claimed,
    claim_deletions,
    claim_events,
    claim_looks,
)
from cardsync.stories.delete import DeletePolicy, Deletes, delete
from cardsync.stories.filtered_lists import FilteredListPolicy
from cardsync.stories.inquire import Inquiries
from cardsync.stories.process import HintPolicy
from cardsync.stories.reconcile import Lists, ReconcilePolicy, look
from workers.border import guarded
from workers.dispatch.dispatcher import Claim, Kind

URGENT: Final[tuple[Lane, ...]] = ("deletion", "hint")
READS: Final[tuple[Lane, ...]] = ("read",)
RETRIES: Final[tuple[Lane, ...]] = ("retry",)
ROUTINE: Final[tuple[Lane, ...]] = ("sweep", "audit", "repeat")


class Ottu(Lists, Deletes, AgreementLists, GatewayLists, Protocol):
    """The calls to Ottu about cards."""


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """The services of one worker.

    ``ottu`` is ``None`` where Ottu offers no API for cards (KSA); ``inquiries`` where Ottu cannot be called at all.
    """

    settings: Settings
    engine: Engine
    ottu: Ottu | None
    deployment: str
    fingerprint_key: bytes = field(repr=False)
    inquiries: Inquiries | None = None

    @property
    def hints(self) -> HintPolicy:
        """How hints are taken."""
        believed = self.settings.ottu_cards_api == "unavailable"
        return HintPolicy(self.fingerprint_key, believed=believed, ring=self.settings.key_ring())

    @property
    def lists(self) -> ReconcilePolicy:
        """How lists are asked for and believed."""
        return ReconcilePolicy.of(self.settings, self.fingerprint_key)


def kinds(context: WorkerContext) -> list[Kind]:
    """The table of this worker."""
    hints, lists = context.hints, context.lists
    queue = ApplyQueue(context.engine, lists)
    deletions = _deletions(context, lists)
    repeats = Kind("repeats", claims.REPEATS_ARE_DUE, partial(_settle, context, hints, True))
    if context.ottu is None:
        return [deletions, Kind("hints", claims.HINTS_ARE_DUE, partial(_settle, context, hints, False)), repeats]

    def looks(*lanes: Lane, hints: HintPolicy | None = None) -> Callable[[int], Claim]:
        def claim(most: int) -> Claim:
            found = claim_looks(context.engine, lists, lanes, limit=most, jitter=_jitter(), hints=hints)
            return _jobs(context, lists, queue, found)

        return claim

    hints_are_due = f"{claims.HINTS_ARE_DUE} OR {claims.looks_are_due(URGENT)}"
    return [
        deletions,
        Kind("hints", hints_are_due, looks(*URGENT, hints=hints), kept=0.5),
        Kind("reads", claims.looks_are_due(READS), looks(*READS), kept=0.1),
        Kind("gateways", gateway_asks.ARE_DUE, partial(_gateways, context)),
        Kind("retries", claims.looks_are_due(RETRIES), looks(*RETRIES)),
        Kind("routine", claims.looks_are_due(ROUTINE), looks(*ROUTINE), kept=0.05),
        repeats,
    ]


def _jitter() -> float:
    return random.random()  # noqa: S311  (spreads retries, no secret)


def _jobs(context: WorkerContext, lists: ReconcilePolicy, queue: ApplyQueue, claimed: Claimed) -> Claim:
    ottu = context.ottu
    assert ottu is not None
    return Claim(
        [
            guarded("look", partial(look, context.engine, ottu, ticket, lists, jitter=_jitter(), queue=queue))
            for ticket in claimed.tickets
        ],
        wait_seconds=claimed.wait_seconds,
    )


def _gateways(context: WorkerContext, most: int) -> Claim:
    policy, ottu = FilteredListPolicy.of(context.settings, context.fingerprint_key), context.ottu
    assert ottu is not None
    jobs = (
        partial(ask_gateway, context.engine, ottu, ticket, policy, jitter=_jitter())
        for ticket in claim_gateways(context.engine, policy, limit=most)
    )
    return Claim([guarded("ask_gateway", job) for job in jobs])


def _deletions(context: WorkerContext, lists: ReconcilePolicy) -> Kind:
    policy = DeletePolicy.of(context.settings)

    def claim(most: int) -> Claim:
        claimed = claim_deletions(context.engine, lists, limit=most)
        jobs = (
            partial(delete, context.engine, context.ottu, i, policy, jitter=_jitter()) for i in claimed.deletion_ids
        )
        return Claim([guarded("delete", job) for job in jobs], wait_seconds=claimed.wait_seconds)

    return Kind("deletions", transitions.ARE_DUE, claim, kept=0.05)


def _settle(context: WorkerContext, hints: HintPolicy, repeated: bool, _most: int) -> Claim:
    """Settle events in the claim itself: one transaction, and no call. Repeats have a rest between, so that they are no flood."""
    limit = REPEATS_AT_ONCE if repeated else SETTLE_AT_ONCE
    taken = claim_events(context.engine, hints, repeated=repeated, limit=limit, jitter=_jitter())
    return Claim(is_more=taken == limit, wait_seconds=REPEATS_REST_SECONDS if repeated and taken else 0.0)
