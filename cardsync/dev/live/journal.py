"""Turn shoppers' actions, ends of notifications and changes of the registry into lines, one for each thing that happened.

PURE: values in, lines out; no I/O, and time is an argument. A line is made when the result of an action is known: "saved a card →
hint accepted → card active, 84 ms". For an action without a notification there is a line at once, and another when its change is
found.

Rules: the feed names customers and changes, not actions. So a change is matched with the oldest open action of its customer that
could have caused it. A change that matches no action gets a line of its own. Everything is bounded.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Literal

from cardsync.dev.live.feed import Change, Look, News
from cardsync.dev.simulator.delivery import Delivery
from cardsync.dev.simulator.shoppers import ShopperEvent
from cardsync.store.calls.gate import GateState

Tone = Literal["good", "plain", "quiet", "warning", "bad"]

OPEN_MAX: Final = 1_000  # actions whose result is awaited
SLOW_SECONDS: Final = 5.0  # then a line says that the card is still missing
FORGET_SECONDS: Final = 900.0
FIELDS_SHOWN: Final = 4
FAILURES_EVERY_SECONDS: Final = 5.0  # while Ottu is away every call fails, and one line says it as well as fifty

# Actions without a notification: the text at once, the text when the change is found, and the change.
_UNSEEN: Final = {
    "deleted a card, unseen": (
        "deleted a card in Ottu's own checkout, which sends no notification",
        "deleted a card without notification",
        "removed",
    ),
    "preferred a card, unseen": (
        "preferred another card in Ottu's own checkout, which sends no notification",
        "preferred another card without notification",
        "updated",
    ),
}
_SAVED: Final = frozenset({"added", "returned", "updated"})  # the last if its deletion was not noticed yet
_OTHERS: Final = frozenset({"updated"})

_CHANGES: Final = {
    "added": "active",
    "returned": "active again",
    "restored": "active again",
    "removed": "removed",
    "deleting": "being deleted",
    "updated": "updated",
}
_FOUND: Final = {
    "hint": "seen with a later hint",
    "retry": "found when Ottu answered again",
    "sweep": "found by a sweep",
    "read": "found for a reader",
    "deletion": "proved by a list",
    "audit": "found by an audit",
}
_NOT_DELIVERED: Final = {
    "refused": "hint refused",
    "timed_out": "hint not answered in time",
    "unreachable": "hint not delivered",
    "dropped": "hint dropped on the way",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line; ``who`` is environment and customer, or None if it concerns all customers."""

    at: float
    who: tuple[str, str] | None
    text: str
    tone: Tone = "plain"


@dataclass(slots=True)
class _Action:
    at: float
    who: tuple[str, str]
    text: str
    leads_to: frozenset[str]
    shown: bool = False  # a line was made already
    accepted: bool = False


class Journal:
    """Call it with what happens, in that order; each call returns the lines to show."""

    def __init__(self) -> None:
        self._gate: GateState | None = None
        self._open: OrderedDict[int, _Action] = OrderedDict()
        self._failures: Counter[str] = Counter()
        self._failures_shown_at = float("-inf")

    def acted(self, event: ShopperEvent) -> list[Line]:
        """A shopper did something."""
        who = (event.environment, event.customer_id)
        if not event.notified and event.action not in _UNSEEN:  # it changes no card
            return [Line(event.at, who, event.action, "quiet")]
        if event.notified:
            leads_to = _SAVED if event.action.startswith("saved") else _OTHERS
            action = _Action(event.at, who, event.action, leads_to)
        else:
            _, words, change = _UNSEEN[event.action]
            action = _Action(event.at, who, words, frozenset({change}), shown=True)
        self._open[event.number] = action
        if len(self._open) > OPEN_MAX:
            self._open.popitem(last=False)
        return [] if event.notified else [Line(event.at, who, _UNSEEN[event.action][0])]

    def delivered(self, number: int, delivery: Delivery, now: float) -> list[Line]:
        """The notification of the action with that number ended."""
        action = self._open.get(number)
        if action is None:
            return []
        if delivery.outcome != "delivered":
            action.shown = True
            if action.leads_to != _SAVED:  # a sweep will find a saved card; a payment may change nothing
                del self._open[number]
            status = f" with status {delivery.status}" if delivery.status else ""
            text = f"{action.text} → {_NOT_DELIVERED[delivery.outcome]}{status}; Ottu does not send it again"
            return [Line(now, action.who, text, "bad")]
        took = _duration(delivery.seconds)
        if delivery.answer in ("ignored", "duplicate"):
            del self._open[number]
            why = "ignored, it names no card" if delivery.answer == "ignored" else "known already"
            return [Line(now, action.who, f"{action.text} → hint {why}, {took}", "quiet")]
        action.accepted = True
        return []

    def read(self, news: News, now: float) -> list[Line]:
        """News of the database: changes, looks with or without changes, and the gate before Ottu."""
        return [*self.changed(news.changes), *self.looked(news.looks), *self.gated(news.gate, now)]

    def changed(self, changes: Iterable[Change]) -> list[Line]:
        """Changes of the feed; all changes that one look found for one customer are one line."""
        lines = []
        for (environment, customer_id, _), group in groupby(
            changes, key=lambda c: (c.environment, c.customer_id, c.cause)
        ):
            lines += self._changed((environment, customer_id), list(group))
        return lines

    def looked(self, looks: Iterable[Look]) -> list[Line]:
        """Calls to Ottu; shown after the changes that they led to."""
        lines: list[Line] = []
        for look in looks:
            who = (look.environment, look.customer_id)
            if look.outcome not in ("changed", "unchanged"):
                self._failures[look.outcome] += 1
            elif look.suspicious:
                text = "suspicious hint: Ottu's list does not show its card, so it was not applied"
                lines.append(Line(look.finished_at, who, text, "warning"))
            else:
                lines += self._answered(look, who)
        return lines

    def gated(self, gate: GateState, now: float) -> list[Line]:
        """Changes that concern all customers: calls paused or allowed again, the brake engaged or released."""
        before, self._gate = self._gate, gate
        lines = []
        if gate.paused_because != (before.paused_because if before else None):
            if gate.paused_because:
                lines.append(Line(now, None, f"calls to Ottu are paused: {gate.paused_because}", "bad"))
            else:
                lines.append(Line(now, None, "calls to Ottu go on", "good"))
        was_braked = before is not None and before.brake_engaged_at is not None
        if gate.brake_engaged_at is not None and not was_braked:
            text = "the brake on removals is engaged: find out why, then run cardsync brake release"
            lines.append(Line(now, None, text, "bad"))
        elif gate.brake_engaged_at is None and was_braked:
            lines.append(Line(now, None, "the brake on removals is released", "good"))
        return lines

    def tick(self, now: float) -> list[Line]:
        """Time has passed: say which cards are slow to appear, and forget old actions."""
        lines = []
        for number, action in list(self._open.items()):
            age = now - action.at
            if age > FORGET_SECONDS:
                del self._open[number]
            elif age > SLOW_SECONDS and action.accepted and not action.shown and action.leads_to == _SAVED:
                action.shown = True
                lines.append(
                    Line(now, action.who, f"{action.text} → hint accepted → not in Ottu's list yet", "warning")
                )
        return lines + self._failed(now)

    def _changed(self, who: tuple[str, str], changes: Sequence[Change]) -> list[Line]:
        left = Counter(change.change for change in changes)
        last, lines = changes[-1], []
        for number, action in list(self._open.items()):
            kinds = action.leads_to & left.keys()
            if action.who != who or not kinds:
                continue
            del self._open[number]
            kind = min(kinds)  # by chance the alphabet has "added" first and "updated" last
            # Saving or deleting concerns one card; a payment or a preference may update several.
            count = left[kind] if kind == "updated" else 1
            left -= Counter({kind: count})
            lines.append(Line(last.at, who, _ended(action, kind, count, last), "good"))
        if left:
            rest = ", ".join(_counted(kind, count) for kind, count in left.items())
            if lines:
                lines[-1] = Line(last.at, who, f"{lines[-1].text}; also {rest}", "good")
            else:
                lines.append(Line(last.at, who, f"{rest}{_fields(changes)}{_unexplained(last)}"))
        return lines

    def _answered(self, look: Look, who: tuple[str, str]) -> list[Line]:
        """Actions whose hint this look answered without any change."""
        lines = []
        for number, action in list(self._open.items()):
            if action.who != who or not action.accepted or action.at > look.asked_at:
                continue
            if action.leads_to == _SAVED and not look.settled:
                continue  # the list will be asked for again
            del self._open[number]
            if not action.shown:
                took = _duration(look.finished_at - action.at)
                lines.append(
                    Line(look.finished_at, who, f"{action.text} → hint accepted → nothing new, {took}", "quiet")
                )
        return lines

    def _failed(self, now: float) -> list[Line]:
        if not self._failures or now - self._failures_shown_at < FAILURES_EVERY_SECONDS:
            return []
        told = ", ".join(f"{count} x {name}" for name, count in sorted(self._failures.items()))
        self._failures.clear()
        self._failures_shown_at = now
        return [
            Line(now, None, f"calls to Ottu failed ({told}); they will be made again, and no card was changed", "bad")
        ]


def _ended(action: _Action, kind: str, count: int, change: Change) -> str:
    took = _duration(change.at - action.at)
    if action.accepted and change.cause in ("hint", "retry"):
        return f"{action.text} → hint accepted → {_counted(kind, count)}, {took}"
    return f"{action.text} → {_counted(kind, count)}, {_FOUND.get(change.cause, change.cause)} after {took}"


def _unexplained(change: Change) -> str:
    if change.cause == "hint" and change.hinted_at is not None:
        return f", {_duration(change.at - change.hinted_at)} after its hint came in"
    return f", {_FOUND.get(change.cause, change.cause)}"


def _counted(kind: str, count: int) -> str:
    what = _CHANGES.get(kind, kind)
    return f"card {what}" if count == 1 else f"{count} cards {what}"


def _fields(changes: Sequence[Change]) -> str:
    names = sorted({name for change in changes if change.change == "updated" for name in change.fields})
    more = [f"{len(names) - FIELDS_SHOWN} more"] if len(names) > FIELDS_SHOWN else []
    return f" ({', '.join(names[:FIELDS_SHOWN] + more)})" if names else ""


def _duration(seconds: float) -> str:
    seconds = max(0.0, seconds)  # clocks of two machines may differ
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
