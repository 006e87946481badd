"""``cardsync worker``: one worker in the foreground, until SIGTERM or SIGINT."""

from __future__ import annotations

import click

from cardsync import logs, metrics_files, settings


@click.command()
def worker() -> None:
    """Run one worker: it folds hints into what is to be looked at, and asks Ottu."""
    loaded = settings.load("database", "broker", "secret", "ottu")
    metrics_files.prepare(loaded.data_dir)
    logs.configure(loaded, "worker")
    from workers.main import run_worker  # after the place of the metrics is chosen

    run_worker(loaded)
