"""``cardsync dev``: everything on this machine, in the foreground, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import click

from cardsync.cli import console


@click.command("dev")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65_535), help="Web's; taken: the next.")
@click.option("--rate", default=0.5, show_default=True, type=click.FloatRange(0, 1_000, min_open=True), help="Deeds/s.")
@click.option("--customers", default=20, show_default=True, type=click.IntRange(1, 1_000_000), help="Shoppers.")
@click.option("--seed", default=1, show_default=True, type=int, help="Of what the shoppers do.")
@click.option("--no-shoppers", is_flag=True, help="Let nobody act at the stand-in for Ottu.")
def dev(port: int, rate: float, customers: int, seed: int, no_shoppers: bool) -> None:
    """Run everything on this machine: database, broker, web, worker, beat, and a stand-in for Ottu.

    What you set yourself (CARDSYNC_DATABASE_URL, CARDSYNC_BROKER_URL, OTTU_...) is used instead of its embedded
    counterpart. Data and logs are kept in CARDSYNC_DATA_DIR.
    """
    try:
        from cardsync.dev.screen import Screen
        from cardsync.dev.supervisor import Options, Supervisor
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "cardsync":
            raise
        console.fail(f"`cardsync dev` needs {error.name}: pip install 'cardsync[dev]'")
    options = Options(port=port, rate=rate, customers=customers, seed=seed, shoppers=not no_shoppers)
    Supervisor(options, Screen()).run()
