"""Celery's consumer without the queues for delayed messages.

On quorum queues Celery declares 28 more of them, to delay tasks in the broker. Our delays stand in the database (``due_at``), so
they would only cost the broker memory, and an operator a question.
"""

from __future__ import annotations

from celery.worker.consumer import Consumer


class PlainConsumer(Consumer):  # type: ignore[misc]  # Celery has no types
    """Celery's consumer, without its step for delayed delivery."""

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        """The same steps in the same order, less one."""

        default_steps = tuple(s for s in Consumer.Blueprint.default_steps if not s.endswith(":DelayedDelivery"))
