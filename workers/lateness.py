"""What stands or is late though nothing fails: an operator's pause, forgetting, and endpoints of the merchant's.

The beat that leads looks, on its own thread. No single action knows that all of it together is too slow, or that a person has
ended a state, so nothing would say so in the log. One process looks, so that a deployment has one line when it begins and one
when it ends. A beat that takes the lead over says once more what is late then. A worker that runs the schedule itself looks too.

Rule: the thread outlives every error. It needs no time of the beat's loop, whose lease lasts for 2.5 s.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Final

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from cardsync.episodes import Episode, Level
from cardsync.errors import places
from cardsync.store import retention
from cardsync.store.calls import gate
from cardsync.store.deliveries import endpoints
from cardsync.threads import VitalThread

LOOK_EVERY_SECONDS: Final = 10.0  # four statements that indexes answer
DAY_SECONDS: Final = 86_400
CONTENT_SPARE_DAYS: Final = 3  # beyond the promise, as the alert has it: forgetting goes on batch by batch
ENDPOINT_LATE_SECONDS: Final = 600.0  # longer than a deployment of what answers there


class Lateness:
    """Which episodes are on. ``content_days`` is how long a settled notification may say which customer it is about."""

    def __init__(self, engine: Engine, *, content_days: int) -> None:
        self._engine, self._content_days = engine, content_days
        self._paused = Episode("calls_paused_by_operator")
        self._forgetting = Episode("forgetting_behind")
        self._endpoints: dict[str, Episode] = {}
        self._disabled: dict[str, Episode] = {}

    def look(self) -> None:
        """Look once. Raises ``SQLAlchemyError``; then nothing has changed."""
        with self._engine.connect() as connection:
            pause = gate.state(connection).operator_pause
            ages, lags = retention.ages(connection), endpoints.lags(connection)
            disabled = endpoints.disabled(connection)
        if pause is None:
            self._paused.is_over()
        else:
            self._paused.goes_on(since=pause.since.isoformat())
        days = ages.content_seconds / DAY_SECONDS
        self._forgetting.note(
            days > self._content_days + CONTENT_SPARE_DAYS, oldest_days=round(days, 1), promised_days=self._content_days
        )
        late = {one.name: one for one in lags if one.is_enabled and one.oldest_pending_seconds > ENDPOINT_LATE_SECONDS}
        for name, one in late.items():
            episode = self._endpoints.setdefault(name, Episode("endpoint_behind"))
            episode.goes_on(endpoint=name, oldest_seconds=round(one.oldest_pending_seconds), changes=one.behind)
        for name in self._endpoints.keys() - late.keys():
            self._endpoints.pop(name).is_over(endpoint=name)
        for name, because in disabled.items():
            level: Level = "warning" if because == "operator" else "error"  # an operator knows
            episode = self._disabled.setdefault(name, Episode("endpoint_disabled", level=level))
            episode.goes_on(endpoint=name, because=because)
        for name in self._disabled.keys() - disabled.keys():
            self._disabled.pop(name).is_over(endpoint=name)

    def forget(self) -> None:
        """Another process looks now: what is late there is told by that one."""
        self._paused, self._forgetting = Episode("calls_paused_by_operator"), Episode("forgetting_behind")
        self._endpoints.clear()
        self._disabled.clear()


class LatenessThread:
    """Looks until ``close``, while ``leads`` says that this process is the one to do it."""

    def __init__(self, lateness: Lateness, leads: Callable[[], bool]) -> None:
        self._lateness, self._leads = lateness, leads
        self._not_seen = Episode("lateness_not_seen", level="error")
        self._stopping = threading.Event()
        self._thread = VitalThread(self._run, name="lateness", may_end=self._stopping.is_set)
        self._thread.start()

    def close(self) -> None:
        """Look no more; a look that is under way ends by itself."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_EVERY_SECONDS):
            try:
                self._turn()
            except Exception as error:  # noqa: BLE001  (a thread's border)
                self._not_seen.goes_on(error=type(error).__name__, where=places(error))
            else:
                self._not_seen.is_over()

    def _turn(self) -> None:
        if not self._leads():
            self._lateness.forget()
            return
        with contextlib.suppress(SQLAlchemyError):  # the database is away: those who need it say so
            self._lateness.look()
