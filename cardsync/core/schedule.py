"""The schedule of routine looks: a weighted round-robin that picks the customers for the calls of one tick.

**The problem.** A card can be deleted at Ottu without a notification, and a notification can be lost. Only asking for a
customer's list finds that out, and calls are scarce: a merchant may have a million customers and a few tens of thousands of calls
a day to spare. Two wishes compete. No customer may ever be forgotten; and a call should go where it is likely to find something.

**Candidates and turns.** Each call that a tick may spend is one *turn*. The *candidates* are the heads of a few ordered lines,
read from indexes (``store.schedule``). Every turn has a kind, and the kinds repeat in a fixed order of eight (``WHEEL``):

- *line*, four of eight. All customers stand in one line, ordered by their last look, or by the time at which they became known.
  The turn takes the head of the line.
- *cadence*, two of eight. The turn takes the customer whose age is greatest in proportion to the interval of its cadence.
- *newcomer*, one of eight. The turn takes a customer who was never looked at, so an import does not wait until all customers who
  were known before have had a look.
- *dated*, one of eight. The turn takes a customer whose next look is worth a call by now: a card has expired, or a charge is
  expected (``core.change_rate``).

**Why half of the turns go to the line.** In the line no customer is ever put in front of another. So a customer who joins it is
looked at after at most as many line turns as there are customers: with ``N`` customers and ``S`` calls a day no look is ever
older than ``N / (S / 2)`` days. This bound needs no estimate to be right. With half of the turns the bound is twice the age that
a plain round through everybody would give; the other half of the calls is enough to look many times as often at the few customers
who change often.

**Why the other intervals are what they are.** For changes that come by chance, the mean time until a change is found is least
when the intervals are proportional to 1 / the square root of the rates. One cadence more is twice the rate, so its interval is
shorter by the square root of two (``urgency``).

**What is not kept.** A turn that finds no candidate of its kind goes to the next kind (``NEXT_KIND``), so no call is left over
while there is any candidate. Only proportions decide: there is no interval to compute and store, nothing to catch up on after a
pause, and the work of a tick grows with its calls, not with the number of customers. Rejected: a date for each customer's next
look, because every change of the budget would rewrite millions of rows, and a pause would leave all of them overdue at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Turn = Literal["line", "cadence", "newcomer", "dated"]

WHEEL: Final[tuple[Turn, ...]] = ("line", "cadence", "line", "newcomer", "line", "cadence", "line", "dated")
# Half: see above.
LINE_SHARE: Final = WHEEL.count("line") / len(WHEEL)
NEXT_KIND: Final[tuple[Turn, ...]] = ("cadence", "line", "newcomer", "dated")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A customer, and the seconds since the last look, or since it became known."""

    customer: int
    age_seconds: float


@dataclass(frozen=True, slots=True)
class Candidates:
    """The heads of the lines, the longest waiting first; each line holds at least as many customers as are to be chosen.

    ``cadences`` holds the customers who were looked at before, by cadence. ``dated`` may name the same customers.
    """

    cadences: Mapping[int, Iterable[Waiting]] = field(default_factory=dict)
    newcomers: Iterable[Waiting] = ()
    dated: Iterable[int] = ()


def urgency(cadence: int, age_seconds: float) -> float:
    """Return how urgent a look is: the age in proportion to the interval of the cadence."""
    return age_seconds * float(2 ** (cadence / 2))


def choose(candidates: Candidates, *, turn: int, limit: int) -> list[int]:
    """Choose up to ``limit`` customers, each once; ``turn`` is the number of turns that were taken before."""
    lines = _Lines(candidates)
    chosen: list[int] = []
    for number in range(turn, turn + limit):
        kinds = (WHEEL[number % len(WHEEL)], *NEXT_KIND)
        customer = next((c for kind in kinds if (c := lines.take(kind)) is not None), None)
        if customer is None:
            break
        chosen.append(customer)
    return chosen


class _Lines:
    """The lines while customers are taken out of them."""

    def __init__(self, candidates: Candidates) -> None:
        # The highest cadence first: of two equal waits, the customer who changes more often is taken.
        self._cadences = {
            cadence: deque(candidates.cadences[cadence]) for cadence in sorted(candidates.cadences, reverse=True)
        }
        self._newcomers, self._dated = deque(candidates.newcomers), deque(candidates.dated)
        self._taken: set[int] = set()

    def take(self, kind: Turn) -> int | None:
        """Take the next customer for a turn of this kind; ``None`` if there is no candidate."""
        customer = self._next(kind)
        if customer is not None:
            self._taken.add(customer)
        return customer

    def _next(self, kind: Turn) -> int | None:
        if kind == "dated":
            while self._dated and self._dated[0] in self._taken:
                self._dated.popleft()
            return self._dated.popleft() if self._dated else None
        lines = {} if kind == "newcomer" else {c: w for c, line in self._cadences.items() if (w := self._head(line))}
        if kind == "cadence":
            first = max(lines.items(), key=lambda item: urgency(item[0], item[1].age_seconds), default=None)
            return None if first is None else first[1].customer
        newcomer = self._head(self._newcomers)
        longest = max((*lines.values(), *([newcomer] if newcomer else [])), key=lambda w: w.age_seconds, default=None)
        return None if longest is None else longest.customer

    def _head(self, line: deque[Waiting]) -> Waiting | None:
        while line and line[0].customer in self._taken:
            line.popleft()
        return line[0] if line else None
