"""How single values are shown: our words for lanes, kinds and steps, sentences, and the details of a timeline's entry."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from babel.dates import format_datetime
from flask import Flask, g
from markupsafe import Markup, escape

from cardsync.core.call_budget import LANES as BY_URGENCY
from cardsync.core.verdict import Sentence
from cardsync.store.calls.gate import Reason
from cardsync.web.console import stored
from cardsync.web.console.formats import DASH, number, when
from cardsync.web.console.rendering import at_each_use
from cardsync.web.console.states import STATES, chip
from cardsync.web.console.words import N_, _, locale

KINDS: Final[Mapping[str, str]] = {
    "customer": N_("customer"),
    "card": N_("card"),
    "event": N_("notification"),
    "notification": N_("notification"),
    "deletion": N_("deletion"),
    "erasure": N_("erasure"),
    "session": N_("session"),
    "reference": N_("reference"),
    "order": N_("order"),
    "agreement": N_("agreement"),
    "list": N_("list"),
    "change": N_("change"),
    "delivery": N_("delivery"),
    "action": N_("operator"),
    "operator": N_("operator"),
    "key": N_("API key"),
    "operation": N_("operation"),
    "calls": N_("calls to Ottu"),
}
ROLES: Final[Mapping[str, str]] = {
    "viewer": N_("viewer"),
    "support": N_("support"),
    "operator": N_("operator"),
    "admin": N_("admin"),
}
LANES: Final[Mapping[str, str]] = {
    "deletion": N_("deletions"),
    "hint": N_("notifications"),
    "read": N_("readers who wait"),
    "retry": N_("second tries"),
    "sweep": N_("routine looks"),
    "audit": N_("audits"),
    "repeat": N_("repeated notifications"),
}
# What a change of a card came from: most of them are what a look was for.
CAUSES: Final[Mapping[str, str]] = {**LANES, "calendar": N_("the calendar"), "erasure": N_("erasure")}
# Why calls to Ottu are paused.
PAUSES: Final[Mapping[Reason, str]] = {
    "throttled": N_("Ottu asked for time"),
    "down": N_("Ottu is down"),
    "credentials": N_("Ottu refuses our credentials"),
    "operator": N_("stopped by an operator"),
}
# What operators do, and the steps of a deletion.
ACTIONS: Final[Mapping[str, str]] = {
    "sign_in": N_("signed in"),
    "sign_out": N_("signed out"),
    "invite": N_("invited"),
    "disable": N_("disabled"),
    "look_now": N_("asked for a look"),
    "request_deletion": N_("asked for a deletion"),
    "pause_calls": N_("paused all calls"),
    "resume_calls": N_("resumed calls"),
    "cancel": N_("cancelled"),
    "create_key": N_("made a key"),
    "revoke_key": N_("revoked a key"),
    "replay_event": N_("replay a notification"),
    "replay_deletion": N_("replay a deletion"),
    "cancel_deletion": N_("cancel a deletion"),
    "replay_events": N_("replay all matching notifications"),
    "replay_deletions": N_("replay all matching deletions"),
    "release_brake": N_("release the brake on removals"),
    "release_deletions": N_("release held requests for deletions"),
    "enable_endpoint": N_("enable an endpoint"),
    "disable_endpoint": N_("disable an endpoint"),
    "test_endpoint": N_("send an endpoint a test"),
    "add_endpoint": N_("add an endpoint"),
    "rotate_endpoint": N_("rotate an endpoint's secret"),
    "remove_endpoint": N_("remove an endpoint"),
    "replay_delivery": N_("replay a delivery"),
    "replay_deliveries": N_("replay all failed deliveries"),
    "erase": N_("erase a person"),
}
STEPS: Final[Mapping[str, str]] = {
    "asked": N_("asked for"),
    "asked_again": N_("asked for again"),
    "called": N_("Ottu was called"),
    "answered": N_("Ottu answered"),
    "no_answer": N_("no answer"),
    "listed": N_("a list shows the card"),
    "absent": N_("a list lacks the card"),
    "unlisted": N_("no list could be had"),
    "unlocked": N_("unlocked"),
    "replayed": N_("replayed"),
}
# The facts of entries, filters and the journal. A name that is not here is shown as it is.
FACTS: Final[Mapping[str, str]] = {
    "result": N_("result"),
    "state": N_("state"),
    "payment_type": N_("payment type"),
    "lane": N_("lane"),
    "listed": N_("listed"),
    "changed": N_("changed cards"),
    "removed": N_("removed cards"),
    "suspicious": N_("suspicious"),
    "cause": N_("cause"),
    "fields": N_("fields"),
    "ignored_because": N_("ignored because"),
    "last_error": N_("last error"),
    "last_status": N_("answer"),
    "endpoint": N_("endpoint"),
    "asker": N_("asker"),
    "actor": N_("operator"),
    "reason": N_("reason"),
    "attempt": N_("attempt"),
    "attempts": N_("attempts"),
    "status": N_("status"),
    "error": N_("error"),
    "requested_by": N_("asked for by"),
    "until": N_("until"),
    "environment": N_("environment"),
    "phase": N_("phase"),
    "accept": N_("accepted"),
    "url": N_("address"),
    "kind": N_("kind"),
    "operation_id": N_("operation"),
    "deletion_id": N_("deletion"),
    "card_id": N_("card"),
    "life": N_("life of the card"),
    "released_by": N_("released by"),
    "filter": N_("filter"),
    "expected": N_("expected"),
    "done": N_("done"),
    "failed": N_("failed"),
    "due_at": N_("due"),
    "reconciled_at": N_("reconciled"),
    "when_unlocked": N_("when unlocked"),
    "held": N_("held"),
    "name": N_("name"),
    "role": N_("role"),
    "scopes": N_("scopes"),
    "days": N_("days"),
    "by": N_("by"),
    "sessions": N_("sessions"),
    "expires_at": N_("expires"),
    "asked_at": N_("asked for"),
    "observation_no": N_("list number"),
    "paused": N_("paused"),
    "since": N_("since"),
    "sessions_ended": N_("sessions ended"),
    "disabled": N_("disabled"),
    "because": N_("because"),
    "was": N_("before that"),
    "call_no": N_("number of the call"),
    "status_code": N_("answer"),
    "late": N_("came too late"),
}
# Facts whose text is a moment; so is every fact whose name ends in ``_at``.
_MOMENTS: Final = frozenset(("since", "until"))
# Where a worker's answer goes: of no meaning to people.
_UNSHOWN: Final = frozenset(("salt", "answer_to"))
# Facts that are stored texts of ours, words of ours, and words of Ottu's. All others are names and numbers.
_STORED: Final = frozenset(("error", "last_error", "ignored_because", "reason"))
_STATES: Final = {state: word for state, (word, _tone) in STATES.items()}
_WORDS: Final[Mapping[str, Mapping[str, str]]] = {
    "lane": LANES,
    "cause": CAUSES,
    "role": ROLES,
    "by": {"link": N_("a link"), "issuer": N_("the issuer")},
    "because": {"restored": N_("a backup was restored")},
    **dict.fromkeys(("status", "phase", "environment", "was"), _STATES),
}
_OF_OTTU: Final = frozenset(("result", "state", "payment_type", "fields"))
_LISTS: Final[Mapping[str, str]] = {"all": N_("all"), "open": N_("under way"), "stuck": N_("does not go on")}
_SHOWN_FACTS: Final = (
    "result",
    "state",
    "payment_type",
    "lane",
    "listed",
    "changed",
    "removed",
    "suspicious",
    "cause",
    "fields",
    "ignored_because",
    "endpoint",
    "last_status",
    "last_error",
    "actor",
    "reason",
)


def register(app: Flask) -> None:
    """Let templates use these."""
    filters: dict[str, Callable[..., Any]] = {
        "kind_word": lambda kind: _(KINDS.get(kind, kind)),
        "role_word": lambda role: _(ROLES.get(role, role)),
        "lane_word": lambda lane: _(LANES.get(lane, lane)),
        "pause_word": lambda reason: _(PAUSES[reason]),
        "action_word": action_word,
        "step_chip": step_chip,
        "state_word": lambda state: _(_LISTS.get(state) or (STATES[state][0] if state in STATES else state)),
        "days": days,
        "sentence": sentence,
        "entry_detail": entry_detail,
        "fact_list": fact_list,
        "fact_word": fact_word,
        "cause_word": lambda cause: _(CAUSES.get(cause, cause)),
        "stored": stored.said,
        "as_stored": stored.as_stored,
        "odd": stored.odd,
        "typed": typed,
        "capped": capped,
        "hour": hour,
        "by_lane": by_lane,
    }
    app.jinja_env.filters.update(at_each_use(filters))


def action_word(action: str) -> str:
    """What an operator did in words; the end of an operation says so."""
    if action.endswith("_ended"):
        return _("%(what)s: ended", what=_(ACTIONS.get(action.removesuffix("_ended"), action)))
    return _(ACTIONS.get(action, action))


def typed(text: str | None) -> Markup:
    """What a person typed, in a language that we do not know."""
    return Markup("<bdi>{}</bdi>").format(DASH if text is None else text)


def step_chip(state: str) -> Markup:
    """A state as a chip; a step or an action in words."""
    if state in STATES and state not in STEPS:
        return chip(state)
    return escape(_(STEPS.get(state) or ACTIONS.get(state) or state))


def sentence(said: Sentence) -> Markup:
    """A sentence in the viewer's language, with moments in the viewer's zone."""
    values = {
        name: stored.said(value) if name == "error" and isinstance(value, str) else _value(value)
        for name, value in said.values.items()
    }
    values |= {name: stored.said(word) if name == "oddities" else escape(_(word)) for name, word in said.words.items()}
    return escape(_(said.text)) % values if values else escape(_(said.text))


def _value(value: object) -> Markup:
    if isinstance(value, dt.datetime):
        return when(value)
    if isinstance(value, list | tuple):
        return escape(", ".join(map(str, value)))
    return escape(DASH if value is None else value)


def entry_detail(entry: Any) -> Markup:
    """What is worth a word of an entry: its facts that say something."""
    facts = dict(entry["facts"] if isinstance(entry, dict) else entry.facts)
    detail = facts.pop("detail", None) or {}
    chosen = {name: facts[name] for name in _SHOWN_FACTS if facts.get(name) not in (None, [], 0, False)}
    chosen |= {
        name: detail[name] for name in ("attempt", "status", "error", "reason", "requested_by") if name in detail
    }
    return fact_list(chosen, plain=True)


def fact_list(facts: Mapping[str, Any] | None, *, plain: bool = False) -> Markup:
    """Facts in one line, each with its name."""
    if not facts:
        return escape("" if plain else DASH)
    named = Markup('<span class="quiet">{}</span> {}')
    said = [named.format(fact_word(name), _moment(name, value) or _fact(name, value)) for name, value in _flat(facts)]
    return Markup(", ").join(said) if said else escape(DASH)


def fact_word(name: str) -> str:
    """A fact's name in the viewer's language."""
    return _(FACTS.get(name, name.replace("_", " ")))


def _flat(facts: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Facts with those of a fact that is several itself, such as a filter, in its place."""
    for name, value in facts.items():
        if isinstance(value, dict):
            yield from _flat({inner: one for inner, one in value.items() if one is not None})
        elif name not in _UNSHOWN:
            yield name, value


def _moment(name: str, value: Any) -> Markup | None:
    """The moment that a fact of JSON is the text of, as all moments are shown; ``None`` for what is none."""
    if not isinstance(value, str) or not (name in _MOMENTS or name.endswith("_at")):
        return None
    try:
        found = dt.datetime.fromisoformat(value)
    except ValueError:
        return None
    return None if found.tzinfo is None else when(found)


def _fact(name: str, value: Any) -> Markup | str:
    """A fact's value: in the viewer's language if it is ours, else apart from the text around it."""
    if isinstance(value, str) and name in _STORED:
        return stored.said(value) if name != "reason" or stored.knows(value) else typed(value)
    if isinstance(value, str) and value in _WORDS.get(name, {}):
        return _(_WORDS[name][value])
    if name in _OF_OTTU and value:
        return stored.as_stored(_plain(value))
    return typed(value) if isinstance(value, str) else _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ", ".join(map(str, value)) or DASH
    if value is None or isinstance(value, bool):
        return _("yes") if value else DASH if value is None else _("no")
    return json.dumps(value)


def capped(count: int, most: int) -> str:
    """A count that stops at ``most``."""
    return f"{number(most)}+" if count >= most else number(count)


def days(value: float) -> str:
    """A time in its largest unit, of a number of days."""
    for size, unit in ((1.0, N_("%(number)s days")), (1 / 24, N_("%(number)s hours"))):
        if value >= 2 * size:
            return _(unit, number=number(round(value / size, 1)))
    return _("%(number)s minutes", number=number(round(value * 1_440)))


def by_lane(calls: Mapping[str, int]) -> list[int]:
    """Calls of each lane, the most urgent lane first, where only lanes with calls are named."""
    return [calls.get(lane, 0) for lane in BY_URGENCY]


def hour(moment: dt.datetime) -> str:
    """An hour of the last day, in the viewer's zone."""
    language = locale(g.preferences.language)
    return format_datetime(moment.astimezone(g.preferences.zone_info), "d MMM HH:mm", locale=language)
