"""From what shoppers do, what became of the hints, and what the registry says, to one line for each thing that happened.

PURE: values in, lines out; no I/O, and time is an argument. A line is written when its story ends: "saved a card → hint
accepted → card active, 84 ms". What Ottu sends nothing of is told at once, and again when it is found.

The rules: the feed names customers and changes, not shoppers' deeds, so a change is taken for the oldest open deed of its
customer that could have caused it. What no deed explains gets a line of its own. Everything is bounded.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Literal

from cardsync.dev.feed import Change, Look, News
from cardsync.dev.simulator.delivery import Delivery
from cardsync.dev.simulator.shoppers import ShopperEvent
from cardsync.store.gate import GateState

Tone = Literal["good", "plain", "quiet", "warning", "bad"]

OPEN_MAX: Final = 1_000  # deeds whose end is awaited
SLOW_SECONDS: Final = 5.0  # then a line says that a card is still awaited
FORGET_SECONDS: Final = 900.0
FIELDS_SHOWN: Final = 4
FAILURES_EVERY_SECONDS: Final = 5.0  # while Ottu is away every look fails, and one line says it as well as fifty

# Deeds of which Ottu sends nothing: how they are told at once, how once they are found, and the change that they lead to.
_UNSEEN: Final = {
    "deleted a card, unseen": (
        "deleted a card in Ottu's own checkout, of which nothing is sent",
        "deleted a card unseen",
        "removed",
    ),
    "preferred a card, unseen": (
        "preferred another card in Ottu's own checkout, of which nothing is sent",
        "preferred another card unseen",
        "updated",
    ),
}
_SAVED: Final = frozenset({"added", "returned", "updated"})  # the latter where its deletion was not noticed yet
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
    """One line; ``who`` is environment and customer, or None where it is about all."""

    at: float
    who: tuple[str, str] | None
    text: str
    tone: Tone = "plain"


@dataclass(slots=True)
class _Deed:
    at: float
    who: tuple[str, str]
    text: str
    leads_to: frozenset[str]
    told: bool = False  # a line was written already
    accepted: bool = False


class Journal:
    """Tell it what happens, in that order; each call returns the lines that this is worth."""

    def __init__(self) -> None:
        self._gate: GateState | None = None
        self._open: OrderedDict[int, _Deed] = OrderedDict()
        self._failures: Counter[str] = Counter()
        self._failures_told_at = float("-inf")

    def acted(self, event: ShopperEvent) -> list[Line]:
        """A shopper did something."""
        who = (event.environment, event.customer_id)
        if not event.notified and event.action not in _UNSEEN:  # nothing can come of it
            return [Line(event.at, who, event.action, "quiet")]
        if event.notified:
            leads_to = _SAVED if event.action.startswith("saved") else _OTHERS
            deed = _Deed(event.at, who, event.action, leads_to)
        else:
            _, words, change = _UNSEEN[event.action]
            deed = _Deed(event.at, who, words, frozenset({change}), told=True)
        self._open[event.number] = deed
        if len(self._open) > OPEN_MAX:
            self._open.popitem(last=False)
        return [] if event.notified else [Line(event.at, who, _UNSEEN[event.action][0])]

    def delivered(self, number: int, delivery: Delivery, now: float) -> list[Line]:
        """How the notification of the deed with that number ended."""
        deed = self._open.get(number)
        if deed is None:
            return []
        if delivery.outcome != "delivered":
            deed.told = True
            if deed.leads_to != _SAVED:  # a saved card will be found by a sweep; of a payment nothing need come
                del self._open[number]
            status = f" with status {delivery.status}" if delivery.status else ""
            text = f"{deed.text} → {_NOT_DELIVERED[delivery.outcome]}{status}; Ottu does not send it again"
            return [Line(now, deed.who, text, "bad")]
        took = _duration(delivery.seconds)
        if delivery.answer in ("ignored", "duplicate"):
            del self._open[number]
            why = "ignored, it names no card" if delivery.answer == "ignored" else "known already"
            return [Line(now, deed.who, f"{deed.text} → hint {why}, {took}", "quiet")]
        deed.accepted = True
        return []

    def read(self, news: News, now: float) -> list[Line]:
        """What the database says: the changes, the looks that made them or found nothing, and the gate before Ottu."""
        return [*self.changed(news.changes), *self.looked(news.looks), *self.gated(news.gate, now)]

    def changed(self, changes: Iterable[Change]) -> list[Line]:
        """What the feed says; changes of one customer that one look found are one line."""
        lines = []
        for (environment, customer_id, _), group in groupby(
            changes, key=lambda c: (c.environment, c.customer_id, c.cause)
        ):
            lines += self._changed((environment, customer_id), list(group))
        return lines

    def looked(self, looks: Iterable[Look]) -> list[Line]:
        """What was asked of Ottu; told after the changes that the looks made."""
        lines: list[Line] = []
        for look in looks:
            who = (look.environment, look.customer_id)
            if look.outcome not in ("changed", "unchanged"):
                self._failures[look.outcome] += 1
            elif look.suspicious:
                text = "suspicious hint: Ottu's list does not show its card; it was not believed"
                lines.append(Line(look.finished_at, who, text, "warning"))
            else:
                lines += self._answered(look, who)
        return lines

    def gated(self, gate: GateState, now: float) -> list[Line]:
        """What is different for all: calls paused or allowed again, the brake on or released."""
        before, self._gate = self._gate, gate
        lines = []
        if gate.paused_because != (before.paused_because if before else None):
            if gate.paused_because:
                lines.append(Line(now, None, f"calls to Ottu are paused: {gate.paused_because}", "bad"))
            else:
                lines.append(Line(now, None, "calls to Ottu go on", "good"))
        was_braked = before is not None and before.brake_engaged_at is not None
        if gate.brake_engaged_at is not None and not was_braked:
            text = "the brake on removals is engaged: look why, then run cardsync brake release"
            lines.append(Line(now, None, text, "bad"))
        elif gate.brake_engaged_at is None and was_braked:
            lines.append(Line(now, None, "the brake on removals is released", "good"))
        return lines

    def passed(self, now: float) -> list[Line]:
        """Time went by: what is slow is said, what is old is forgotten."""
        lines = []
        for number, deed in list(self._open.items()):
            age = now - deed.at
            if age > FORGET_SECONDS:
                del self._open[number]
            elif age > SLOW_SECONDS and deed.accepted and not deed.told and deed.leads_to == _SAVED:
                deed.told = True
                lines.append(Line(now, deed.who, f"{deed.text} → hint accepted → not in Ottu's list yet", "warning"))
        return lines + self._failed(now)

    def _changed(self, who: tuple[str, str], changes: Sequence[Change]) -> list[Line]:
        left = Counter(change.change for change in changes)
        last, lines = changes[-1], []
        for number, deed in list(self._open.items()):
            kinds = deed.leads_to & left.keys()
            if deed.who != who or not kinds:
                continue
            del self._open[number]
            kind = min(kinds)  # in the alphabet, as it happens, "added" comes first and "updated" last
            # One card for one saved or deleted; a payment or a preference may update several.
            count = left[kind] if kind == "updated" else 1
            left -= Counter({kind: count})
            lines.append(Line(last.at, who, _ended(deed, kind, count, last), "good"))
        if left:
            rest = ", ".join(_counted(kind, count) for kind, count in left.items())
            if lines:
                lines[-1] = Line(last.at, who, f"{lines[-1].text}; also {rest}", "good")
            else:
                lines.append(Line(last.at, who, f"{rest}{_fields(changes)}{_unexplained(last)}"))
        return lines

    def _answered(self, look: Look, who: tuple[str, str]) -> list[Line]:
        """Deeds whose hint this look answered, and of which nothing came."""
        lines = []
        for number, deed in list(self._open.items()):
            if deed.who != who or not deed.accepted or deed.at > look.asked_at:
                continue
            if deed.leads_to == _SAVED and not look.settled:
                continue  # it will be asked for again
            del self._open[number]
            if not deed.told:
                took = _duration(look.finished_at - deed.at)
                lines.append(Line(look.finished_at, who, f"{deed.text} → hint accepted → nothing new, {took}", "quiet"))
        return lines

    def _failed(self, now: float) -> list[Line]:
        if not self._failures or now - self._failures_told_at < FAILURES_EVERY_SECONDS:
            return []
        told = ", ".join(f"{count} x {name}" for name, count in sorted(self._failures.items()))
        self._failures.clear()
        self._failures_told_at = now
        return [Line(now, None, f"calls to Ottu failed ({told}); they are made again, and nothing was changed", "bad")]


def _ended(deed: _Deed, kind: str, count: int, change: Change) -> str:
    took = _duration(change.at - deed.at)
    if deed.accepted and change.cause in ("hint", "retry"):
        return f"{deed.text} → hint accepted → {_counted(kind, count)}, {took}"
    return f"{deed.text} → {_counted(kind, count)}, {_FOUND.get(change.cause, change.cause)} after {took}"


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
