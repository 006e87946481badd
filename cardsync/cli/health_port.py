"""``--health-port``: ``/livez``, ``/readyz`` and ``/metrics`` of a worker or beat, which else has no port, or a console."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from cardsync.settings import Settings


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the two options to a command."""
    port = click.option(
        "--health-port",
        type=click.IntRange(1, 65_535),
        help="Answer /livez, /readyz and /metrics there; by default CARDSYNC_HEALTH_PORT, or nowhere.",
    )
    host = click.option("--health-host", default="127.0.0.1", show_default=True, help="Address of that port.")
    return port(host(command))


@contextmanager
def served(loaded: Settings, kind: str, *, host: str, port: int | None) -> Iterator[None]:
    """Show what runs, and answer at the port while the process works, if one is set."""
    from cardsync import db, metrics  # after the place of the metrics is chosen

    metrics.say_what_runs(kind, db.newest_revision())
    port = port or loaded.health_port
    if port is None:
        yield
        return
    from cardsync.web.ops.process_server import serve_in_background

    close = serve_in_background(loaded, kind=kind, host=host, port=port)
    try:
        yield
    finally:
        close()
