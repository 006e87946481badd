"""Signatures that came in several bodies lately: what comes with one of them again waits for a write of its own.

A body whose signature came before costs the database three statements, a fresh one costs one. In one batch the fresh ones would
wait for that. So each process remembers which signatures it saw come again, and gives further bodies of these to another writer,
which writes at most ``1 / REST_SECONDS`` times a second, however many come. An honest body that Ottu sends again waits no longer
than that. The memory only chooses the writer: what is a repeat, the database decides.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

# Between two writes. A flood then shares ten commits a second; the first body after a quiet while waits for nothing.
REST_SECONDS: Final = 0.1
SIGNATURES_MAX: Final = 4_096  # of 32 bytes; of more, those that came least lately are forgotten


class KnownRepeats:
    """Which signatures came again, in this process; for any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def __contains__(self, signature_hash: bytes | None) -> bool:
        return signature_hash is not None and signature_hash in self._seen

    def add(self, signature_hash: bytes | None) -> None:
        """Note that a body with this signature was a repeat."""
        if signature_hash is None:
            return
        with self._lock:
            self._seen[signature_hash] = None
            self._seen.move_to_end(signature_hash)
            if len(self._seen) > SIGNATURES_MAX:
                self._seen.popitem(last=False)
