"""What a notification says of how its payment ended: it succeeded, it did not, or nothing that is documented.

Ottu notifies every outcome, not only success. A payment that did not succeed makes no agreement, changes none and is no charge.
What a ``verify`` says of its end is not documented, so that an unknown word, or none, is neither.
"""

from __future__ import annotations

from typing import Final

# Ottu's words for a result. A ``pending`` payment has not succeeded yet; how it ends is notified. ``cod`` is paid in cash.
NO_SUCCESS: Final = frozenset(("failed", "canceled", "error", "pending", "cod"))
# Ottu's words for a state; they count where the result is none of its words.
SUCCESS_STATES: Final = frozenset(("paid", "authorized"))
NO_SUCCESS_STATES: Final = frozenset(("failed", "canceled", "expired", "invalided"))


def succeeded(result: str | None, state: str | None) -> bool | None:
    """Return whether a payment succeeded; ``None`` if neither word tells. A failed one may be paid later: that is notified."""
    result, state = (result or "").strip().lower(), (state or "").strip().lower()
    if result == "success" or result in NO_SUCCESS:
        return result == "success"
    if state in SUCCESS_STATES or state in NO_SUCCESS_STATES:
        return state in SUCCESS_STATES
    return None
