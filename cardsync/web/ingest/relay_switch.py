"""Whether bodies are kept to be passed on: what this process knows of the endpoints that get notifications.

The truth stands in the database, and each statement that stores hints tells it (``store.intake``): a body that was not sent along
though an endpoint was added meanwhile is kept by a second statement, before the answer. So this switch only saves work: with
it off no body is compressed, encrypted or sent. While the database is away the switch stays as it was last told, at most half a
second before (``web.ingest.spool_drainer`` asks that often). A process that has never reached the database keeps bodies, on its
disk and encrypted: the drain drops them if no endpoint gets them.
"""

from __future__ import annotations


class RelaySwitch:
    """One for each application. Safe for threads: a single attribute is written."""

    __slots__ = ("is_on",)

    def __init__(self) -> None:
        self.is_on = True

    def told(self, is_relaying: bool) -> None:
        """Take what the database said last."""
        self.is_on = is_relaying
