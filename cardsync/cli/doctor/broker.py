"""What ``cardsync doctor`` checks of the broker: that it signs us in, over verified TLS, that a worker gets its queues there, and
that no other deployment uses it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Engine

from cardsync import broker
from cardsync.cli import console
from cardsync.cli.doctor.check import Check
from cardsync.errors import Misconfigured
from cardsync.settings import Settings
from cardsync.store.ops.deployment import deployment_name

BROKER_SECONDS: Final = 2.0


def reachable(loaded: Settings) -> Check:
    """Whether the broker signs us in, over TLS that verifies its certificate where it is TLS."""
    if loaded.broker_url is None:
        return Check("broker", "skipped", "not set")
    try:
        address = broker.BrokerAddress.of(loaded)
        broker.ask(loaded, seconds=BROKER_SECONDS)
    except Misconfigured as error:
        return Check("broker", "failed", str(error), "correct the setting")
    except broker.BrokerUnusable as error:
        advice = "hints are still taken, and wait; see that it runs and CARDSYNC_BROKER_URL is right"
        return Check("broker", "failed", str(error), advice)
    if (trouble := _trouble(loaded)) is not None:
        return Check("broker", "failed", f"signs us in, but {trouble}", "docs/deployment/brokers.md lists the rights")
    if not address.is_verified:
        advice = (
            "take ssl_cert_reqs=none out of CARDSYNC_BROKER_URL; CARDSYNC_BROKER_CA_FILE may name your own authority"
        )
        return Check("broker", "warning", "signs us in, over TLS that verifies no certificate", advice)
    return Check("broker", "ok", "signs us in, takes a message and gives it back")


def _trouble(loaded: Settings) -> str | None:
    from workers import broker_check

    try:
        return broker_check.trouble(loaded)
    except Exception as error:  # noqa: BLE001  (brokers' clients raise many kinds)
        return f"it fell silent while it was tried ({type(error).__name__})"


def queues(engine: Engine, loaded: Settings) -> Iterator[Check]:
    """Say it if a worker would not get its queues: of RabbitMQ alone, where a queue has a kind."""
    if loaded.broker_url is None:
        return
    from workers import broker_check

    with engine.connect() as connection:
        ours = deployment_name(connection)
    try:
        refused = broker_check.refused_queues(loaded, ours)
    except Exception:  # noqa: BLE001  (brokers' clients raise many kinds; the check of the broker has told)
        return
    for name, why in refused.items():
        advice = "docs/deployment/brokers.md lists the rights"
        if why == broker_check.OTHER_KIND:
            advice = (
                "delete it, and a worker makes it again; only bells and ticks are in it, and nothing is lost with them"
            )
        yield Check("queues", "failed", f"{name} {why}", advice)


def neighbours(engine: Engine, loaded: Settings) -> Iterator[Check]:
    """Say it if another deployment uses the broker: queues are apart, but its load and its outages are shared."""
    if loaded.broker_url is None:
        return
    from workers import roll_call

    with engine.connect() as connection:
        ours = deployment_name(connection)
    try:
        others = roll_call.others(loaded, ours)
    except Exception:  # noqa: BLE001  (brokers' clients raise many kinds; the check of the broker has told)
        return
    if others:
        named = ", ".join(f"{name} ({console.rfc3339(at)})" for name, at in sorted(others.items()))
        advice = "give each deployment a broker, virtual host or database number of its own"
        yield Check("neighbours", "warning", f"other deployments use this broker: {console.printable(named)}", advice)
