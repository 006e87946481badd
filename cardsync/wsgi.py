"""The web process, made from the settings: ``app`` for any WSGI server, ``front`` for ``cardsync web``. ``close`` ends it.

Loaded once in each process, after any fork: a connection shared by two processes answers the wrong one.
"""

from __future__ import annotations

import atexit

from cardsync import logs, metrics_files, settings

_settings = settings.load("database", "broker", "secret", "webhook")
metrics_files.prepare(_settings.data_dir)

# Only now: what counts anything chooses its storage at import.
from cardsync import db  # noqa: E402
from cardsync.web import create_app, create_drainer, create_front  # noqa: E402
from cardsync.web.reach import INGEST_CONNECTIONS, WRITE_SECONDS  # noqa: E402
from workers.app import create_app as create_celery  # noqa: E402
from workers.bells import Ringer  # noqa: E402

logs.configure(_settings, "web")
assert _settings.database_url is not None
_url = _settings.database_url.get_secret_value()
_ingest_engine = db.make_engine(
    _url,
    name="cardsync webhook",
    pool_size=max(INGEST_CONNECTIONS, _settings.web_threads),
    statement_timeout_ms=int(WRITE_SECONDS * 1_000),
    autocommit=True,
)
_engine = db.make_engine(_url, name="cardsync web", pool_size=_settings.web_threads)
_bells = Ringer(create_celery(_settings, publisher=True))

app = create_app(_settings, ingest_engine=_ingest_engine, engine=_engine, bells=_bells)
front = create_front(app)
_drainer = create_drainer(app)


def close() -> None:
    """Send the bells that wait, within a bound, and give the connections back. Once is enough; more does no harm."""
    front.close()
    _drainer.close()
    _bells.close()
    _ingest_engine.dispose()
    _engine.dispose()


atexit.register(close)
