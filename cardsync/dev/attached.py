"""A process of ``cardsync dev``: the command ``cardsync ...``, tied to the life of whoever started it.

``python -P -m cardsync.dev.attached DATA_DIRECTORY COMMAND...``, with a pipe as standard input, of which the starter holds the
other end. The promise: however the starter ends, SIGKILL included, its end of the pipe closes, and this process stops as if
told to; one that does not stop in time is killed, with all that it started. The directory is an argument so that a later
start finds what is still left of this one.

A pipe rather than Linux's parent-death signal: that one is bound to the thread that started us, and macOS has none.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from typing import Final

MODULE: Final = "cardsync.dev.attached"
STOP_SECONDS: Final = 6.0  # between being told to stop and being killed


def main() -> None:
    """Run the command in this process."""
    threading.Thread(target=_follow, name="starter", daemon=True).start()
    sys.argv = ["cardsync", *sys.argv[2:]]
    # Not an import: the command line stands above this package and starts it.
    runpy.run_module("cardsync", run_name="__main__", alter_sys=True)


def _follow() -> None:
    while os.read(sys.__stdin__.fileno() if sys.__stdin__ else 0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    if os.getpgrp() == os.getpid():  # as `cardsync dev` starts us: the group is ours alone
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main()
