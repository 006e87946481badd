"""The bell publisher: it sends messages on a thread of its own, so that a caller never waits for the broker.

The first bell after a rest goes out at once. Bells that are rung during the rest that follows become one message at its end: one
message stands for a burst. A message carries no id, so one that is lost, dropped or old costs nothing but a moment: workers look
by themselves.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from celery import Celery
from sqlalchemy.exc import SQLAlchemyError

from cardsync import broker, db, metrics
from cardsync.episodes import Episode
from cardsync.settings import Settings
from cardsync.threads import VitalThread
from workers.app import DEPLOYMENT_HEADER, WORK, create_app, is_elsewhere

# A worker that found work goes on looking, every few milliseconds, so that one message a rest is enough in any flood. A publish
# costs as much processor time as answering a hint.
REST_SECONDS: Final = 0.1
# After a failed publish, bells are dropped for this time: trying again for each bell would wait a second each time.
QUIET_SECONDS: Final = 2.0
CLOSE_SECONDS: Final = 3.0
EXPIRES_SECONDS: Final = 5.0  # by then workers have looked many times


class BellPublisher:
    """Rings for work. One for each process; ``close`` sends what is waiting, within a bound.

    ``deployment`` is asked on the publisher's thread for the deployment's name, until it is known: the web starts also while
    the database is away, and then there is nothing to ring for.
    """

    def __init__(self, settings: Settings, deployment: Callable[[], str]) -> None:
        self._settings = settings
        self._find_deployment = deployment
        self._app: Celery | None = None
        self._headers: dict[str, str] = {}
        self._is_rung = False
        self._woken = threading.Event()
        self._closing = threading.Event()
        self._quiet_until = 0.0
        self._not_rung = Episode("bells_not_rung")
        self._thread = VitalThread(self._run, name="bells", may_end=self._closing.is_set)
        self._thread.start()

    @property
    def are_in_vain(self) -> bool:
        """Whether the last bell did not go through; false before the first one."""
        return self._not_rung.is_on

    def ring(self) -> None:
        """Say that there is work; returns at once."""
        self._is_rung = True
        self._woken.set()

    def close(self) -> None:
        """Send what waits, for three seconds at the most, and end the thread."""
        self._closing.set()
        self._woken.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while True:
            self._woken.wait()
            self._woken.clear()
            is_rung, self._is_rung = self._is_rung, False
            try:
                if is_rung:
                    self._publish()
            except Exception as error:  # noqa: BLE001  (a thread's border: bells may be lost, their publisher not)
                metrics.RINGS.labels("failed").inc()
                self._not_rung.goes_on(error=type(error).__name__, why=_why(error))
            if self._closing.is_set() and not self._is_rung:
                return
            self._closing.wait(REST_SECONDS)

    def _celery(self) -> Celery:
        if self._app is None:
            deployment = self._find_deployment()
            self._headers = {DEPLOYMENT_HEADER: deployment}
            self._app = create_app(self._settings, deployment, publisher=True)
        return self._app

    def _follow_the_address(self) -> None:
        """Make the app again if a file holds another address now: a channel of Redis keeps the password that it was made with."""
        if self._app is not None and is_elsewhere(self._app):
            self._app.pool.force_close_all()
            self._app = None

    def _publish(self) -> None:
        if time.monotonic() < self._quiet_until:
            metrics.RINGS.labels("dropped").inc()
            return
        # Two tries: a pooled connection may have died while it was idle, and the second try opens a new one.
        for is_last in (False, True):
            try:
                # The text of the arguments, for monitors, costs more than sending them.
                self._celery().send_task(
                    WORK,
                    headers=self._headers,
                    retry=False,
                    expiration=EXPIRES_SECONDS,
                    argsrepr="",
                    kwargsrepr="",
                )
            except Exception as error:  # noqa: BLE001  (a thread's border; brokers' clients raise many kinds)
                if is_last:
                    self._follow_the_address()
                    self._quiet_until = time.monotonic() + QUIET_SECONDS
                    metrics.RINGS.labels("failed").inc()
                    self._not_rung.goes_on(error=type(error).__name__, why=_why(error))
            else:
                metrics.RINGS.labels("rung").inc()
                self._not_rung.is_over()
                return


def _why(error: Exception) -> str:
    """The broker's reason, in words of ours; the database's, where the deployment's name was asked for."""
    return f"the database: {db.why(error)}" if isinstance(error, SQLAlchemyError) else broker.why(error)
