"""Bells: a story's caller rings after the commit. It may be lost: workers look by themselves a moment later."""

from __future__ import annotations

from typing import Protocol


class Bells(Protocol):
    """Returns at once and never waits for the broker, because a payer or a worker would wait with it."""

    @property
    def are_in_vain(self) -> bool:
        """Whether the last bell did not go through to the broker."""
        ...

    def ring(self) -> None:
        """Say that there is work. A bell carries no id: a worker claims what is most urgent."""
        ...
