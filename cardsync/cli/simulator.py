"""``cardsync simulator``: the stand-in for Ottu alone, in the foreground, until SIGTERM, SIGINT or its
duration.

One option for each knob, made from the knobs' own descriptions. A secret that the user gave is named and
never printed; one that is made up for this run is printed, or nobody could use it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import queue
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin
from urllib.parse import urlsplit

import click
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from cardsync import settings
from cardsync.dev.simulator import Knobs, Simulator
from cardsync.dev.simulator.delivery import Delivery
from cardsync.dev.simulator.shoppers import ShopperEvent
from cardsync.errors import Misconfigured

DEFAULT_PORT: Final = 8100

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _knob_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, knob in reversed(Knobs.model_fields.items()):
        command = _knob_option(name, knob)(command)
    return command


def _knob_option(name: str, knob: FieldInfo) -> Decorator:
    flag, kind = f"--{name.replace('_', '-')}", knob.annotation
    if kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=knob.default, help=knob.description)
    if get_origin(kind) is Literal:
        choices = [str(value) for value in get_args(kind)]
        return click.option(
            flag,
            name,
            type=click.Choice(choices),
            default=str(knob.default),
            show_default=True,
            help=knob.description,
        )
    plain = next((k for k in (kind, *get_args(kind)) if k in (int, float, str)), str)
    return click.option(flag, name, type=plain, default=knob.default, show_default=True, help=knob.description)


@click.command("simulator")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65_535), default=DEFAULT_PORT, show_default=True, help="0: any.")
@click.option("--webhook-url", help="Where webhooks are sent; without it, none are.")
@click.option("--webhook-key", help="Their HMAC key. [default: the first of OTTU_WEBHOOK_KEYS, or made up]")
@click.option("--api-key", help="The key that callers must have. [default: OTTU_API_KEY, or made up]")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed replays the same run.")
@click.option("--rate", type=click.FloatRange(0, 1_000), default=0.0, show_default=True, help="Shoppers' actions/s.")
@click.option("--customers", type=click.IntRange(1, 1_000_000), default=20, show_default=True, help="Shoppers.")
@click.option("--duration", type=click.FloatRange(0, min_open=True), help="Stop after so many seconds.")
@click.option("--state-file", type=click.Path(dir_okay=False, path_type=Path), help="Keep the cards here between runs.")
@_knob_options
def simulator(
    host: str,
    port: int,
    webhook_url: str | None,
    webhook_key: str | None,
    api_key: str | None,
    seed: int,
    rate: float,
    customers: int,
    duration: float | None,
    state_file: Path | None,
    **knobs: Any,
) -> None:
    """Run a stand-in for Ottu: its card list, its deletion, its signed webhooks, and shoppers."""
    if webhook_url is not None and urlsplit(webhook_url).scheme not in ("http", "https"):
        raise click.BadParameter("must be an http or https URL", param_hint="--webhook-url")
    known_api_key, known_webhook_key = _known_keys()
    stand_in = Simulator(
        _knobs(knobs),
        seed,
        api_key or known_api_key,
        webhook_key or known_webhook_key,
        webhook_url,
        host=host,
        port=port,
        customers=customers,
        on_event=_print_event,
        on_delivery=_print_failure if webhook_url else None,
        state_file=state_file,
    )
    made_up = {
        "OTTU_API_KEY": None if api_key or known_api_key else stand_in.api_key,
        "OTTU_WEBHOOK_KEYS": None if webhook_key or known_webhook_key else stand_in.webhook_key,
    }
    _run(stand_in, rate, made_up, webhook_url, duration)


def _known_keys() -> tuple[str | None, str | None]:
    """The keys of the settings, where there are any. A malformed setting ends the command with one line."""
    try:
        known = settings.load()
    except Misconfigured as error:
        raise click.UsageError(str(error)) from None
    keys = known.webhook_keys()
    return known.ottu_api_key.get_secret_value() if known.ottu_api_key else None, keys[0] if keys else None


def _knobs(given: dict[str, Any]) -> Knobs:
    numbers = ("locked_status", "error_status")  # choices among numbers, which click hands over as text
    try:
        return Knobs.model_validate({n: int(v) if n in numbers else v for n, v in given.items()})
    except ValidationError as error:
        first = error.errors()[0]
        option = f"--{str(first['loc'][0]).replace('_', '-')}" if first["loc"] else "the options"
        raise click.UsageError(f"{option}: {first['msg'].removeprefix('Value error, ')}") from None


def _run(
    stand_in: Simulator,
    rate: float,
    made_up: dict[str, str | None],
    webhook_url: str | None,
    duration: float | None,
) -> None:
    # Not an Event: a handler that sets one can interrupt the very thread that holds its lock.
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    earlier = {
        number: signal.signal(number, lambda came, _: signals.put(came)) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        stand_in.start()
    except OSError as error:
        raise click.ClickException(f"cannot listen: {error.strerror or error}") from None
    try:
        _print_start(stand_in, rate, made_up, webhook_url)
        if rate > 0:  # only now, so that the first shopper does not speak before we do
            stand_in.start_shoppers(rate)
        with contextlib.suppress(queue.Empty):
            signals.get(timeout=duration)
    finally:
        stand_in.stop()
        for number, handler in earlier.items():
            signal.signal(number, handler)
    _print_end(stand_in)


def _print_start(stand_in: Simulator, rate: float, made_up: dict[str, str | None], webhook_url: str | None) -> None:
    click.echo("This is a stand-in for Ottu, not Ottu: it follows Ottu's documentation, and its cards are invented.")
    click.echo("Settings that point cardsync at it:")
    click.echo(f"  OTTU_BASE_URL={stand_in.base_url}")
    for name, value in made_up.items():
        click.echo(f"  {name}={value}" if value else f"  {name}  as it was given")
    click.echo(f"Webhooks go to {_without_secrets(webhook_url)}" if webhook_url else "No webhooks are sent.")
    click.echo(f"Seed {stand_in.seed}, {rate:g} actions a second. Ctrl-C stops it.")


def _without_secrets(url: str) -> str:
    """The address without a name, a password or a query, which are whatever the user put there."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _print_event(event: ShopperEvent) -> None:
    when = dt.datetime.fromtimestamp(event.at, dt.UTC).astimezone().strftime("%H:%M:%S")
    card = f" ({event.card})" if event.card else ""
    click.echo(f"{when}  {event.environment:10}  {event.customer_id}  {event.action}{card}")


def _print_failure(delivery: Delivery) -> None:
    if delivery.outcome != "delivered":
        status = f" {delivery.status}" if delivery.status else ""
        click.echo(f"          webhook {delivery.number} ({delivery.label}): {delivery.outcome}{status}", err=True)


def _print_end(stand_in: Simulator) -> None:
    outcomes = Counter(delivery.outcome for delivery in stand_in.deliveries())
    if stand_in.courier.url is None:
        outcomes.clear()
    sent = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())) or "none"
    lists, deletes = (len(stand_in.calls(endpoint)) for endpoint in ("list", "delete"))
    click.echo(f"Stopped. Shoppers' actions: {stand_in.shoppers.number}. Webhooks: {sent}.")
    click.echo(f"Calls: {lists} list, {deletes} delete.")
