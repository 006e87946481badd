"""What a page says after an action, by the word that the address carries: a word of ours, never a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cardsync.web.console.words import N_

# An action that is not here leads to a page without a word.
NOTICES: Final[Mapping[str, str]] = {
    "look_now": N_("A look is asked for: a worker takes it up within seconds, if calls are not paused."),
    "request_deletion": N_(
        "The deletion is asked for. The card is out of use from now on; a list has to prove the rest."
    ),
    "pause_calls": N_("Calls are paused. A call that is under way ends; no other begins until somebody resumes them."),
    "resume_calls": N_("Calls go on. What waited is asked for within seconds."),
    "cancel": N_("Cancelled. What was done stays done."),
    "disable": N_("Disabled, and signed out everywhere."),
    "revoke_key": N_("The key is revoked."),
    "preferences": N_("Kept in this browser."),
}
