"""The console's process, made from the settings: ``app`` for any WSGI server. ``close`` ends it.

Loaded once in each process, after any fork.
"""

from __future__ import annotations

import atexit
from typing import Final

from cardsync import db, log_lines, logs, settings
from cardsync.web.console.app import create_app

STATEMENT_TIMEOUT_MS: Final = 1_000  # a person waits for a page, and its other regions stand without this one

_settings = settings.load("database")
logs.configure(_settings, "console")
# Two connections at most, one of them beyond the pool: whatever people look at, the registry's own work has the others. Each
# statement commits by itself; an action is one statement, a call of one function.
_engine = db.make_engine(
    _settings.database(),
    name="cardsync console",
    pool_size=1,
    statement_timeout_ms=STATEMENT_TIMEOUT_MS,
    autocommit=True,
)

app = create_app(_settings, engine=_engine)


def close() -> None:
    """Give the connections back. Once is enough; more does no harm."""
    _engine.dispose()
    log_lines.flush()


atexit.register(close)
