"""``cardsync console``: the operators' console in the foreground, one process, until SIGTERM or SIGINT.

The server is granian, behind a proxy that ends TLS. It starts without the database, and says so on its pages; with a wrong
setting or a taken port it does not start.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from multiprocessing.util import Finalize
from typing import Any, Final

import click
import structlog

from cardsync import logs, metrics_multiprocess, settings
from cardsync.cli import health_port as port_options
from cardsync.cli import web as web_command
from cardsync.settings import CONSOLE_PORT

log = structlog.get_logger(__name__)

# People are few. With two connections to the database more threads would only wait for each other.
THREADS: Final = 4
CONNECTIONS: Final = 256
BACKLOG: Final = 256


@click.command("console")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port", default=CONSOLE_PORT, show_default=True, type=click.IntRange(0, 65_535), help="0 takes a free one."
)
@port_options.options
def console_command(host: str, port: int, health_host: str, health_port: int | None) -> None:
    """Run the operators' console, in the foreground.

    Let people in with `cardsync operators invite`. Where browsers find it stands in CARDSYNC_CONSOLE_URL.
    """
    found = settings.load("database")
    logs.configure(found, "console")
    metrics_multiprocess.prepare(found.data_dir)
    address, free = web_command.free_address(host, port)
    log.info("console_started", url=f"http://{web_command.shown(address)}:{free}")
    with port_options.served(found, "console", host=health_host, port=health_port):
        _serve(address, free)


def _serve(address: str, port: int) -> None:
    from granian import Granian
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings
    from granian.log import LogLevels

    server = Granian(
        "cardsync.web.console.wsgi:app",
        address=address,
        port=port,
        interface=Interfaces.WSGI,
        http=HTTPModes.http1,
        websockets=False,
        workers=1,
        blocking_threads=THREADS,
        backlog=BACKLOG,
        backpressure=CONNECTIONS,
        http1_settings=HTTP1Settings(
            header_read_timeout=web_command.HEADER_SECONDS * 1_000, max_buffer_size=web_command.BUFFER_BYTES
        ),
        log_access=False,
        log_level=LogLevels.error,
        log_dictconfig=web_command.OUR_LOGGING,
        respawn_failed_workers=True,
        respawn_interval=web_command.RESPAWN_SECONDS,
        workers_kill_timeout=web_command.STOP_SECONDS,
    )
    server.serve(target_loader=partial(_load, os.getpid()), wrap_loader=False)


def _load(parent_id: int) -> Callable[..., Any]:
    """Make the application, in the process that answers."""
    web_command.follow_in_background(parent_id)
    from cardsync.core import connections
    from cardsync.web.console import wsgi
    from workers.heart import Heart, this_process

    heart = Heart(wsgi.engine, this_process("console"), connections=connections.of_console())
    heart.start()
    Finalize(None, heart.close, exitpriority=20)
    # A forked process of multiprocessing's runs these at its end, and not those of atexit.
    Finalize(None, wsgi.close, exitpriority=10)
    return wsgi.app
