"""Whose trouble is it? One table: how a call to Ottu can end, which scope it concerns, and all that follows from it.

Four scopes:

- **everybody**: Ottu is down, throttles us, or refuses our credentials. Customers keep their place in line: they are as well as
  before, and all of them are needed again as soon as Ottu is. The breaker and the pace protect Ottu meanwhile.
- **customer**: Ottu is there and other lists work, but this customer's cannot be had (a firewall's 403, another customer's card
  in it). The customer backs off further and further, up to six hours, and leaves the urgent lanes. Its deletions are
  tried for 24 hours.
- **card**: Ottu refuses one card, or its token cannot be called for.
- **ours**: the budget or the gate lets no call through (nothing was called, and nothing failed), or an error of our own code that
  nothing here foresaw (it backs off as a customer's trouble does, so that one row that cannot be written does not cost a call
  every few seconds).

Two decisions that can be argued:

- *A page of HTML with status 200* is everybody's. Ottu's application answers in JSON, so something in front of it spoke: a
  proxy, a maintenance page, a firewall. It stands in front of all customers. Where it does speak for one customer alone, nothing
  is lost by this: the breaker opens only after three different customers in a row, and that one customer backs off up to six
  hours as well.
- *401 and 403* are everybody's unless another customer's list worked within the last minute. In spite of that they are
  everybody's from the third customer in a row on: a key that was revoked is refused from one call to the next. A customer that
  was found to be refused alone stays that until one of its lists works: it is no witness of our credentials any more.

An end of a call that stands in no row raises: no caller decides by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from cardsync.core.backoff import LONGEST_OF_A_CUSTOMER_SECONDS, LONGEST_SECONDS
from cardsync.core.call_budget import ROUTINE, Lane
from cardsync.core.circuit_breaker import Word
from cardsync.core.deletion import Event
from cardsync.errors import (
    BudgetSpent,
    CallsPaused,
    CardsyncError,
    CredentialsRefused,
    InvalidAnswer,
    ListNotFound,
    OttuFault,
    OttuRejected,
    OttuThrottled,
    OttuUnavailable,
    UnreadableAnswer,
    UnusableCard,
)

Scope = Literal["everybody", "customer", "card", "ours"]
Call = Literal["list", "delete"]
Kind = Literal[
    "silent",  # no answer, 5xx, or what is no whole answer in JSON
    "throttled",
    "credentials",  # refused to everybody, as far as is known
    "refused_alone",  # 401 or 403, while other customers' lists work
    "odd",  # a whole answer that is not to be believed of this customer, or a 4xx to its list
    "declined",  # a 4xx to a deletion: the card's own, if a list works
    "unusable",  # a token that would name another path: it is never called for
    "not_called",  # the gate or the budget let nothing through
    "unforeseen",  # an error of our own code after a call
]

# While the breaker is open, and while our credentials are refused: a customer that finds that out is needed again as the next
# probe. With the breaker and the sweep, all goes on under a minute after Ottu does.
LONGEST_WAIT_OF_A_PROBE_SECONDS: Final = 20.0
# In its own trouble a customer keeps its lane for the first failures: two minutes, in which a shopper may still wait.
PATIENT_FAILURES: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A row. ``word`` is what the breaker hears; ``counts``: a failure of the customer's, which makes its next wait longer.

    ``stays_urgent``: the customer keeps an urgent lane. ``event`` is what a deletion meets whose call ended so, and ``refund``
    gives its attempt back: time spent like that leads to no end. ``explains_refusal``: a list that ended so explains why the
    deletion before it was refused, so that the refusal was not the card's. ``note`` follows the error where it is noted.
    """

    scope: Scope
    word: Word | None
    counts: bool = True
    longest_seconds: float = LONGEST_OF_A_CUSTOMER_SECONDS
    stays_urgent: bool = True
    event: Event = "no_answer"
    refund: bool = False
    explains_refusal: bool = False
    note: str = ""


TABLE: Final[Mapping[Kind, Trouble]] = {
    "silent": Trouble(scope="everybody", word="failed", event="no_answer"),
    "throttled": Trouble(scope="everybody", word="throttled", event="not_done"),
    "credentials": Trouble(
        scope="everybody",
        word="credentials_refused",
        longest_seconds=LONGEST_WAIT_OF_A_PROBE_SECONDS,
        event="not_done",
        refund=True,
        explains_refusal=True,
    ),
    "refused_alone": Trouble(
        scope="customer",
        word="odd",
        stays_urgent=False,
        event="not_done",
        explains_refusal=True,
        note=" (other customers' lists work)",
    ),
    "odd": Trouble(scope="customer", word="odd", stays_urgent=False, event="no_answer"),
    "declined": Trouble(scope="card", word="rejected", event="declined"),
    "unusable": Trouble(scope="card", word=None, event="gave_up"),
    "not_called": Trouble(scope="ours", word=None, counts=False, event="not_done", refund=True),
    "unforeseen": Trouble(scope="ours", word=None, stays_urgent=False, event="no_answer"),
}

# Which row each error leads to, by the call that it ended. By exact class: a new subclass needs a line of its own.
KINDS: Final[Mapping[type[CardsyncError], Mapping[Call, Kind]]] = {
    OttuUnavailable: {"list": "silent", "delete": "silent"},
    OttuFault: {"list": "silent", "delete": "silent"},
    UnreadableAnswer: {"list": "silent", "delete": "silent"},
    OttuThrottled: {"list": "throttled", "delete": "throttled"},
    CredentialsRefused: {"list": "credentials", "delete": "credentials"},
    InvalidAnswer: {"list": "odd", "delete": "odd"},
    OttuRejected: {"list": "odd", "delete": "declined"},
    ListNotFound: {"list": "odd"},
    UnusableCard: {"delete": "unusable"},
    CallsPaused: {"list": "not_called", "delete": "not_called"},
    BudgetSpent: {"list": "not_called", "delete": "not_called"},
}


def kind_of(error: Exception, call: Call, *, alone: bool = False) -> Kind:
    """Return how a call ended that raised ``error``; ``alone`` says that only this customer is refused.

    Raises ``LookupError`` for an error of ours that no such call ends with.
    """
    if not isinstance(error, CardsyncError):
        return "unforeseen"
    kind = KINDS.get(type(error), {}).get(call)
    if kind is None:
        raise LookupError(f"no row says what follows when a {call} ends with {type(error).__name__}") from error
    return "refused_alone" if kind == "credentials" and alone else kind


def lane_after(trouble: Trouble, lane: Lane, *, failures: int, deletion_waits: bool) -> Lane:
    """Return the lane of the next try, after ``failures`` in a row; ``deletion_waits``: one is under way that is still tried.

    A routine look stays one, and so under the brake. A deletion's proof keeps the reserve of calls while somebody waits for it.
    """
    if not trouble.counts or lane in ROUTINE:
        return lane
    if lane == "deletion" and (trouble.stays_urgent or deletion_waits):
        return lane
    return "retry" if trouble.stays_urgent or failures <= PATIENT_FAILURES else "sweep"


def longest_wait_seconds(trouble: Trouble, lane: Lane) -> float:
    """Return the bound of the back-off in the lane of the next try."""
    return min(trouble.longest_seconds, LONGEST_SECONDS) if lane == "deletion" else trouble.longest_seconds
