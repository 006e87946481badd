"""Ports of 127.0.0.1 for the embedded servers."""

from __future__ import annotations

import random
import socket
from typing import Final

from cardsync.dev.errors import ServiceError

# Below the ranges from which Linux (32768-60999) and macOS (49152-65535) take the local ports of outgoing
# connections: a client that keeps knocking while its server is down can otherwise be handed the server's own
# port, and connect to itself.
PORTS: Final = range(20_000, 32_000)
PORT_ATTEMPTS: Final = 100


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens. Raises ``ServiceError`` if none is found."""
    for candidate in random.sample(PORTS, PORT_ATTEMPTS):
        if is_free(candidate):
            return candidate
    raise ServiceError(f"no free port on 127.0.0.1 among {PORT_ATTEMPTS} tried")


def is_free(port: int) -> bool:
    """Tell whether a server could listen on that port of 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a closed connection may linger
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
