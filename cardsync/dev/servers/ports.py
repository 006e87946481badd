"""Ports of 127.0.0.1 for the embedded servers.

The promise: two processes of one user that look for a port at the same time never get the same one. That a port is free tells
only about now: between the look and the server's start another process may look too. So a process takes whole blocks of ports,
each under a lock that ends with it, and gives every port of a block out once before it takes the next block.
"""

from __future__ import annotations

import itertools
import os
import random
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cardsync.dev.servers.errors import ServiceError
from cardsync.files import Lock, LockHeld, make_private_folder

# Below the ranges from which Linux (32768-60999) and macOS (49152-65535) take the local ports of outgoing
# connections. Otherwise a client that tries again and again while its server is down can get the server's own
# port, and connect to itself.
PORTS: Final = range(20_000, 32_000)
BLOCK: Final = 50
PORT_ATTEMPTS: Final = 100


class PortBlocks:
    """The blocks of ports that this process holds until it ends, and the port that is next."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._locks: list[Lock] = []
        self._ports: Iterator[int] = iter(())
        self._guard = threading.Lock()

    def next(self) -> int:
        """The next port; whether it is free is not looked at. With no block left, any port: better than none."""
        with self._guard:
            port = next(self._ports, None)
            if port is None:
                self._ports = iter(self._block() or random.sample(PORTS, BLOCK))
                port = next(self._ports)
            return port

    def _block(self) -> range | None:
        starts = list(PORTS)[::BLOCK]
        try:
            make_private_folder(self._folder)
            for start in random.sample(starts, len(starts)):
                try:
                    self._locks.append(Lock.take(self._folder / str(start)))
                except LockHeld:
                    continue
                return range(start, start + BLOCK)
        except OSError:  # a full disk, or a folder of this name that is somebody else's
            pass
        return None


def _blocks_of_this_process() -> PortBlocks:
    return PortBlocks(Path(tempfile.gettempdir()) / f"cardsync-ports-{os.getuid()}")


_blocks = _blocks_of_this_process()


def _forget_the_parents_blocks() -> None:
    global _blocks
    _blocks = _blocks_of_this_process()


os.register_at_fork(after_in_child=_forget_the_parents_blocks)


def free_port() -> int:
    """Return a port of 127.0.0.1 on which no server listens. Raises ``ServiceError`` if none is found."""
    for candidate in itertools.islice(iter(_blocks.next, None), PORT_ATTEMPTS):
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
