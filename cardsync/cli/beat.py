"""``cardsync beat``: one beat in the foreground, until SIGTERM or SIGINT."""

from __future__ import annotations

import click

from cardsync import logs, metrics_multiprocess, settings
from cardsync.cli import health_port as port_options


@click.command()
@port_options.options
def beat(health_host: str, health_port: int | None) -> None:
    """Run one beat, which sends the ticks of the schedule. Any number may run: one of them leads."""
    loaded = settings.load("database", "broker")
    metrics_multiprocess.prepare(loaded.data_dir)
    logs.configure(loaded, "beat")
    from workers.main import run_beat  # after the place of the metrics is chosen

    with port_options.served(loaded, "beat", host=health_host, port=health_port):
        run_beat(loaded)
