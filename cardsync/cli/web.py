"""``cardsync web``: the web server in the foreground, one process that watches and N that answer, until SIGTERM or SIGINT.

The server is granian behind a proxy that ends TLS and buffers slow bodies. It starts without the database, since a hint
may arrive at any time; with a wrong setting, a wrong secret key or a taken port it does not start.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.util import Finalize
from typing import Any, Final

import click
import structlog

from cardsync import logs, metrics_files, settings
from cardsync.settings import Settings

log = structlog.get_logger(__name__)

# What runs at SIGTERM is bounded by its statements' time-outs and a reader's five seconds; then the process is killed.
STOP_SECONDS: Final = 10
BACKLOG: Final = 2_048  # connections that the kernel keeps until a process takes them
# Connections that one process holds. Each slow sender holds one for ten seconds, and then honest ones wait behind: granian's own
# choice, the backlog divided by the processes, let 2,000 of them stop all hints. What a connection costs is bounded below.
CONNECTIONS: Final = 4_096
HEADER_SECONDS: Final = 10  # the whole header, and between two requests of a connection; as the proxy has it
BUFFER_BYTES: Final = 65_536  # of a connection, and so the longest header: a longer one gets 431
OPEN_FILES: Final = 65_536  # what a process asks for, if its hard limit allows: a connection is one
RESPAWN_SECONDS: Final = 1.0
PARENT_POLL_SECONDS: Final = 1.0


@click.command("web")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65_535), help="0 takes a free one.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 64), help="Processes that answer.")
def web(host: str, port: int, workers: int) -> None:
    """Answer webhooks and the API, in the foreground."""
    found = settings.load("database", "broker", "secret", "webhook")
    logs.configure(found, "web")
    metrics_files.prepare(found.data_dir)
    _check_secret_if_the_database_answers(found)
    address, port = _free_address(host, port)
    click.echo(f"cardsync web: http://{_shown(address)}:{port} ({workers} processes of {found.web_threads} threads)")
    _raise_open_files()
    _serve(address, port, workers)


def _raise_open_files() -> None:
    """Let the processes hold their connections: many systems allow 1,024 files to who does not ask for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS allows less than its hard limit says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _check_secret_if_the_database_answers(found: Settings) -> None:
    """Raises ``Misconfigured`` for another database's secret key: every card would look new."""
    from sqlalchemy.exc import SQLAlchemyError

    from cardsync import db
    from cardsync.store.secret import check_secret

    assert found.database_url is not None
    engine = db.make_engine(found.database_url.get_secret_value(), name="cardsync web start", pool_size=1)
    try:
        with engine.begin() as connection:
            check_secret(connection, found.secret_bytes())
    except SQLAlchemyError as error:
        log.warning("database_away_at_start", error=type(error).__name__)
    finally:
        engine.dispose()  # before anything forks


def _free_address(host: str, port: int) -> tuple[str, int]:
    """Resolve the host, and make sure that nobody listens there.

    The server's processes share the port (``SO_REUSEPORT``), so that a second server would silently take half of the
    connections instead of failing.
    """
    try:
        family, _, _, _, wanted = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(wanted)
            probe.listen(1)
            return str(wanted[0]), int(probe.getsockname()[1])
    except OSError as error:
        raise click.ClickException(f"cannot listen at {_shown(host)}:{port}: {error.strerror}") from None


def _shown(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _serve(address: str, port: int, workers: int) -> None:
    from granian import Granian
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings
    from granian.log import LogLevels

    server = Granian(
        "cardsync.wsgi:front",
        address=address,
        port=port,
        interface=Interfaces.RSGI,
        http=HTTPModes.http1,
        websockets=False,
        workers=workers,
        backlog=BACKLOG,
        backpressure=CONNECTIONS,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_SECONDS * 1_000, max_buffer_size=BUFFER_BYTES),
        log_access=False,
        log_level=LogLevels.error,  # its warnings are advice about the settings above
        log_dictconfig=_OUR_LOGGING,
        respawn_failed_workers=True,
        respawn_interval=RESPAWN_SECONDS,
        workers_kill_timeout=STOP_SECONDS,
    )
    server.serve(target_loader=partial(_load, os.getpid()), wrap_loader=False)


# Granian's lines go to our own handlers.
_OUR_LOGGING: Final[dict[str, Any]] = {
    "formatters": {},
    "handlers": {},
    "loggers": {"_granian": {"handlers": [], "propagate": True}},
}


def _load(parent_id: int) -> Callable[..., Any]:
    """Make the application, in the process that answers."""
    threading.Thread(target=_follow, args=(parent_id,), name="parent", daemon=True).start()
    from cardsync import wsgi

    # A forked process of multiprocessing's runs these at its end, and not those of atexit.
    Finalize(None, wsgi.close, exitpriority=10)
    return wsgi.front.answer


def _follow(parent_id: int) -> None:
    """End with the parent: killed, it can tell nobody, and its processes would keep the port."""
    while os.getppid() == parent_id:
        time.sleep(PARENT_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
