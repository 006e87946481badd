"""``cardsync beat``: one beat in the foreground, until SIGTERM or SIGINT."""

from __future__ import annotations

import click

from cardsync import logs, metrics_files, settings


@click.command()
def beat() -> None:
    """Run one beat, which sends the schedule's ticks. Any number may run: one of them leads."""
    loaded = settings.load("database", "broker")
    metrics_files.prepare(loaded.data_dir)
    logs.configure(loaded, "beat")
    from workers.main import run_beat  # after the place of the metrics is chosen

    run_beat(loaded)
