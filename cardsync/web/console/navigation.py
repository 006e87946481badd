"""The console's sections, in the order in which the navigation shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cardsync.web.console.words import N_


@dataclass(frozen=True, slots=True)
class Section:
    """A line of the navigation: the page that it leads to, its name, and the key that leads there after ``g``."""

    endpoint: str
    title: str
    key: str


SECTIONS: Final = (
    Section("now.show", N_("Now"), "n"),
    Section("find.show", N_("Find"), "f"),
    Section("notifications.show", N_("Notifications"), "o"),
    Section("deletions.show", N_("Deletions"), "d"),
    Section("deletions.show_erasures", N_("Erasures"), "e"),
    Section("flows.feed", N_("Feed"), "w"),
    Section("flows.show_endpoints", N_("Endpoints"), "p"),
    Section("flows.show_deliveries", N_("Deliveries"), "v"),
    Section("calls.show", N_("Calls"), "c"),
    Section("brake.show", N_("Brake"), "b"),
    Section("flows.imports", N_("Imports and resyncs"), "i"),
    Section("operations.show", N_("Operations"), "r"),
    Section("access.show", N_("Access"), "a"),
    Section("audit.show", N_("Audit"), "u"),
)
