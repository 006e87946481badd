"""``cardsync web``: the web server in the foreground, one process that watches and N that answer, until SIGTERM or SIGINT.

The server is granian behind a proxy that ends TLS and buffers slow bodies. It starts without the database, since a hint
may arrive at any time; with a wrong setting, a wrong secret key or a taken port it does not start.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.synchronize import Event
from multiprocessing.util import Finalize
from typing import Any, Final

import click
import structlog

from cardsync import logs, metrics_multiprocess, settings
from cardsync.errors import Misconfigured
from cardsync.settings import Settings
from cardsync.threads import VitalThread

log = structlog.get_logger(__name__)

# What runs at SIGTERM is bounded by its statements' time-outs and a reader's five seconds; then the process is killed.
STOP_SECONDS: Final = 10
BACKLOG: Final = 2_048  # connections that the kernel keeps until a process takes them
# Connections that one process holds. Each slow sender holds one for ten seconds, and honest senders then wait behind it. With
# granian's own choice, the backlog divided by the processes, 2,000 slow senders stopped all hints. The cost of a connection is
# bounded below.
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
@click.option(
    "--drain-seconds",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 300),
    help="At SIGTERM, answer 503 at /readyz and still take hints for this long: what a balancer needs to notice.",
)
def web(host: str, port: int, workers: int, drain_seconds: float) -> None:
    """Answer webhooks and the API, in the foreground."""
    found = settings.load("database", "broker", "secret", "webhook")
    logs.configure(found, "web")
    for line in found.warnings():
        log.warning("setting_looks_wrong", why=line)
    metrics_multiprocess.prepare(found.data_dir)
    _refuse_cluster(found)
    _check_secret_if_the_database_answers(found)
    address, port = free_address(host, port)
    log.info("web_started", url=f"http://{shown(address)}:{port}", processes=workers, threads=found.web_threads)
    _raise_open_files()
    _serve(address, port, workers, drain_seconds)


def _raise_open_files() -> None:
    """Raise the limit of open files, so that the processes can hold their connections: many systems begin with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS allows less than its hard limit says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _refuse_cluster(found: Settings) -> None:
    """Raises ``Misconfigured`` for a broker that cannot carry a bell: a Redis Cluster, a file of TLS that cannot be read."""
    from cardsync.broker import refuse_cluster

    refuse_cluster(found)


def _check_secret_if_the_database_answers(found: Settings) -> None:
    """Raises ``Misconfigured`` for a server that cannot be used, or another database's secret key: every card would look new."""
    from sqlalchemy.exc import SQLAlchemyError

    from cardsync import db
    from cardsync.store.access.secret_keys import check_secret

    assert found.database_url is not None
    engine = db.make_engine(found.database(), name="cardsync web start", pool_size=1)
    try:
        with engine.begin() as connection:
            check_secret(connection, found.key_ring())
        db.tell_of_another_schema(engine)
    except SQLAlchemyError as error:
        if (why := db.unusable(error)) is not None:
            raise Misconfigured(why) from None
        log.warning("database_away_at_start", error=type(error).__name__, why=db.why(error))
    finally:
        engine.dispose()  # before anything forks


def free_address(host: str, port: int) -> tuple[str, int]:
    """Resolve the host, and make sure that no other server listens there.

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
        raise click.ClickException(f"cannot listen at {shown(host)}:{port}: {error.strerror}") from None


def shown(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _serve(address: str, port: int, workers: int, drain_seconds: float) -> None:
    from granian import Granian
    from granian.constants import HTTPModes, Interfaces, Loops
    from granian.http import HTTP1Settings
    from granian.log import LogLevels

    server = Granian(
        "cardsync.wsgi:dispatcher",
        address=address,
        port=port,
        interface=Interfaces.RSGI,
        loop=Loops.auto if sys.platform == "win32" else Loops.uvloop,  # asyncio's own takes a fifth more for a hint
        http=HTTPModes.http1,
        websockets=False,
        workers=workers,
        backlog=BACKLOG,
        backpressure=CONNECTIONS,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_SECONDS * 1_000, max_buffer_size=BUFFER_BYTES),
        log_access=False,
        log_level=LogLevels.error,  # its warnings are advice about the settings above
        log_dictconfig=OUR_LOGGING,
        respawn_failed_workers=True,
        respawn_interval=RESPAWN_SECONDS,
        workers_kill_timeout=STOP_SECONDS,
    )
    leaving = multiprocessing.Event()
    _leave_first(server, leaving, drain_seconds)
    server.serve(target_loader=partial(_load, os.getpid(), leaving), wrap_loader=False)


def _leave_first(server: Any, leaving: Event, drain_seconds: float) -> None:
    """Let the first SIGTERM tell the processes, and begin the drain; its end or a second one is the stop.

    Granian installs the handler found here, and lets each process answer what it has begun. What waits ends once it is told.

    A timer of the kernel's: to start a thread in a signal's handler could wait for a lock that the interrupted code holds.
    """
    stop = server.signal_handler_interrupt

    def leave(*given: object) -> None:
        if leaving.is_set() or not drain_seconds:
            leaving.set()
            stop(*given)
            return
        leaving.set()
        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, drain_seconds)

    server.signal_handler_interrupt = leave


# Granian's lines go to our own handlers.
OUR_LOGGING: Final[dict[str, Any]] = {
    "formatters": {},
    "handlers": {},
    "loggers": {"_granian": {"handlers": [], "propagate": True}},
}


def _load(parent_id: int, leaving: Event) -> Callable[..., Any]:
    """Make the application, in the process that answers."""
    follow_in_background(parent_id)
    from cardsync import wsgi

    wsgi.dispatcher.is_leaving = leaving.is_set
    # A forked process of multiprocessing's runs these at its end, and not those of atexit.
    Finalize(None, wsgi.close, exitpriority=10)
    # What was loaded stays for good. A collection that walks over all of it holds up every payer for a tenth of a second.
    gc.collect()
    gc.freeze()
    return wsgi.dispatcher.answer


def follow_in_background(parent_id: int) -> None:
    """End with the parent, whatever else this process does."""
    VitalThread(lambda: follow(parent_id), name="parent", may_end=lambda: os.getppid() != parent_id).start()


def follow(parent_id: int) -> None:
    """End with the parent: a parent that is killed cannot tell its processes, and they would keep the port."""
    while os.getppid() == parent_id:
        time.sleep(PARENT_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
