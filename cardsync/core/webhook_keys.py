"""The keys of ``OTTU_WEBHOOK_KEYS``: each plain, or bound to the one environment that it vouches for.

No scheme of Ottu's signs the environment. An operator who binds a key says what the signature cannot.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cardsync.core.cards import ENVIRONMENTS, Environment


@dataclass(frozen=True, slots=True)
class BoundKey:
    """A webhook's key; with an environment it vouches for bodies of that environment only."""

    key: str = field(repr=False)
    environment: Environment | None = None

    @classmethod
    def read(cls, text: str) -> BoundKey:
        """Read ``production:KEY``, ``sandbox:KEY`` or a plain key, which may hold colons of its own."""
        for environment in ENVIRONMENTS:
            if text.startswith(f"{environment}:"):
                return cls(text.removeprefix(f"{environment}:"), environment)
        return cls(text)
