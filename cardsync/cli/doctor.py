"""``cardsync doctor``: is everything there that the processes need, and what to do where it is not.

It changes nothing, but for one call to Ottu, which is counted in the budget, and of whose end the gate before Ottu hears.
Every look has a bound in time.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import secrets
from collections.abc import Callable, Iterator
from typing import Final

import click
from rich.console import Console
from rich.text import Text
from sqlalchemy import Engine, text

from cardsync import db
from cardsync.cli import console, disk
from cardsync.cli.checks import Check, Status
from cardsync.core.breaker import word_of
from cardsync.errors import BudgetSpent, CallsPaused, CardsyncError, CredentialsRefused, Misconfigured, Transient
from cardsync.settings import Need, Settings
from cardsync.store import audits, budget, gate, operator
from cardsync.store.gate import GateState
from cardsync.store.secret import check_secret

BROKER_SECONDS: Final = 2.0
CLOCK_SECONDS: Final = 2.0  # a larger difference makes logs of several hosts hard to read; nothing worse
OLDEST_POSTGRESQL: Final = 15
# Surely fewer than this served right: more than a long round of sweeps leaves behind. 5,000,000 customers are seen every 70 days;
# if one in a hundred deletes a card a month, half a round later 1.2 % are wrong.
RIGHT_SHARE: Final = 0.98
OPERATOR: Final = 0  # whose call it is, for the gate: no customer's
NEEDS: Final[tuple[Need, ...]] = ("database", "broker", "secret", "webhook", "ottu")

MARKS: Final[dict[Status, tuple[str, str]]] = {
    "ok": ("✓", "green"),
    "warning": ("!", "yellow"),
    "failed": ("✗", "bold red"),
    "skipped": ("-", "dim"),
}


@click.command()
@click.option("--offline", is_flag=True, help="Don't call Ottu.")
@console.json_option
def doctor(offline: bool, as_json: bool) -> None:
    """Check settings, services, clock and credentials; say what to do. Makes one call to Ottu."""
    shown = Console()
    checks = []
    for check in _checks(offline):
        checks.append(check)
        if not as_json:
            _print(check, shown)
    failed = sum(check.status == "failed" for check in checks)
    warnings = sum(check.status == "warning" for check in checks)
    if as_json:
        listed = [dataclasses.asdict(check) for check in checks]
        console.print_json({"failed": failed, "warnings": warnings, "checks": listed})
    if failed:
        console.fail(f"{failed} of {len(checks)} checks failed")


def _print(check: Check, shown: Console) -> None:
    if shown.is_terminal:
        mark, style = MARKS[check.status]
        shown.print(Text.assemble((f"{mark} {check.name:<12} ", style), check.found))
        if check.advice:
            shown.print(Text(f"  {'':<12} → {check.advice}", "italic"))
    else:
        advice = f"; {check.advice}" if check.advice else ""
        click.echo(f"{check.status}\t{check.name}\t{check.found}{advice}")


def _checks(offline: bool) -> Iterator[Check]:
    try:
        loaded = console.load()
    except Misconfigured as error:
        yield Check("settings", "failed", str(error), "correct it; the other checks need the settings")
        return
    missing = list(_missing())
    yield from missing or [Check("settings", "ok", "all that the processes need is set")]
    yield disk.data_folder(loaded.data_dir)
    yield disk.spool(loaded)
    yield _broker(loaded)
    if loaded.database_url is None:
        yield Check("database", "skipped", "not set")
        return
    with console.engine(loaded) as engine:
        database = list(_database(engine))
        yield from database
        usable = all(check.status != "failed" for check in database)
        if not usable:
            return

        def state() -> Iterator[Check]:
            yield from _shared_state(engine, loaded)
            yield _drift(engine, loaded)
            yield _ottu(engine, loaded, offline)

        yield from _guarded("database", "ask as the worker does; the web's login may make no call (--offline)", state)


def _missing() -> Iterator[Check]:
    for need in NEEDS:
        try:
            console.load(need)
        except Misconfigured as error:
            yield Check("settings", "failed", str(error), "set it in the environment or in .env")


def _broker(loaded: Settings) -> Check:
    if loaded.broker_url is None:
        return Check("broker", "skipped", "not set")
    from kombu.connection import Connection

    # For Redis the time-outs are options of the transport.
    options = {"socket_timeout": BROKER_SECONDS, "socket_connect_timeout": BROKER_SECONDS, "max_retries": 0}
    url = loaded.broker_url.get_secret_value()
    try:
        with Connection(url, connect_timeout=BROKER_SECONDS, transport_options=options) as broker:  # type: ignore[no-untyped-call]
            broker.ensure_connection(max_retries=1, timeout=BROKER_SECONDS)
    except Exception as error:  # noqa: BLE001  (brokers' clients raise many kinds; their texts may hold the password)
        found = f"does not answer ({type(error).__name__})"
        advice = "hints are still taken, and wait; see that it runs and CARDSYNC_BROKER_URL is right"
        return Check("broker", "failed", found, advice)
    return Check("broker", "ok", "answers")


_SERVER = text("""
    SELECT current_setting('server_version_num')::int / 10000 AS version, current_setting('fsync') AS fsync,
           current_setting('synchronous_commit') AS synchronous_commit,
           current_setting('full_page_writes') AS full_page_writes
""")


def _database(engine: Engine) -> Iterator[Check]:
    def look() -> Iterator[Check]:
        with engine.connect() as connection:
            before = dt.datetime.now(dt.UTC)
            theirs = operator.moment(connection)
            ours = before + (dt.datetime.now(dt.UTC) - before) / 2
            server = connection.execute(_SERVER).one()
        if server.version < OLDEST_POSTGRESQL:
            advice = f"use PostgreSQL {OLDEST_POSTGRESQL} or later"
            yield Check("database", "failed", f"PostgreSQL {server.version} is too old", advice)
        else:
            yield Check("database", "ok", f"PostgreSQL {server.version} answers")
        # `local` and stronger wait for the disk; the contract promises durability with them.
        unsafe = [n for n in ("fsync", "synchronous_commit", "full_page_writes") if getattr(server, n) == "off"]
        if unsafe:
            found = f"{', '.join(unsafe)} off: an accepted hint can be lost when the server crashes"
            yield Check("durability", "warning", found, "turn it on, except in tests")
        yield _clock((ours - theirs).total_seconds())
        yield _migrations(engine)

    yield from _guarded("database", "see that it runs and CARDSYNC_DATABASE_URL is right", look)


def _guarded(name: str, advice: str, look: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """Turn an error of the database's into a failed check."""
    try:
        yield from look()
    except Exception as error:
        line = console.database_error(error)
        if line is None:
            raise
        yield Check(name, "failed", line, advice)


def _clock(difference_seconds: float) -> Check:
    found = f"{abs(difference_seconds):.1f} s between this host's and the database's"
    if abs(difference_seconds) > CLOCK_SECONDS:
        return Check("clock", "warning", found, "let both follow NTP; cardsync goes by the database's")
    return Check("clock", "ok", found)


def _migrations(engine: Engine) -> Check:
    at, newest = db.current_revision(engine), db.newest_revision()
    if at == newest:
        return Check("migrations", "ok", f"at {at}, the newest")
    if not db.is_behind(at):  # in the middle of a deploy: the schema comes before the code
        return Check("migrations", "ok", f"at {at}, newer than this program")
    return Check("migrations", "failed", f"at {at or 'none'}, the newest is {newest}", "cardsync db upgrade")


def _shared_state(engine: Engine, loaded: Settings) -> Iterator[Check]:
    """The secret key, and whether calls or removals stand still. Nothing is committed: the key is not bound here."""
    with engine.connect() as connection:
        if loaded.secret_key is not None:
            try:
                check_secret(connection, loaded.secret_bytes())
                yield Check("secret key", "ok", "is the database's")
            except Misconfigured as error:
                yield Check("secret key", "failed", str(error), "set the one that it was first used with")
        state = gate.state(connection)
    if state.brake_engaged_at is not None:
        found = f"removals are held since {console.rfc3339(state.brake_engaged_at)}"
        yield Check("brake", "warning", found, "cardsync brake show")
    yield from _calls(state)


def _calls(state: GateState) -> Iterator[Check]:
    if state.paused_because is not None:
        until = "one succeeds" if state.paused_until is None else console.rfc3339(state.paused_until)
        found = f"no calls to Ottu until {until}: {state.paused_because}"
        yield Check("calls", "warning", found, "it opens by itself; look at the reason")
    if state.calls_per_second is not None:
        found = f"{state.calls_per_second:.1f} calls a second at the most, after a 429; routine looks stand back"
        yield Check("pace", "warning", found, "it grows back by itself; see who else uses this API key")


def _drift(engine: Engine, loaded: Settings) -> Check:
    """How many customers' cards are right, of those audited lately; a warning where chance alone does not explain it."""
    if loaded.ottu_cards_api == "unavailable":
        return Check("drift", "skipped", "no list here to compare with")
    with engine.connect() as connection:
        found = audits.summary(connection)
    share = found.interval
    if share is None:
        return Check("drift", "skipped", "no customer was audited yet; beat and worker do it now and then")
    said = (
        f"{share.share:.1%} of customers right "
        f"({share.low * 100:.1f}-{share.high:.1%}, {found.sample} audited in {audits.DAYS} days)"
    ).replace("%", " %")
    if share.high >= RIGHT_SHARE:
        return Check("drift", "ok", said)
    causes = ", ".join(f"{cards} {cause}" for cause, cards in found.differences.items() if cards)
    advice = "lost_hint: see that Ottu's notifications arrive; silent_deletion: only more calls find them sooner"
    return Check("drift", "warning", f"{said}; cards: {causes}", advice)


def _ottu(engine: Engine, loaded: Settings, offline: bool) -> Check:
    if offline or loaded.ottu_cards_api == "unavailable" or not loaded.ottu_credentials_set:
        why = "not asked" if offline else "no list here" if loaded.ottu_credentials_set else "not set"
        return Check("ottu", "skipped", why)
    try:
        _ask(engine, loaded)
    except (CallsPaused, BudgetSpent) as error:
        return Check("ottu", "warning", f"not asked: {error}")
    except CredentialsRefused as error:
        return Check("ottu", "failed", str(error), "see that OTTU_API_KEY belongs to this instance, and is live")
    except CardsyncError as error:
        return Check("ottu", "failed", str(error), "see that OTTU_MERCHANT_ID or OTTU_BASE_URL is right")
    return Check("ottu", "ok", "takes our credentials and answers with a list")


def _ask(engine: Engine, loaded: Settings) -> None:
    """Ask for the list of nobody, counted like any call; the gate hears how it ended. Raises what went wrong."""
    from cardsync.ottu import OttuClient

    def spend() -> None:
        with engine.begin() as connection:
            budget.spend_call(
                connection,
                "read",  # a person waits for it, also while routine looks stand back
                who=OPERATOR,
                daily_calls=loaded.ottu_daily_calls,
                call_seconds=loaded.ottu_timeout_s,
            )

    def tell(error: CardsyncError | None) -> None:
        retry_after = error.retry_after_seconds if isinstance(error, Transient) else None
        with engine.begin() as connection:
            gate.heard(connection, word_of(error), who=OPERATOR, retry_after_seconds=retry_after)

    client = OttuClient(loaded)
    try:
        nobody = f"cardsync-doctor-{secrets.token_hex(4)}"
        client.list_cards("sandbox", nobody, deadline_seconds=loaded.ottu_timeout_s, before_call=spend)
    except CardsyncError as error:
        tell(error)
        raise
    finally:
        client.close()
    tell(None)
