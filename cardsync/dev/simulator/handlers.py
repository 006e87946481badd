"""The merchant's handlers of notifications: several systems, and which of them an event goes to.

Ottu's rules: a payment event goes to exactly one address. That is the ``webhook_url`` given with the payment, else the one of the
plugin that took the payment, else the merchant's configured one. An operation event (refund, void, capture) goes there, and also
to the operations' address if one is set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Address:
    """Where one notification goes. ``handler`` is fit for a log: an address may hold a secret."""

    handler: str
    url: str | None


@dataclass(frozen=True, slots=True)
class Handlers:
    """The addresses in the merchant's dashboard; ``None``: nothing is sent there."""

    configured: str | None = None
    plugins: Mapping[str, str] = field(default_factory=dict)
    operations: str | None = None

    def of(self, event: Mapping[str, Any], *, plugin: str | None = None, given: str | None = None) -> list[Address]:
        """The addresses of an event of a payment that a plugin took, or that had a ``webhook_url`` of its own (``given``)."""
        if given is not None:
            found = [Address("payment", given)]
        elif plugin is not None and plugin in self.plugins:
            found = [Address(plugin, self.plugins[plugin])]
        else:
            found = [Address("configured", self.configured)]
        if "operation" in event and self.operations is not None:
            found.append(Address("operations", self.operations))
        return found
