"""``/livez``, ``/readyz`` and ``/metrics`` of a worker, a beat, or a console, whose own port is for people.

A small server on a thread of its own, with connections of its own: a worker whose threads are all busy still answers. It is for
an orchestrator and Prometheus on a private network, and has no other route.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import structlog
from flask import Flask
from werkzeug.serving import WSGIRequestHandler, make_server

from cardsync import db
from cardsync.core import connections
from cardsync.db.connection_watchdog import WatchdogThread
from cardsync.errors import Misconfigured
from cardsync.settings import Settings
from cardsync.threads import VitalThread
from cardsync.web import headers, responses
from cardsync.web.ops import health, metrics

log = structlog.get_logger(__name__)

CLOSE_SECONDS: Final = 2.0


class _Quiet(WSGIRequestHandler):
    """Without a line for each request, and without the server's own name."""

    timeout = 10  # seconds that a request may take to arrive

    def log(self, *_: object, **__: object) -> None:
        """Write nothing."""


def serve_in_background(settings: Settings, *, kind: str, host: str, port: int) -> Callable[[], None]:
    """Begin to answer; return what ends it. Raises ``Misconfigured`` for an address that cannot be listened at."""
    engine = db.make_engine(settings.database(), name=f"cardsync {kind} health", pool_size=1, most=connections.HEALTH)
    app = Flask("cardsync.health", static_folder=None, template_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    responses.register(app)
    headers.register(app)
    app.register_blueprint(health.of_console(engine) if kind == "console" else health.of_worker(engine, settings))
    app.register_blueprint(metrics.blueprint(engine, settings))
    try:
        server = make_server(host, port, app, threaded=True, request_handler=_Quiet)
    except (OSError, SystemExit):  # werkzeug ends the process for a port that is taken
        raise Misconfigured(f"the health port cannot be listened at: {host}:{port}") from None
    watchdog = WatchdogThread(engine, place=None)
    closing = threading.Event()
    thread = VitalThread(server.serve_forever, name="health", may_end=closing.is_set)
    thread.start()
    log.info("health_served", port=server.server_port)

    def close() -> None:
        closing.set()
        server.shutdown()
        thread.join(CLOSE_SECONDS)
        server.server_close()
        watchdog.close()
        engine.dispose()

    return close
