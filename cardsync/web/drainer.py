"""The thread of a web process that empties the spool: within a second of the database's return, and for whichever process."""

from __future__ import annotations

import threading
from typing import Final

import structlog
from sqlalchemy.exc import SQLAlchemyError

from cardsync.drain import drain
from cardsync.errors import Misconfigured
from cardsync.web.services import Services
from cardsync.web.steadylog import SteadyLog

log = structlog.get_logger(__name__)

EVERY_SECONDS: Final = 0.5  # looking costs reading one folder, which is empty
STOP_SECONDS: Final = 2.0  # for one batch; what is left waits for the next process


class Drainer:
    """Drains from its making until ``close``, and has the connections watched over for as long."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._secret = services.settings.secret_bytes()
        self._stopping = threading.Event()
        self._trouble = SteadyLog(1)
        self._thread = threading.Thread(target=self._run, name="drainer", daemon=True)
        services.reach.start()
        self._thread.start()

    def close(self) -> None:
        """Stop after the batch that is under way."""
        self._stopping.set()
        self._thread.join(STOP_SECONDS)
        self._services.reach.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            if self._services.reach.is_there:
                self._drain()
            self._stopping.wait(EVERY_SECONDS)

    def _drain(self) -> None:
        here = self._services
        try:
            done = drain(
                here.ingest_engine,
                here.spool,
                secret=self._secret,
                ring=here.bells.ring_events,
                rest=self._stopping.wait,
            )
        except SQLAlchemyError as error:
            here.reach.lost(error)
        except (Misconfigured, OSError) as error:  # neither text holds content; an operator sees to it
            self._trouble.warning("spool_not_drained", error=type(error).__name__, why=str(error))
        else:
            if done.drained or done.bad:
                log.info("spool_drained", drained=done.drained, bad=done.bad)
