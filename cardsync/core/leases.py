"""How long a ticket stands: the arithmetic of leases, for lists, deletions, and callers who wait for another's ticket.

A ticket stands for one call and for applying its answer, and is renewed before each further page of a list. It is short on
purpose: a customer whose worker was killed waits this long for the next one.
"""

from __future__ import annotations

from typing import Final

APPLY_SECONDS: Final = 5.0  # for writing down what was answered
CALLS_A_LIST: Final = 10  # in time-outs: how long all pages of one list may take together
# A ticket of another process ends with its lease; this much later at the latest it is there to be taken.
WAIT_BEYOND_LEASE_SECONDS: Final = 5.0


def lease_seconds(call_seconds: float) -> float:
    """Return how long a ticket stands, where one call is bounded by ``call_seconds``."""
    return call_seconds + APPLY_SECONDS


def list_seconds(call_seconds: float) -> float:
    """Return how long all pages of one list may take together."""
    return call_seconds * CALLS_A_LIST


def wait_for_another_seconds(call_seconds: float) -> float:
    """Return how long to wait for a ticket that another process holds."""
    return lease_seconds(call_seconds) + WAIT_BEYOND_LEASE_SECONDS
