"""Why a card or a customer is as it is, in sentences: the same for the command line and for the console.

Facts in, sentences out. A sentence is a text with ``%(name)s`` where a value stands, so that it can be translated, and moments
can be shown in the reader's own time zone. No value is a token, a name or a number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cardsync.core import oddities

Facts = Mapping[str, Any]


def N_(text: str) -> str:  # noqa: N802  (gettext's usual name: the texts are collected by it)
    """Mark a text that is translated where it is shown."""
    return text


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence; ``words`` are values that are texts of ours, to be translated too."""

    text: str
    values: Mapping[str, object] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)

    def in_english(self, shown: Callable[[object], str]) -> str:
        """The sentence with each value as ``shown`` writes it."""
        return self.text % {**{name: shown(value) for name, value in self.values.items()}, **self.words}


DROPPED: Final = Sentence(N_("Dropped: a hint named this card, and no list showed it while it was waited for."))

# Why a customer is looked at: the lane of its next call.
LANES: Final[Mapping[str, str]] = {
    "deletion": N_("a deletion waits for its proof"),
    "hint": N_("a notification named it"),
    "read": N_("somebody asked for a newer list"),
    "retry": N_("the look before failed"),
    "sweep": N_("it is its turn for a routine look"),
    "audit": N_("it was drawn for an audit"),
    "repeat": N_("a repeated notification named it"),
}


def of_card(card: Facts, customer: Facts, *, open_hints: int = 0, deletions: Sequence[Facts] = ()) -> list[Sentence]:
    """The evidence for a card's status, then what is to be known of its deletions and of its customer."""
    said = [of_status(card, customer)]
    said += [one for deletion in deletions[:1] if (one := _of_deletion(deletion)) is not None]
    if card.get("agreements"):
        said.append(
            Sentence(
                N_(
                    "It serves agreements (%(agreements)s): Ottu refuses to delete it until another card takes them over."
                ),
                {"agreements": list(card["agreements"])},
            )
        )
    return said + of_customer(customer) + _of_hints(open_hints)


def of_status(card: Facts, customer: Facts) -> Sentence:
    """The evidence for a card's status, in one sentence."""
    asked = customer["reconciled_at"]
    match card["status"]:
        case "active" if asked is None:
            return Sentence(N_("Active: a verified notification says so; no list was ever believed of this customer."))
        case "active":
            return Sentence(
                N_("Active since %(since)s; the list last believed, of %(list)s, does not deny it."),
                {"since": card["confirmed_at"], "list": asked},
            )
        case "unconfirmed":
            return _unconfirmed(card, customer)
        case "deleting":
            return Sentence(
                N_("Deleting: a deletion was asked for; no list without it has proved it (the last is of %(list)s)."),
                {"list": asked},
            )
        case _ if card["removed_because"] == "requested":
            return Sentence(
                N_("Removed at %(at)s: it was asked for, and a list without it proved it."), {"at": card["removed_at"]}
            )
        case _:
            return Sentence(N_("Removed at %(at)s: a complete list no longer had it."), {"at": card["removed_at"]})


def _unconfirmed(card: Facts, customer: Facts) -> Sentence:
    if customer["due_at"] is None:
        return Sentence(
            N_(
                "Unconfirmed: a hint of %(at)s named it. No key vouched for that, and there is no list; Ottu is asked about its "
                "payment."
            ),
            {"at": card["awaited_at"]},
        )
    return Sentence(
        N_(
            "Unconfirmed: a hint of %(at)s named it, no list has shown it yet; the customer is looked at again at %(due)s."
        ),
        {"at": card["awaited_at"], "due": customer["due_at"]},
    )


def _of_deletion(deletion: Facts) -> Sentence | None:
    """The newest deletion of the card, unless it is done: the card's own status says that."""
    values = {"at": deletion["requested_at"], "error": deletion["error"]}
    match deletion["status"]:
        case "pending" if deletion["error"] == "held":
            return Sentence(N_("The brake on requests holds its deletion of %(at)s: an operator decides."), values)
        case "pending":
            return Sentence(N_("Its deletion of %(at)s waits for its call to Ottu."), values)
        case "in_progress":
            return Sentence(N_("Its deletion of %(at)s is under way: a list has to prove it."), values)
        case "blocked":
            return Sentence(N_("Ottu refused its deletion of %(at)s (%(error)s), and a list shows the card."), values)
        case "failed" if deletion["error"] == "cancelled":
            return Sentence(N_("Its deletion of %(at)s was cancelled before anything was called."), values)
        case "failed":
            return Sentence(N_("Its deletion of %(at)s was given up: %(error)s. It can be replayed."), values)
    return None


def of_customer(customer: Facts) -> list[Sentence]:
    """What is to be known of a customer: what may have changed, what is held back, and what was odd."""
    said = []
    if customer["dirty_since"] is not None:
        said.append(
            Sentence(N_("The customer may differ from Ottu since %(since)s."), {"since": customer["dirty_since"]})
        )
    if customer["removals_held"]:
        said.append(Sentence(N_("The brake holds removals of this customer back (cardsync brake show).")))
    if customer["list_oddities"]:
        said.append(_of_oddities(customer["list_oddities"]))
    return said


def _of_oddities(found: Sequence[str]) -> Sentence:
    words = {"oddities": oddities.said(found)}
    if oddities.may_remove_by_name(found):
        return Sentence(
            N_(
                "The last list was odd: %(oddities)s. What is certain in it was believed; it removes cards as any list does."
            ),
            words=words,
        )
    return Sentence(
        N_(
            "The last list was odd: %(oddities)s. What is certain in it was believed; no active card is removed because of it, "
            "and a deletion that it does not prove is looked at again."
        ),
        words=words,
    )


def _of_hints(open_hints: int) -> list[Sentence]:
    return [Sentence(N_("%(number)s hints are still open."), {"number": open_hints})] if open_hints else []


def why_due(customer: Facts) -> list[Sentence]:
    """When the customer was last reconciled, whether a look is due, and why."""
    said = [_last_look(customer)]
    if customer["due_at"] is not None:
        because = LANES.get(customer["lane"] or "", customer["lane"] or "")
        said.append(
            Sentence(
                N_("The next look is due at %(due)s: %(because)s."),
                {"due": customer["due_at"]},
                {"because": because},
            )
        )
    if customer["failures"]:
        said.append(
            Sentence(
                N_("The last %(failures)s looks failed: %(error)s."),
                {"failures": customer["failures"], "error": customer["last_error"]},
            )
        )
    return said


def _last_look(customer: Facts) -> Sentence:
    if customer["reconciled_at"] is None:
        return Sentence(N_("No list was ever believed of this customer."))
    return Sentence(N_("The last believed list is of %(list)s."), {"list": customer["reconciled_at"]})
