"""The words of the feed of changes: what happened to a card, and why we know it. The API's description says what each means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

Change = Literal["added", "updated", "deleting", "restored", "removed", "returned", "expiring", "expired"]
CHANGES: Final[tuple[Change, ...]] = get_args(Change)
CHANGE_MEANS: Final[Mapping[Change, str]] = {
    "added": "a card is here that was not",
    "updated": "facts of it are others",
    "deleting": "its deletion was asked for; it is no longer served as active",
    "restored": "the deletion ended without success; the card is active again",
    "removed": "a list proved that it is gone",
    "returned": "a removed card is listed again",
    "expiring": "its last good day is near: once each at 60, 30 and 7 days",
    "expired": "its last good day is over: once",
}

Cause = Literal["hint", "deletion", "read", "retry", "sweep", "audit", "repeat", "calendar", "erasure"]
CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)
CAUSE_MEANS: Final[Mapping[Cause, str]] = {
    "hint": "a notification of Ottu's, or the list that it led to",
    "deletion": "a deletion: its request, its end, or the list that followed it",
    "read": "a list that a reader or an operator wanted",
    "retry": "a list that was tried again after a failure",
    "sweep": "a routine list",
    "audit": "a list of a customer who was drawn at random",
    "repeat": "a list that a replayed notification led to",
    "calendar": "a day has come, in the merchant's time zone (`CARDSYNC_TIME_ZONE`)",
    "erasure": "a person was erased: names, masked numbers and agreements of removed cards are gone",
}
