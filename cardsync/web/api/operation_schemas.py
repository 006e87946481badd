"""Requests and answers for operators' programs (see ``schemas`` for the rules)."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from cardsync.web.api.enums import DeletionStatus
from cardsync.web.api.schemas import PAGE_DEFAULT, Answer, Input, Limit


class OpsDeletionsQuery(Input):
    """Which deletions."""

    status: Annotated[DeletionStatus | None, Field(description="Only those in this state, such as `failed`.")] = None
    limit: Limit = PAGE_DEFAULT


class OpsStatus(Answer):
    """What waits and what is stopped."""

    pending_events: Annotated[int, Field(description="Notifications that wait to be processed.")]
    oldest_pending_seconds: Annotated[float, Field(description="The age of the oldest of them; 0 without one.")]
    failed_events: Annotated[int, Field(description="Notifications that an operator must look at.")]
    due_customers: Annotated[int, Field(description="Customers whose list is due.")]
    oldest_due_seconds: Annotated[float, Field(description="For how long the first of them is due; 0 without one.")]
    open_deletions: Annotated[int, Field(description="Deletions that are under way.")]
    oldest_deletion_seconds: Annotated[float, Field(description="The age of the oldest of them; 0 without one.")]
    held_deletions: Annotated[int, Field(description="Deletions that wait for `cardsync brake release --requests`.")]
    calls_paused_because: Annotated[
        str | None, Field(description="Why no calls are made to Ottu; null while they are.")
    ]
    calls_spent: Annotated[int, Field(description="Calls to Ottu within the last 24 hours.")]
    calls_a_day: Annotated[int, Field(description="How many they may be (`OTTU_DAILY_CALLS`).")]
    removal_brake_engaged: Annotated[bool, Field(description="Removals wait for `cardsync brake release`.")]
    feed_head: Annotated[int, Field(description="The number of the newest change; 0 before the first one.")]


OWN: Final = ("calls_spent", "calls_a_day")  # what is no gauge of its own
ANSWERS: Final = (OpsStatus,)
