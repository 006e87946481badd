"""``cardsync worker``: one worker in the foreground, until SIGTERM or SIGINT."""

from __future__ import annotations

import click

from cardsync import logs, metrics_multiprocess, settings, traces
from cardsync.cli import health_port as port_options


@click.command()
@click.option(
    "--no-broker",
    "without_broker",
    is_flag=True,
    help="Hear no bells and no ticks: look into the database, and run the schedule.",
)
@port_options.options
def worker(without_broker: bool, health_host: str, health_port: int | None) -> None:
    """Run one worker: it processes hints, reconciles customers with Ottu, and deletes cards."""
    if without_broker:
        loaded = settings.load("database", "secret", "ottu").model_copy(update={"broker_url": None})
    else:
        loaded = settings.load("database", "broker", "secret", "ottu")
    metrics_multiprocess.prepare(loaded.data_dir)
    logs.configure(loaded, "worker")
    traces.configure("worker")
    from workers.main import run_worker  # after the place of the metrics is chosen

    with port_options.served(loaded, "worker", host=health_host, port=health_port):
        run_worker(loaded)
