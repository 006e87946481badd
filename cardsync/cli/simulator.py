"""``cardsync simulator``: the stand-in for Ottu alone, in the foreground, until SIGTERM, SIGINT or its duration.

Each knob is an option, made from the knob's description. A secret that the user gave is named and never printed. A secret that is
generated for this run is printed, because otherwise it could not be used.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import queue
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin
from urllib.parse import urlsplit

import click
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from cardsync.dev.simulator import Knobs, Simulator
from cardsync.dev.simulator.delivery import Delivery
from cardsync.dev.simulator.handlers import Handlers
from cardsync.dev.simulator.shoppers import ShopperEvent

DEFAULT_PORT: Final = 8100
SECRET_FILE_BYTES: Final = 4_096
_FILE: Final = click.Path(dir_okay=False, path_type=Path)

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
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=DEFAULT_PORT, show_default=True, help="0: any free port."
)
@click.option("--webhook-url", help="Where webhooks are sent; if not set, none are sent.")
@click.option(
    "--plugin-url",
    "plugin_urls",
    multiple=True,
    metavar="NAME=URL",
    help="Where the webhooks of payments by this plugin are sent instead. May repeat.",
)
@click.option("--operations-url", help="Where the webhooks of refunds, voids and captures are sent too.")
@click.option("--webhook-key", help="HMAC key of webhooks. [default: generated]")
@click.option("--webhook-key-file", type=_FILE, help="A file that holds it: other users see what a command line holds.")
@click.option("--api-key", help="The API key of callers. [default: generated]")
@click.option("--api-key-file", type=_FILE, help="A file that holds it.")
@click.option("--allow-host", "hosts", multiple=True, help="Another name that callers may use for it. May repeat.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed replays the same run.")
@click.option(
    "--rate", type=click.FloatRange(0, 1_000), default=0.0, show_default=True, help="Simulated actions per second."
)
@click.option(
    "--customers", type=click.IntRange(1, 1_000_000), default=20, show_default=True, help="Number of shoppers."
)
@click.option("--duration", type=click.FloatRange(0, min_open=True), help="Stop after this many seconds.")
@click.option("--state-file", type=click.Path(dir_okay=False, path_type=Path), help="Keep the cards here between runs.")
@_knob_options
def simulator(
    host: str,
    port: int,
    webhook_url: str | None,
    plugin_urls: tuple[str, ...],
    operations_url: str | None,
    webhook_key: str | None,
    webhook_key_file: Path | None,
    api_key: str | None,
    api_key_file: Path | None,
    hosts: tuple[str, ...],
    seed: int,
    rate: float,
    customers: int,
    duration: float | None,
    state_file: Path | None,
    **knobs: Any,
) -> None:
    """Run a stand-in for Ottu: its card list, its deletion, its signed webhooks, and shoppers.

    It takes no key from the settings: give it keys of its own.
    """
    plugins = dict(_plugin_url(given) for given in plugin_urls)
    for option, url in (("--webhook-url", webhook_url), ("--operations-url", operations_url)):
        if url is not None:
            _refuse_other_schemes(option, url)
    api_key = _secret("--api-key", api_key, api_key_file)
    webhook_key = _secret("--webhook-key", webhook_key, webhook_key_file)
    stand_in = Simulator(
        _knobs(knobs),
        seed,
        api_key,
        webhook_key,
        webhook_url,
        plugin_urls=plugins,
        operations_url=operations_url,
        host=host,
        port=port,
        hosts=hosts,
        customers=customers,
        on_event=_print_event,
        on_delivery=_print_failure if webhook_url or plugins or operations_url else None,
        state_file=state_file,
    )
    generated = {
        "OTTU_API_KEY": None if api_key else stand_in.api_key,
        "OTTU_WEBHOOK_KEYS": None if webhook_key else stand_in.webhook_key,
    }
    _run(stand_in, rate, generated, duration)


def _plugin_url(given: str) -> tuple[str, str]:
    name, _, url = given.partition("=")
    if not name or not url:
        raise click.BadParameter("must be NAME=URL", param_hint="--plugin-url")
    _refuse_other_schemes("--plugin-url", url)
    return name, url


def _refuse_other_schemes(option: str, url: str) -> None:
    if urlsplit(url).scheme not in ("http", "https"):
        raise click.BadParameter("must be an http or https URL", param_hint=option)


def _secret(option: str, value: str | None, file: Path | None) -> str | None:
    """The secret that an option or its file gives. The settings are not read: a real key has no place in a stand-in."""
    if file is None:
        return value
    if value is not None:
        raise click.UsageError(f"{option} and {option}-file are both given: keep one")
    try:
        found = file.read_text(encoding="utf-8").strip() if file.stat().st_size <= SECRET_FILE_BYTES else ""
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{option}-file cannot be read: {type(error).__name__}") from None
    if not found:
        raise click.UsageError(f"{option}-file must hold a secret of at most {SECRET_FILE_BYTES} bytes")
    return found


def _knobs(given: dict[str, Any]) -> Knobs:
    numbers = ("locked_status", "error_status")  # choices of numbers, which click returns as text
    try:
        return Knobs.model_validate({n: int(v) if n in numbers else v for n, v in given.items()})
    except ValidationError as error:
        first = error.errors()[0]
        option = f"--{str(first['loc'][0]).replace('_', '-')}" if first["loc"] else "the options"
        raise click.UsageError(f"{option}: {first['msg'].removeprefix('Value error, ')}") from None


def _run(
    stand_in: Simulator,
    rate: float,
    generated: dict[str, str | None],
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
        _print_start(stand_in, rate, generated)
        if rate > 0:  # only now, so that no action is printed before the addresses
            stand_in.start_shoppers(rate)
        with contextlib.suppress(queue.Empty):
            signals.get(timeout=duration)
    finally:
        stand_in.stop()
        for number, handler in earlier.items():
            signal.signal(number, handler)
    _print_end(stand_in)


def _print_start(stand_in: Simulator, rate: float, generated: dict[str, str | None]) -> None:
    click.echo("This is a stand-in for Ottu, not Ottu: it follows Ottu's documentation, and its cards are invented.")
    click.echo("Settings that point cardsync at it:")
    click.echo(f"  OTTU_BASE_URL={stand_in.base_url}")
    for name, value in generated.items():
        click.echo(f"  {name}={value}" if value else f"  {name}  as it was given")
    for text in _where_webhooks_go(stand_in.handlers):
        click.echo(text)
    click.echo(f"Seed {stand_in.seed}, {rate:g} actions a second. Ctrl-C stops it.")


def _where_webhooks_go(handlers: Handlers) -> Iterator[str]:
    if handlers.configured is not None:
        yield f"Webhooks go to {_without_secrets(handlers.configured)}"
    elif not handlers.plugins:
        yield "No webhooks are sent."
    for plugin, url in handlers.plugins.items():
        yield f"Webhooks of {plugin} go to {_without_secrets(url)}"
    if handlers.operations is not None:
        yield f"Webhooks of operations go to {_without_secrets(handlers.operations)} too"


def _without_secrets(url: str) -> str:
    """The address without a name, a password or a query: the user may have put secrets there."""
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
    if stand_in.handlers == Handlers():
        outcomes.clear()
    sent = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())) or "none"
    lists, deletes = (len(stand_in.calls(endpoint)) for endpoint in ("list", "delete"))
    click.echo(f"Stopped. Shoppers' actions: {stand_in.shoppers.number}. Webhooks: {sent}.")
    click.echo(f"Calls: {lists} list, {deletes} delete.")
