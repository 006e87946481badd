"""The doctor's checks of who could read along: on the way to the database and the broker, and in the database's own log."""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from sqlalchemy import Engine

from cardsync.broker import TLS_SCHEMES
from cardsync.cli.doctor.check import Check
from cardsync.sentinels import are_sentinels
from cardsync.settings import Settings
from cardsync.store.ops import server

_PRIVATE_NETWORK: Final = "or see that no stranger is on that network (docs/deployment.md)"


def database_way(engine: Engine) -> Check:
    """Whether the session to the database is encrypted, and the server's certificate verified, if it leaves this host."""
    with engine.connect() as connection:
        encrypted = server.session_is_encrypted(connection)
        info = connection.connection.driver_connection.info  # type: ignore[union-attr]  # psycopg's
        host, mode = info.host, info.get_parameters().get("sslmode", "prefer")
    if _stays_here(host):
        return Check("database way", "ok", "on this host")
    if not encrypted:
        advice = f"add sslmode=verify-full and sslrootcert to CARDSYNC_DATABASE_URL, {_PRIVATE_NETWORK}"
        return Check("database way", "warning", "leaves this host without TLS: tokens can be read on the way", advice)
    if mode not in ("verify-ca", "verify-full"):
        advice = f"add sslmode=verify-full and sslrootcert to CARDSYNC_DATABASE_URL, {_PRIVATE_NETWORK}"
        return Check("database way", "warning", f"over TLS that verifies no certificate (sslmode={mode})", advice)
    return Check("database way", "ok", "over TLS that verifies the server")


def broker_way(loaded: Settings) -> Check:
    """Whether the way to the broker is encrypted if it leaves this host. It carries ids alone, and the broker's password."""
    if loaded.broker_url is None:
        return Check("broker way", "skipped", "not set")
    url = loaded.broker_url.get_secret_value()
    addresses = [urlsplit(one) for one in url.split(";")]
    # Where a sentinel is says nothing of where the master is.
    if not are_sentinels(url) and all(_stays_here(address.hostname or "localhost") for address in addresses):
        return Check("broker way", "ok", "on this host")
    if any(address.scheme not in TLS_SCHEMES for address in addresses):
        advice = f"use amqps://, rediss:// or sentinels:// in CARDSYNC_BROKER_URL, {_PRIVATE_NETWORK}"
        return Check(
            "broker way", "warning", "leaves this host without TLS: its password can be read on the way", advice
        )
    return Check("broker way", "ok", "over TLS")


def database_log(engine: Engine) -> Check:
    """Whether the server would write parameters of statements, or rows, into its log: both hold tokens."""
    with engine.connect() as connection:
        found = server.logging_settings(connection)
    told = []
    logs_statements = found.get("log_statement") in ("mod", "all") or any(
        float(found.get(name, "-1")) >= 0 for name in ("log_min_duration_statement", "log_min_duration_sample")
    )
    if float(found.get("log_transaction_sample_rate", "0")) > 0:
        logs_statements = True
    if logs_statements and found.get("log_parameter_max_length") != "0":
        told.append("parameters of statements")
    if (
        float(found.get("auto_explain.log_min_duration", "-1")) >= 0
        and found.get("auto_explain.log_parameter_max_length") != "0"
    ):
        told.append("parameters of explained statements")
    if found.get("log_error_verbosity") != "terse":
        told.append("rows, in the details of errors")
    if not told:
        return Check("database log", "ok", "holds no values")
    advice = (
        "as a superuser, for each login: ALTER ROLE ... SET log_parameter_max_length = 0, log_error_verbosity = terse"
    )
    return Check("database log", "warning", f"the server writes into its log: {'; '.join(told)}", advice)


def _stays_here(host: str) -> bool:
    """Whether a host is this one: a socket, ``localhost``, or a loopback address."""
    if host == "localhost" or host.startswith(("/", "@")):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
