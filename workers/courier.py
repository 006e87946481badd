"""The courier's thread: deliveries to endpoints of the merchant's, beside the worker's tasks.

It is a lane of its own: it takes none of the worker's threads, so that no slow endpoint holds up a hint, and no rush of hints
holds up a delivery. It claims as the dispatcher does: rows that are due, the oldest first, with SKIP LOCKED, and only as many as
may be under way. Any number of workers may run: what each claims no other one has.

Rejected: kinds of work of the dispatcher's (``workers.dispatch.kinds``), which give each claimed job a thread until it is done.
A look needs its thread for one call. A delivery does nothing but wait, up to ten seconds, and eight to each endpoint may wait at
once: two slow endpoints would fill all the threads of a worker, and the kept threads of a kind are one or two, which one slow
endpoint would fill for all the others. Here the waiting is the sender's, on an event loop, and what ends together is settled in
one transaction with the next claim: a turn is two or three statements for any number of deliveries, where a job for each would
be two transactions for each.

Rule: the thread outlives every error. A worker without it would deliver nothing, and look well.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Final

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from cardsync import db
from cardsync.ciphers import KeyRing
from cardsync.episodes import Episode
from cardsync.errors import places
from cardsync.outgoing import Sender
from cardsync.stories.deliver import Courier
from cardsync.threads import VitalThread

LOOK_EVERY_SECONDS: Final = 0.25  # while there are endpoints: two or three statements that indexes answer
QUIET_SECONDS: Final = 1.0  # without any: one statement
TROUBLE_SECONDS: Final = 2.0
CLOSE_SECONDS: Final = 2.0  # for what is under way; what is left is due again when its claim runs out


class CourierThread:
    """Delivers until ``close``. ``engine`` is its own."""

    def __init__(self, engine: Engine, ring: KeyRing) -> None:
        self._engine = engine
        self._sender = Sender()
        self._courier = Courier(engine, ring, self._sender)
        self._waits = Episode("deliveries_wait_for_the_database")
        self._fails = Episode("delivery_turn_failed", level="error")
        self._stopping = threading.Event()
        self._thread = VitalThread(self._run, name="courier", may_end=self._stopping.is_set)
        self._thread.start()

    def close(self) -> None:
        """Claim nothing more, settle what ends within a moment, and end."""
        self._stopping.set()
        self._courier.woken.set()
        self._thread.join(CLOSE_SECONDS + 1.0)
        self._sender.close()
        with contextlib.suppress(SQLAlchemyError):
            self._engine.dispose()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._courier.woken.wait(self._turn(claim=True))
        until = time.monotonic() + CLOSE_SECONDS
        while self._courier.under_way and time.monotonic() < until:
            self._courier.woken.wait(min(LOOK_EVERY_SECONDS, self._turn(claim=False)))

    def _turn(self, *, claim: bool) -> float:
        """One turn, and the seconds until the next one unless something ends before."""
        try:
            turn = self._courier.turn(claim=claim)
        except SQLAlchemyError as error:
            self._waits.goes_on(error=type(error).__name__, why=db.why(error))
        except Exception as error:  # noqa: BLE001  (a thread's border; its text may hold what a message says)
            self._fails.goes_on(error=type(error).__name__, where=places(error))
        else:
            self._waits.is_over()
            self._fails.is_over()
            return LOOK_EVERY_SECONDS if turn.any_endpoint else QUIET_SECONDS
        self._stopping.wait(TROUBLE_SECONDS)
        return LOOK_EVERY_SECONDS
