"""States as chips: a word, and a sign whose shape and colour say the same. Never colour alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from markupsafe import Markup

from cardsync.web.console.words import N_, _

Tone = Literal["good", "busy", "wait", "bad", "off"]

SIGNS: Final[Mapping[Tone, str]] = {"good": "●", "busy": "◐", "wait": "○", "bad": "▲", "off": "\N{EN DASH}"}

# state -> its word and its tone. A state that is not here is shown as it is, without a tone.
STATES: Final[Mapping[str, tuple[str, Tone]]] = {
    "active": (N_("active"), "good"),
    "unconfirmed": (N_("unconfirmed"), "wait"),
    "deleting": (N_("deleting"), "busy"),
    "removed": (N_("removed"), "off"),
    "pending": (N_("pending"), "wait"),
    "held": (N_("held"), "bad"),
    "in_progress": (N_("in progress"), "busy"),
    "done": (N_("done"), "good"),
    "blocked": (N_("blocked"), "bad"),
    "failed": (N_("failed"), "bad"),
    "ignored": (N_("ignored"), "off"),
    "asked": (N_("asked"), "wait"),
    "calling": (N_("calling"), "busy"),
    "proving": (N_("proving"), "busy"),
    "refused": (N_("refused"), "busy"),
    "changed": (N_("changed"), "good"),
    "unchanged": (N_("unchanged"), "good"),
    "error": (N_("error"), "bad"),
    "superseded": (N_("superseded"), "off"),
    "added": (N_("added"), "good"),
    "returned": (N_("returned"), "good"),
    "restored": (N_("restored"), "good"),
    "updated": (N_("updated"), "good"),
    "enabled": (N_("enabled"), "good"),
    "disabled": (N_("disabled"), "off"),
    "invited": (N_("invited"), "wait"),
    "revoked": (N_("revoked"), "off"),
    "expiring": (N_("expires soon"), "wait"),
    "expired": (N_("expired"), "off"),
    "engaged": (N_("engaged"), "bad"),
    "released": (N_("released"), "good"),
    "open": (N_("open"), "good"),
    "paused": (N_("paused"), "bad"),
    "slowed": (N_("slowed down"), "busy"),
    "running": (N_("running"), "busy"),
    "cancelled": (N_("cancelled"), "off"),
    "fresh": (N_("fresh"), "good"),
    "due": (N_("due"), "busy"),
    "sandbox": (N_("sandbox"), "off"),
    "production": (N_("production"), "good"),
}


def chip(state: str) -> Markup:
    """A state as a chip."""
    word, tone = STATES.get(state, (state, "off"))
    return Markup('<span class="chip chip-{}"><span aria-hidden="true">{}</span> {}</span>').format(
        tone, SIGNS[tone], _(word)
    )
