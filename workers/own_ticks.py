"""A worker's own ticks: while none is heard, it runs the schedule itself.

Ticks come from a beat through the broker, and both may be missing: no beat runs, the broker refuses, its memory or disk is full,
a Redis was demoted. The rows are the jobs, and the dispatcher finds those by itself; but sweeps, forgetting, inquiries and the
calendar have no row that rings. So a worker that heard no sweep's tick for ``UNHEARD_SECONDS`` runs each task as often as a beat
would send it, until it hears one again. Any number of workers may do so at once: the tasks take turns by locks in the database.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Final

import structlog
from celery import Celery
from celery.signals import task_prerun

from cardsync.threads import VitalThread
from workers.app import RUN_SWEEP
from workers.border import at_the_border

log = structlog.get_logger(__name__)

UNHEARD_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 0.5
CLOSE_SECONDS: Final = 1.0


class OwnTicks:
    """Runs the schedule of ``app`` on a thread of its own while no tick is heard, until ``close``."""

    def __init__(self, app: Celery, *, unheard_seconds: float = UNHEARD_SECONDS) -> None:
        self._app, self._unheard_seconds = app, unheard_seconds
        self._heard_at = time.monotonic()
        self._is_on = False
        self._ran_at: dict[str, float] = {}
        self._stopping = threading.Event()
        self._thread = VitalThread(self._run, name="own-ticks", may_end=self._stopping.is_set)
        task_prerun.connect(self._hear, weak=False)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def is_on(self) -> bool:
        """Whether it runs the schedule now."""
        return self._is_on

    def close(self) -> None:
        """Run no more; what runs goes on."""
        task_prerun.disconnect(self._hear)
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)

    def _hear(self, task: Any = None, **_: object) -> None:
        if task is not None and task.name == RUN_SWEEP and not task.request.is_eager:
            self._heard_at = time.monotonic()

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            with at_the_border("own_ticks"):
                self._look()

    def _look(self) -> None:
        is_on = time.monotonic() - self._heard_at >= self._unheard_seconds
        if is_on != self._is_on:
            self._is_on = is_on
            log.warning("no_ticks_heard" if is_on else "ticks_heard_again", runs_the_schedule_itself=is_on)
        if is_on:
            self._run_what_is_due()

    def _run_what_is_due(self) -> None:
        for entry in self._app.conf.beat_schedule.values():
            name, now = entry["task"], time.monotonic()
            if name in self._app.tasks and now - self._ran_at.get(name, float("-inf")) >= entry["schedule"]:
                self._ran_at[name] = now
                self._app.tasks[name].apply()  # its own border lets no failure pass
