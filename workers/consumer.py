"""Celery's consumer without the queues for delayed messages, with quick reconnects to the broker, and one line when it is lost.

On quorum queues Celery declares 28 more queues, to delay tasks in the broker. Our delays stand in the database (``due_at``), so
these queues would only cost memory and make an operator wonder. After a long outage Celery tries the broker every thirty seconds,
and there is no setting for that. A try costs nothing, and hints wait for it, so ours is every two seconds. Celery logs each try,
with the text of the client's error; ours is one line when the broker is lost, in our own words, and one when it is back.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, Final

from celery.worker.consumer import Consumer
from celery.worker.consumer.consumer import CONNECTION_ERROR, CONNECTION_RETRY

from cardsync.broker import why
from cardsync.episodes import Episode

RETRY_FIRST_SECONDS: Final = 0.5
RETRY_SECONDS: Final = 2.0

_lost: Final = Episode("broker_lost")


def _is_no_try(record: logging.LogRecord) -> bool:
    """Let all of Celery's lines pass but those about one try to connect, or a connection that broke: these are counted."""
    args = record.args if isinstance(record.args, tuple) else ()
    if record.msg != CONNECTION_ERROR and CONNECTION_RETRY not in args:
        return True
    error = next((arg for arg in args if isinstance(arg, BaseException)), None)
    _lost.goes_on(why="unknown" if error is None else why(error))
    return False


logging.getLogger("celery.worker.consumer.consumer").addFilter(_is_no_try)


class PlainConsumer(Consumer):  # type: ignore[misc]  # Celery has no types
    """Celery's consumer, without its step for delayed delivery."""

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        """The same steps in the same order, without one of them."""

        default_steps = tuple(s for s in Consumer.Blueprint.default_steps if not s.endswith(":DelayedDelivery"))

    def ensure_connected(self, conn: Any) -> Any:
        """Try to connect at least every two seconds, for as long as it takes."""
        conn.ensure_connection = partial(
            conn.ensure_connection,
            interval_start=RETRY_FIRST_SECONDS,
            interval_step=RETRY_FIRST_SECONDS,
            interval_max=RETRY_SECONDS,
        )
        return super().ensure_connected(conn)

    def on_ready(self) -> None:
        """Take messages from now on."""
        _lost.is_over()
        super().on_ready()
