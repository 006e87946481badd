"""``cardsync dev``: all parts on this machine, in the foreground, until Ctrl-C, SIGTERM, or the end of a part."""

from __future__ import annotations

import click

from cardsync.cli import console


@click.command("dev")
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(1, 65_535), help="Port of web; if taken, the next."
)
@click.option(
    "--rate",
    default=0.5,
    show_default=True,
    type=click.FloatRange(0, 1_000, min_open=True),
    help="Simulated actions per second.",
)
@click.option(
    "--customers", default=20, show_default=True, type=click.IntRange(1, 1_000_000), help="Number of shoppers."
)
@click.option("--seed", default=1, show_default=True, type=int, help="Seed of the shoppers' actions.")
@click.option("--no-shoppers", is_flag=True, help="Run the stand-in for Ottu without shoppers.")
@click.option("--reset", is_flag=True, help="First remove the data of earlier runs.")
def dev(port: int, rate: float, customers: int, seed: int, no_shoppers: bool, reset: bool) -> None:
    """Run everything on this machine: database, broker, web, worker, beat, and a stand-in for Ottu.

    Services that you set yourself (CARDSYNC_DATABASE_URL, CARDSYNC_BROKER_URL, OTTU_...) are used instead of the embedded
    ones. If a part ends by itself, everything stops and says why. Data and logs are kept in CARDSYNC_DATA_DIR.
    """
    try:
        from cardsync.dev.live.screen import Screen
        from cardsync.dev.run.supervisor import Options, Supervisor
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "cardsync":
            raise
        console.fail(f"`cardsync dev` needs {error.name}: pip install 'cardsync[dev]'")
    options = Options(port=port, rate=rate, customers=customers, seed=seed, shoppers=not no_shoppers, reset=reset)
    Supervisor(options, Screen()).run()
