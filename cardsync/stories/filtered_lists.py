"""What the two filtered questions to Ottu have in common: their settings, and how one ends that got no answer.

One asks for a gateway's cards (``stories.ask_gateway``), the other for the card of an agreement (``stories.ask_agreement``). Each
call is counted in the budget like a complete list, goes through the gate, and stands under a ticket of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from sqlalchemy import Connection, Engine

from cardsync import metrics
from cardsync.core import leases
from cardsync.core.backoff import after_failure
from cardsync.errors import CardsyncError, named
from cardsync.settings import Settings
from cardsync.store.calls import failures
from cardsync.stories.counted_calls import CountedCall, log_turn


@dataclass(frozen=True, slots=True)
class FilteredListPolicy:
    """The settings that both go by. ``call_seconds`` bounds one call, and all pages of a list together."""

    fingerprint_key: bytes
    daily_calls: int
    call_seconds: float

    @classmethod
    def of(cls, settings: Settings, fingerprint_key: bytes) -> FilteredListPolicy:
        """Take the policy from the settings; the key of the fingerprints is the database's (``store.access.secret_keys``)."""
        return cls(fingerprint_key, settings.ottu_daily_calls, settings.ottu_timeout_s)

    @property
    def lease_seconds(self) -> float:
        """How long a ticket stands: the calls, and the applying."""
        return leases.lease_seconds(self.call_seconds)


class Ticket(Protocol):
    """What is needed here of the right to ask once."""

    @property
    def customer(self) -> int:
        """The customer that it is about."""

    @property
    def failures(self) -> int:
        """How many calls about it failed in a row."""


def end_without_answer(
    engine: Engine,
    ticket: Ticket,
    error: CardsyncError,
    call: CountedCall,
    *,
    endpoint: Literal["list_gateway", "list_agreement"],
    jitter: float,
    put_off: Callable[[Connection, float, str], object],
) -> None:
    """Let ``put_off`` give the ticket back, with the seconds to wait and the error's name; the gate hears how the call ended."""
    with engine.begin() as connection:
        ended = failures.told(connection, error, call="list", who=ticket.customer)
        times = ticket.failures + 1 if call.made else 1
        wait_seconds = after_failure(times, jitter=jitter, retry_after_seconds=ended.retry_after_seconds)
        put_off(connection, wait_seconds, named(error))
    log_turn(ended.turn)
    if call.made:
        metrics.CALLS.labels(endpoint, type(error).__name__).inc()
