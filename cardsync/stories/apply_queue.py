"""``ApplyQueue``: the lists that one process waits to apply. Those that come in while others are applied share a transaction.

No list waits for company: one that finds a turn free is applied at once, with what waits already. The thread that brought a list
does the work, for the others too; there is no thread whose end would leave lists unapplied. ``apply_list`` tells which lists can
share a transaction. All others, and all of a transaction that failed, are applied alone, each by its own thread.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Engine

from cardsync.episodes import Episode
from cardsync.errors import places
from cardsync.ottu import CardList
from cardsync.store.customers import Ticket
from cardsync.stories.apply_list import Applied, ApplyPolicy, Listed, apply_list, apply_together

TURNS: Final = 2  # while one waits for its commit, another is planned
TOGETHER_MAX: Final = 16  # lists in a transaction: their customers stay locked until its end


@dataclass(eq=False, slots=True)
class _Waiting:
    """A list and its thread, which is woken when the list is applied, or when it is its turn to apply what waits."""

    listed: Listed
    woken: threading.Event = field(default_factory=threading.Event)
    has_turn: bool = False
    applied: Applied | None = None


class ApplyQueue:
    """Applies lists for the threads of one process."""

    def __init__(self, engine: Engine, policy: ApplyPolicy) -> None:
        self._engine, self._policy = engine, policy
        self._lock = threading.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._turns = TURNS  # that are free; while one is, nothing waits
        self._failing = Episode("lists_not_applied_together")

    def apply(self, ticket: Ticket, answer: CardList, *, jitter: float) -> Applied:
        """Apply a list, and return when that is committed. Raises as ``apply_list``."""
        mine = _Waiting(Listed(ticket, answer, jitter))
        with self._lock:
            mine.has_turn = self._turns > 0
            if mine.has_turn:
                self._turns -= 1
            else:
                self._waiting.append(mine)
        if not mine.has_turn:
            mine.woken.wait()
        if mine.has_turn:
            self._take_turn(mine)
        if mine.applied is None:
            return apply_list(self._engine, ticket, answer, self._policy, jitter=jitter)
        return mine.applied

    def _take_turn(self, mine: _Waiting) -> None:
        """Apply the list and what waits; then let the next thread do so, and wake those whose lists were applied."""
        with self._lock:
            together = [mine, *(self._waiting.popleft() for _ in range(min(len(self._waiting), TOGETHER_MAX - 1)))]
        try:
            for one, applied in zip(together, self._apply([one.listed for one in together]), strict=True):
                one.applied = applied
        finally:
            with self._lock:
                if self._waiting:
                    follower = self._waiting.popleft()
                    follower.has_turn = True
                    follower.woken.set()
                else:
                    self._turns += 1
            for one in together:
                one.woken.set()

    def _apply(self, lists: list[Listed]) -> list[Applied | None]:
        try:
            applied = apply_together(self._engine, lists, self._policy)
        except Exception as error:  # noqa: BLE001  (each is applied alone now, and says itself what is wrong with it)
            self._failing.goes_on(error=type(error).__name__, where=places(error))
            return [None] * len(lists)
        self._failing.is_over()
        return applied
