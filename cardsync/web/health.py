"""``/livez``: the process answers. ``/readyz``: it can do its work, or which part cannot.

503 means that hints cannot be taken, or that the database is not this program's: its migrations, or the secret key, are wrong.
Without the broker, Ottu, or the database itself hints are still accepted and nothing is lost, so these are told and do not take
the process out of service: an orchestrator that did that would lose what it wants to save.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable
from typing import Final
from urllib.parse import unquote, urlsplit

from flask import Blueprint, Response
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from cardsync import db
from cardsync.errors import Misconfigured, SpoolUnusable
from cardsync.settings import Settings
from cardsync.spool import Spool
from cardsync.store import gate
from cardsync.store.gate import GateState
from cardsync.store.secret import check_secret
from cardsync.web.probes import NoAnswer, Probe
from cardsync.web.services import Services

KEEP_SECONDS: Final = 1.0
WAIT_SECONDS: Final = 1.0
BROKER_SECONDS: Final = 0.5
OK: Final = "ok"
NEEDED: Final = ("database", "migrations", "secret_key")
_UNKNOWN: Final = "unknown: the database does not answer"
_BROKER_PORTS: Final = {"amqp": 5672, "amqps": 5671, "redis": 6379, "rediss": 6379}


def blueprint(services: Services) -> Blueprint:
    """The two routes."""
    made = Blueprint("health", __name__)
    database = Probe(_database_checks(services.engine, services.settings), keep_seconds=KEEP_SECONDS)
    spool = Probe(lambda: _check_spool(services.spool), keep_seconds=KEEP_SECONDS)
    broker = Probe(lambda: _check_broker(services.settings), keep_seconds=KEEP_SECONDS)

    @made.get("/livez")
    def livez() -> Response:
        return Response('{"status": "alive"}', content_type="application/json")

    @made.get("/readyz")
    def readyz() -> Response:
        checks = _read(database) | {"spool": _in_words(spool), "broker": _in_words(broker)}
        if checks["database"] == OK and not services.reach.is_there:
            checks["database"] = "takes no hints at the moment"
        away = checks["database"] != OK
        ready = all(checks[name] == OK for name in (("spool",) if away else NEEDED))
        whole = all(checks[name] == OK for name in ("database", "spool", "broker"))
        status = "not ready" if not ready else "ready" if whole else "degraded"
        body = json.dumps({"status": status, "checks": checks})
        return Response(body, status=200 if ready else 503, content_type="application/json")

    return made


def _read(database: Probe[dict[str, str]]) -> dict[str, str]:
    unknown = {"migrations": _UNKNOWN, "secret_key": _UNKNOWN, "ottu": _UNKNOWN}
    try:
        return database.read(wait_seconds=WAIT_SECONDS)
    except NoAnswer:
        return {"database": f"no answer within {WAIT_SECONDS:g} s", **unknown}
    except SQLAlchemyError as error:
        return {"database": f"cannot be used: {type(error).__name__}", **unknown}


def _in_words(probe: Probe[str]) -> str:
    try:
        return probe.read(wait_seconds=WAIT_SECONDS)
    except NoAnswer:
        return f"no answer within {WAIT_SECONDS:g} s"


def _database_checks(engine: Engine, settings: Settings) -> Callable[[], dict[str, str]]:
    newest = db.newest_revision()

    def check() -> dict[str, str]:
        current = db.current_revision(engine)
        if db.is_behind(current):
            found = "not migrated" if current is None else f"at {current}, this program needs {newest}"
            why = "unknown: the database must be migrated first"
            return {"database": OK, "migrations": found, "secret_key": why, "ottu": why}
        return {"database": OK, "migrations": OK} | _check_gate(engine, settings)

    return check


def _check_gate(engine: Engine, settings: Settings) -> dict[str, str]:
    with engine.begin() as connection:
        try:
            check_secret(connection, settings.secret_bytes())
            secret = OK
        except Misconfigured as error:
            secret = str(error)
        state = gate.state(connection)
    if settings.ottu_cards_api == "unavailable":
        return {"secret_key": secret, "ottu": "not asked: OTTU_CARDS_API=unavailable"}
    return {"secret_key": secret, "ottu": _calls(state)}


def _calls(state: GateState) -> str:
    if state.paused_until is not None:
        return f"paused until {state.paused_until:%Y-%m-%dT%H:%M:%SZ}: {state.paused_because}"
    if state.paused_because is not None:
        return f"paused until a call succeeds: {state.paused_because}"
    if state.calls_per_second is not None:
        return f"limited to {state.calls_per_second:.1f} calls a second after a 429"
    return OK


def _check_spool(spool: Spool) -> str:
    try:
        spool.check()
    except SpoolUnusable as error:
        return str(error)
    return OK


def _check_broker(settings: Settings) -> str:
    """Whether something listens where the broker should be; a list of addresses is good if one of them is."""
    if settings.broker_url is None:
        return "not set"
    addresses = settings.broker_url.get_secret_value().split(";")
    return OK if any(_listens(address) for address in addresses) else "does not answer"


def _listens(url: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        parts = urlsplit(url)
        if parts.scheme == "redis+socket":
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(BROKER_SECONDS)
                client.connect(unquote(parts.path))
            return True
        address = (parts.hostname or "localhost", parts.port or _BROKER_PORTS.get(parts.scheme, 5672))
        socket.create_connection(address, timeout=BROKER_SECONDS).close()
        return True
    return False
