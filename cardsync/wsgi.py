"""The web process, made from the settings: ``app`` for any WSGI server, ``dispatcher`` for ``cardsync web``. ``close`` ends it.

Loaded once in each process, after any fork: a connection shared by two processes answers the wrong one. Under gunicorn, for
example: ``gunicorn --worker-class gthread --threads 16 --workers 2 cardsync.wsgi:app``, without ``--preload``.
"""

from __future__ import annotations

import atexit
import os
import signal
import time

from cardsync import log_lines, logs, metrics_multiprocess, settings, threads, traces

_settings = settings.load("database", "broker", "secret", "webhook")
metrics_multiprocess.prepare(_settings.data_dir)

# Only now: what counts anything chooses its storage at import.
from cardsync import db, metrics  # noqa: E402
from cardsync.core import connections  # noqa: E402
from cardsync.store.ops.deployment import deployment_name  # noqa: E402
from cardsync.web import create_app, create_dispatcher, create_drainer  # noqa: E402
from cardsync.web.database_breaker import INGEST_CONNECTIONS, WRITE_SECONDS  # noqa: E402
from cardsync.web.services import Services  # noqa: E402
from workers.heart import Heart, this_process  # noqa: E402
from workers.publisher import BellPublisher  # noqa: E402

logs.configure(_settings, "web")
traces.configure("web")
metrics.say_what_runs("web", db.newest_revision())
_url = _settings.database()
_most = connections.of_web(_settings.web_threads, _settings.database_connections)
_ingest_engine = db.make_engine(
    _url,
    name="cardsync webhook",
    pool_size=max(INGEST_CONNECTIONS, _settings.web_threads),
    most=_most.hints,
    statement_timeout_ms=int(WRITE_SECONDS * 1_000),
    autocommit=True,
)
_engine = db.make_engine(_url, name="cardsync web", pool_size=_settings.web_threads, most=_most.readers)


def _deployment() -> str:
    with _engine.connect() as connection:
        return deployment_name(connection)


_bells = BellPublisher(_settings, _deployment)

app = create_app(_settings, ingest_engine=_ingest_engine, engine=_engine, bells=_bells)
dispatcher = create_dispatcher(app)
_drainer = create_drainer(app)
db.tell_of_another_schema_once_it_answers(_engine)
_breaker = Services.of_app(app).database_breaker
_heart = Heart(_engine, this_process("web"), connections=_most.all, is_there=lambda: _breaker.is_closed)
_heart.start()


def close() -> None:
    """Send the bells that wait, within a bound, and give the connections back. Once is enough; more does no harm."""
    dispatcher.close()
    _drainer.close()
    _bells.close()
    _heart.close()
    _ingest_engine.dispose()
    _engine.dispose()
    log_lines.flush()


def _stop_politely() -> None:
    """A thread is gone, and the requests under way still end: a hint that is not answered is never sent again."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(threads.BEFORE_END_SECONDS)


threads.before_end(_stop_politely)
atexit.register(close)
