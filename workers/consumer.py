"""Celery's consumer without the queues for delayed messages, and with quick reconnects to the broker.

On quorum queues Celery declares 28 more queues, to delay tasks in the broker. Our delays stand in the database (``due_at``), so
these queues would only cost memory and make an operator wonder. After a long outage Celery tries the broker every thirty seconds,
and there is no setting for that. A try costs nothing, and hints wait for it, so ours is every two seconds.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from celery.worker.consumer import Consumer

RETRY_FIRST_SECONDS: Final = 0.5
RETRY_SECONDS: Final = 2.0


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
