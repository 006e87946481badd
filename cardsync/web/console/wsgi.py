"""The console's process, made from the settings: ``app`` for any WSGI server. ``close`` ends it.

Loaded once in each process, after any fork.
"""

from __future__ import annotations

import atexit
from typing import Final

from cardsync import db, log_lines, logs, settings
from cardsync.core import connections
from cardsync.db.connection_watchdog import WatchdogThread
from cardsync.web.console.app import create_app

STATEMENT_TIMEOUT_MS: Final = 1_000  # a person waits for a page, and its other regions stand without this one

_settings = settings.load("database")
logs.configure(_settings, "console")
# Two connections at most, one of them beyond the pool: whatever people look at, the registry's own work has the others. Each
# statement commits by itself; an action is one statement, a call of one function.
_place = _settings.database()
engine = db.make_engine(
    _place,
    name="cardsync console",
    pool_size=1,
    most=connections.CONSOLE,
    statement_timeout_ms=STATEMENT_TIMEOUT_MS,
    autocommit=True,
)
_watchdog = WatchdogThread(engine, place=_place)

app = create_app(_settings, engine=engine)
db.tell_of_another_schema_once_it_answers(engine)


def close() -> None:
    """Give the connections back. Once is enough; more does no harm."""
    _watchdog.close()
    engine.dispose()
    log_lines.flush()


atexit.register(close)
