"""Who is next: which customers the calls of a tick go to, out of the heads of a few lines.

Calls are dealt in turns that go round (``WHEEL``), so that every eight in a row are shared in the same way:

- *line*, every second turn: everybody stands in one line, by the last look, or by when they became known. Nobody is ever put in
  front of another, so whoever stands in it is looked at before as many turns have passed as there are customers: with ``N``
  customers and ``S`` calls a day no look is ever older than ``N / (S / 2)`` days, whatever the other turns do.
- *cadence*: the customer of the greatest age in proportion to the interval that suits its cadence. For changes that come by
  chance the best intervals are as 1 to the root of the rates, so a cadence more is a factor of the square root of two.
- *newcomer*: one whom nobody has looked at yet, so that an import is not kept waiting behind all who were known before.
- *dated*: one for whom a look is worth a call by now (``core.outlook``).

A turn of which nobody has need goes to the next kind: no call is left over while anybody may be looked at. Only proportions
count, so there is no scale to set, nothing to make up for after a pause, and the work of a tick is its calls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Turn = Literal["line", "cadence", "newcomer", "dated"]

WHEEL: Final[tuple[Turn, ...]] = ("line", "cadence", "line", "newcomer", "line", "cadence", "line", "dated")
# Half: the worst age is then twice that of a plain round, and the other half can be spent many times over on the few who change.
LINE_SHARE: Final = WHEEL.count("line") / len(WHEEL)
NEXT_KIND: Final[tuple[Turn, ...]] = ("cadence", "line", "newcomer", "dated")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A customer, and the seconds since the last look, or since it became known."""

    customer: int
    age_seconds: float


@dataclass(frozen=True, slots=True)
class Heads:
    """The first of each line who may be looked at, the longest waiting first, each at least as many as are to be chosen.

    ``cadences`` are those who were looked at before, by cadence; ``dated`` may name the same customers.
    """

    cadences: Mapping[int, Iterable[Waiting]] = field(default_factory=dict)
    newcomers: Iterable[Waiting] = ()
    dated: Iterable[int] = ()


def urgency(cadence: int, age_seconds: float) -> float:
    """Return how pressing a look is: the age in proportion to the interval of the cadence."""
    return age_seconds * float(2 ** (cadence / 2))


def choose(heads: Heads, *, turn: int, limit: int) -> list[int]:
    """Choose up to ``limit`` customers, each once; ``turn`` is the number of calls that were dealt before."""
    lines = _Lines(heads)
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

    def __init__(self, heads: Heads) -> None:
        # The highest first: of two who have waited alike, the one who changes more often is taken.
        self._cadences = {cadence: deque(heads.cadences[cadence]) for cadence in sorted(heads.cadences, reverse=True)}
        self._newcomers, self._dated = deque(heads.newcomers), deque(heads.dated)
        self._taken: set[int] = set()

    def take(self, kind: Turn) -> int | None:
        """Take the one whose turn of this kind it is; ``None`` if there is nobody."""
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
