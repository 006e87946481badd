"""What a story's caller rings after its commit. The bell is a convenience: what is not rung for, the sweep rings again."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Protocol


class Bells(Protocol):
    """Rings at once and never waits: neither a payer nor a worker stands behind the broker."""

    def ring_events(self, event_ids: Sequence[uuid.UUID]) -> None:
        """Say that these events are pending."""
        ...

    def ring_customers(self, customers: Sequence[int]) -> None:
        """Say that these customers (our own numbers) are due."""
        ...

    def ring_deletions(self, deletion_ids: Sequence[uuid.UUID]) -> None:
        """Say that these deletions are due."""
        ...
