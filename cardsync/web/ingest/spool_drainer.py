"""The thread of a web process that empties the spool: within a second of the database's return, whichever process wrote it.

It also asks whether bodies are kept to be passed on, so that the spool keeps them if the database goes away, and whether the
server went back: then it brings in what was acknowledged lately (``stories.bring_in``). It says, once when it begins and once
when it ends, that the spool is not drained, or fills.

Rule: the thread outlives every error. One that ended would leave hints on the disk, answered with success, until a restart.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from typing import Final

import structlog
from sqlalchemy.exc import SQLAlchemyError

from cardsync import db
from cardsync.episodes import Episode
from cardsync.errors import Misconfigured, SpoolUnusable, places
from cardsync.store.deliveries import bodies
from cardsync.stories.bring_in import BringIn
from cardsync.stories.drain import Drained, drain
from cardsync.stories.forget import forget_set_aside
from cardsync.threads import VitalThread
from cardsync.web.services import Services

log = structlog.get_logger(__name__)

EVERY_SECONDS: Final = 0.5  # looking costs reading one folder, which is empty
FORGET_EVERY_SECONDS: Final = 60.0  # records that were set aside: past their time, or of a person who was erased
# A folder of 100,000 files takes some tenths of a second to look at: it is looked at again after ten times as long.
LOOK_EVERY_SECONDS: Final = 5.0
LOOK_REST: Final = 10.0
FILLS_FROM: Final = (
    0.5  # of its room, as the alert has it; the episode ends at half of that, so that it does not flicker
)
STOP_SECONDS: Final = 2.0  # for one batch; what is left waits for the next process


class SpoolDrainer:
    """Drains from its making until ``close``, and has the connections watched over for as long."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._ring = services.ring
        self._bring_in = BringIn(services.ingest_engine, services.kept, services.spool)
        self._stopping = threading.Event()
        self._not_drained = Episode("spool_not_drained", level="error")
        self._fills = Episode("spool_filling", level="error")
        self._forget_at = self._look_at = float("-inf")
        self._thread = VitalThread(self._run, name="drainer", may_end=self._stopping.is_set)
        services.database_breaker.start()
        self._thread.start()

    def close(self) -> None:
        """Stop after the batch that is under way."""
        self._stopping.set()
        self._thread.join(STOP_SECONDS)
        self._services.database_breaker.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._look_at_room()
                if self._services.database_breaker.is_closed:
                    self._drain()
            except Exception as error:  # noqa: BLE001  (a thread's border; its text may hold what a hint says)
                self._not_drained.goes_on(error=type(error).__name__, where=places(error))
            self._stopping.wait(EVERY_SECONDS)

    def _drain(self) -> None:
        here = self._services
        try:
            done = self._empty()
            self._bring_in.look(self._empty)
            self._forget()
            with here.ingest_engine.connect() as connection:
                here.relay.told(bodies.is_relaying(connection))
                here.clock.told(db.moment(connection))
        except SQLAlchemyError as error:
            here.database_breaker.trip(error)
        except (Misconfigured, SpoolUnusable, OSError) as error:  # no text holds content; an operator sees to it
            self._not_drained.goes_on(error=type(error).__name__, why=str(error))
        else:
            self._not_drained.is_over()
            if done != Drained():
                log.info("spool_drained", drained=done.drained, bad=done.bad, erased=done.erased)

    def _empty(self) -> Drained:
        here = self._services
        rest, kept = self._stopping.wait, here.kept
        return drain(here.ingest_engine, here.spool, keys=self._ring, kept=kept, ring=here.bells.ring, rest=rest)

    def _look_at_room(self) -> None:
        """Say that the room on disk runs out, and later that there is room again, whether the database is there or not."""
        began = time.monotonic()
        if began < self._look_at:
            return
        try:
            usage = self._services.spool.state().usage
        except OSError:  # told by the next hint that goes there, and by /readyz
            usage = 0.0
        ended = time.monotonic()
        self._look_at = ended + max(LOOK_EVERY_SECONDS, LOOK_REST * (ended - began))
        is_on = usage > (FILLS_FROM / 2 if self._fills.is_on else FILLS_FROM)
        self._fills.note(is_on, usage=round(usage, 2))

    def _forget(self) -> None:
        if time.monotonic() < self._forget_at:
            return
        self._forget_at = time.monotonic() + FORGET_EVERY_SECONDS
        here = self._services
        forget_set_aside(
            here.ingest_engine, here.spool, content_days=here.settings.inbox_content_days, now=dt.datetime.now(dt.UTC)
        )
