"""``/livez``: the process answers. ``/readyz``: it can do its work, or which part cannot.

503 means that hints cannot be accepted, or that the database is not this program's: its migrations, or the secret key, are wrong.
Without the broker, Ottu, or the database itself hints are still accepted and nothing is lost. So these parts are reported and do
not take the process out of service: an orchestrator that removed the process would lose the hints that it wants to save.

A clock of this host that is wrong makes a worker or a beat not ready: TLS of a worker and the ticks of a beat go by it, and no
requests are sent to them, so that 503 costs nothing and stops a rollout to such hosts. It makes a web not ready while a web of
another host, whose clock agrees with the database's, is at work and takes the hints. Otherwise that web is degraded: it decides
nothing by its clock, and where the database's clock is the wrong one, all webs would be taken out of service at once.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from flask import Blueprint, Response
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from cardsync import broker, db
from cardsync.errors import Misconfigured, SpoolUnusable
from cardsync.feed_watch import FeedWatch
from cardsync.settings import Settings
from cardsync.spool import Spool
from cardsync.store import feed, heartbeats, schedule
from cardsync.store.access.secret_keys import check_secret
from cardsync.store.calls import gate
from cardsync.store.calls.gate import GateState
from cardsync.web.cached_check import CachedCheck, NoAnswer
from cardsync.web.services import Services

KEEP_SECONDS: Final = 1.0
WAIT_SECONDS: Final = 1.0
BROKER_SECONDS: Final = 0.5  # for each step of signing in
BROKER_KEEP_SECONDS: Final = 3.0  # each question is a new connection, which RabbitMQ logs and counts
OK: Final = "ok"
NEEDED: Final = ("database", "migrations", "secret_key")
_ADVICE: Final[dict[gate.Reason, str]] = {
    "credentials": "none goes through: set a credential that Ottu takes; it goes on by itself within a minute",
    "down": "none goes through: Ottu does not answer; one call in 20 s finds out when it does",
    "throttled": "none goes through for a while: Ottu asked for time",
    "operator": "none goes through: an operator paused them, and resumes them in the console",
}
# There only where something is wrong with it.
WARNINGS: Final = frozenset(("sweep", "feed", "calls", "brake", "clock", *heartbeats.KINDS))
_OWN_CLOCK: Final = "this host: "  # where the check of clocks begins so, this host's is wrong
_ANOTHER_IS_RIGHT: Final = ", and right on another web's host"
_UNKNOWN: Final = "unknown: the database does not answer"


def blueprint(services: Services) -> Blueprint:
    """The two routes."""
    made = Blueprint("health", __name__)
    feed_watch = FeedWatch(services.settings.data_dir)
    database = _checked(_database_checks(services.engine, services.settings, feed_watch))
    spool = CachedCheck(lambda: _check_spool(services.spool), keep_seconds=KEEP_SECONDS)
    asked_broker = CachedCheck(lambda: _check_broker(services.settings), keep_seconds=BROKER_KEEP_SECONDS)

    made.add_url_rule("/livez", "livez", alive, methods=["GET"])

    @made.get("/readyz")
    def readyz() -> Response:
        checks = _read(database) | {"spool": _in_words(spool), "broker": _in_words(asked_broker)}
        if checks["database"] == OK and not services.database_breaker.is_closed:
            checks["database"] = services.database_breaker.trouble
        if checks["broker"] == OK and services.bells.are_in_vain:
            checks["broker"] = "signs us in, but the last bell did not go through"
        away = checks["database"] != OK
        ready = all(checks[name] == OK for name in (("spool",) if away else NEEDED))
        ready = ready and _ANOTHER_IS_RIGHT not in checks.get("clock", "")
        return _answer(checks, ready=ready, parts=("database", "spool", "broker"))

    return made


def of_worker(engine: Engine, settings: Settings) -> Blueprint:
    """The two routes of a worker or beat: they need database, broker and a right clock, and take no notifications."""
    made = Blueprint("health", __name__)
    database = _checked(_database_checks(engine, settings, FeedWatch(settings.data_dir)))
    asked_broker = CachedCheck(lambda: _check_broker(settings), keep_seconds=BROKER_KEEP_SECONDS)
    made.add_url_rule("/livez", "livez", alive, methods=["GET"])

    @made.get("/readyz")
    def readyz() -> Response:
        checks = _read(database) | {"broker": _in_words(asked_broker)}
        parts = () if settings.broker_url is None else ("broker",)  # `worker --no-broker` needs none
        ready = all(checks[name] == OK for name in (*NEEDED, *parts))
        ready = ready and not checks.get("clock", "").startswith(_OWN_CLOCK)
        return _answer(checks, ready=ready, parts=("database", *parts))

    return made


def of_console(engine: Engine) -> Blueprint:
    """The two routes of a console: it needs the database alone, of which its login sees a part."""
    made = Blueprint("health", __name__)
    made.add_url_rule("/livez", "livez", alive, methods=["GET"])

    def check() -> dict[str, str]:
        behind = db.is_behind(db.current_revision(engine))
        return {"database": OK, "migrations": "run: cardsync db upgrade" if behind else OK}

    database = _checked(check)

    @made.get("/readyz")
    def readyz() -> Response:
        checks = {name: said for name, said in _read(database).items() if name in ("database", "migrations")}
        return _answer(checks, ready=all(said == OK for said in checks.values()), parts=("database", "migrations"))

    return made


def alive() -> Response:
    """Answer ``/livez``."""
    return Response('{"status": "alive"}', content_type="application/json")


def _answer(checks: dict[str, str], *, ready: bool, parts: Sequence[str]) -> Response:
    whole = all(checks[name] == OK for name in parts) and not checks.keys() & WARNINGS
    status = "not ready" if not ready else "ready" if whole else "degraded"
    body = json.dumps({"status": status, "checks": checks})
    return Response(body, status=200 if ready else 503, content_type="application/json")


def _read(database: CachedCheck[dict[str, str]]) -> dict[str, str]:
    unknown = {"migrations": _UNKNOWN, "secret_key": _UNKNOWN, "ottu": _UNKNOWN}
    try:
        return database.read(wait_seconds=WAIT_SECONDS)
    except NoAnswer:
        return {"database": f"no answer within {WAIT_SECONDS:g} s", **unknown}
    except SQLAlchemyError as error:
        return {"database": f"cannot be used: {db.why(error)}", **unknown}


def _checked(check: Callable[[], dict[str, str]]) -> CachedCheck[dict[str, str]]:
    """The check, which a connection that died with the server, unnoticed in the pool, does not fail."""
    return CachedCheck(partial(db.once_more_if_the_connection_was_dead, check), keep_seconds=KEEP_SECONDS)


def _in_words(check: CachedCheck[str]) -> str:
    try:
        return check.read(wait_seconds=WAIT_SECONDS)
    except NoAnswer:
        return f"no answer within {WAIT_SECONDS:g} s"


def _database_checks(engine: Engine, settings: Settings, feed_watch: FeedWatch) -> Callable[[], dict[str, str]]:
    newest = db.newest_revision()

    def check() -> dict[str, str]:
        current = db.current_revision(engine)
        if db.is_behind(current):
            found = "not migrated" if current is None else f"at {current}, this program needs {newest}"
            why = "unknown: the database must be migrated first"
            return {"database": OK, "migrations": found, "secret_key": why, "ottu": why}
        return {"database": OK, "migrations": OK} | _check_gate(engine, settings, feed_watch)

    return check


def _check_gate(engine: Engine, settings: Settings, feed_watch: FeedWatch) -> dict[str, str]:
    with engine.begin() as connection:
        try:
            if settings.secret_key is not None:  # a beat has none, and needs none
                check_secret(connection, settings.key_ring())
            secret = OK
        except Misconfigured as error:
            secret = str(error)
        state, warnings = gate.state(connection), _standstill(schedule.last_sweep(connection))
        beats = heartbeats.read(connection)
        warnings |= _processes(beats) | _clocks(beats, connection)
        went_back = feed_watch.look(lambda: feed.head(connection))
    if state.brake_engaged_at is not None:
        warnings["brake"] = (
            f"removals are held since {state.brake_engaged_at:%Y-%m-%dT%H:%M:%SZ}: see cardsync brake show"
        )
    if went_back is not None:
        warnings["feed"] = f"{went_back}: see cardsync doctor"
    if settings.ottu_cards_api == "unavailable":
        return {"secret_key": secret, "ottu": "not asked: OTTU_CARDS_API=unavailable", **warnings}
    if state.reason is not None:
        warnings["calls"] = _ADVICE[state.reason]
    return {"secret_key": secret, "ottu": _calls(state), **warnings}


def _standstill(last: schedule.LastSweep | None) -> dict[str, str]:
    """What there is to say of sweeps: nothing while they run, or in a new deployment, where none ever ran."""
    if last is None or last.seconds_ago < schedule.STANDSTILL_SECONDS:
        return {}
    return {"sweep": f"none for {last.seconds_ago:.0f} s: is a beat running, and a worker?"}


def _processes(found: list[heartbeats.Heartbeat]) -> dict[str, str]:
    """What there is to say of workers and beats: which kind is not at work."""
    return dict.fromkeys(heartbeats.missing(found), f"none at work for {heartbeats.MISSED_AFTER_SECONDS:g} s")


def _clocks(found: list[heartbeats.Heartbeat], connection: Connection) -> dict[str, str]:
    """What there is to say of this host's clock and of those of other processes at work, against the database's.

    No decision compares two of them; what is wrong with them, others rely on.
    """
    wrong = [f"{one.process.host}: {one.clock_ahead_seconds:+.0f} s" for one in heartbeats.wrong_clocks(found)]
    ahead_seconds = (dt.datetime.now(dt.UTC) - db.moment(connection)).total_seconds()
    if abs(ahead_seconds) > heartbeats.CLOCK_SECONDS:
        another = _ANOTHER_IS_RIGHT if _is_right_elsewhere(found) else ""
        wrong.insert(0, f"{_OWN_CLOCK}{ahead_seconds:+.0f} s against the database's{another}")
    return {"clock": "; ".join(wrong[:3])} if wrong else {}


def _is_right_elsewhere(found: list[heartbeats.Heartbeat]) -> bool:
    """Whether a web is at work on another host whose clock agrees with the database's: of the three ours is the wrong one."""
    webs = [one for one in found if one.process.kind == "web" and not one.is_missed]
    return any(one.process.host != heartbeats.this_host() and one not in heartbeats.wrong_clocks(webs) for one in webs)


def _calls(state: GateState) -> str:
    if state.operator_pause is not None:  # who it was is for the console
        return f"paused since {state.operator_pause.since:%Y-%m-%dT%H:%M:%SZ}: {state.paused_because}"
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
    """Whether the broker signs us in, as a worker does; an open port alone is no broker of ours."""
    if settings.broker_url is None:
        return "not set"
    try:
        broker.ask(settings, seconds=BROKER_SECONDS)
    except (broker.BrokerUnusable, Misconfigured) as error:  # neither text holds the address
        return str(error)
    return OK
