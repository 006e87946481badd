"""A process of ``cardsync dev``: the command ``cardsync ...``, tied to the life of the process that started it.

``python -P -m cardsync.dev.run.tethered DATA_DIRECTORY COMMAND...``, with a pipe as standard input whose other end the starter
holds. The promise: if the starter ends in any way, SIGKILL included, its end of the pipe closes, and this process stops as if it
had received SIGTERM. If it does not stop in time, it kills itself and all that it started. The directory is an argument so that a
later start finds processes that are still left.

Rejected: Linux's parent-death signal. It follows the thread that started us, and macOS has none.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from typing import Final

MODULE: Final = "cardsync.dev.run.tethered"
STOP_SECONDS: Final = 6.0  # between SIGTERM and SIGKILL


def main() -> None:
    """Run the command in this process."""
    threading.Thread(target=_stop_with_starter, name="starter", daemon=True).start()
    sys.argv = ["cardsync", *sys.argv[2:]]
    # Not an import: the command line is a layer above this package, and starts it.
    runpy.run_module("cardsync", run_name="__main__", alter_sys=True)


def _stop_with_starter() -> None:
    while os.read(sys.__stdin__.fileno() if sys.__stdin__ else 0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    if os.getpgrp() == os.getpid():  # as `cardsync dev` starts us: the group is ours alone
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main()
