"""``cardsync doctor``: is everything there that the processes need, and what to do where it is not.

It changes nothing, except that it makes one call to Ottu (``stories.reconcile_now.ask_once``): the call is counted in the budget,
and the gate before Ottu is told how it ended. Every check ends within a bounded time.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Iterator
from typing import Final

import click
from rich.console import Console
from rich.text import Text
from sqlalchemy import Engine

from cardsync import db, settings
from cardsync.cli import console
from cardsync.cli.doctor import (
    broker,
    capture,
    disk,
    endpoints,
    exposure,
    failover,
    feed,
    logins,
    ottu,
    processes,
    restored,
    room,
    setup,
    tokens,
)
from cardsync.cli.doctor.check import Check, Status
from cardsync.core.webhook_keys import BoundKey
from cardsync.db.address import Address
from cardsync.db.reasons import STATES
from cardsync.errors import Misconfigured
from cardsync.settings import Need, Settings
from cardsync.store import heartbeats, schedule
from cardsync.store.access.secret_keys import check_secret
from cardsync.store.calls import gate
from cardsync.store.deletions import askers
from cardsync.store.ops import server
from cardsync.store.schedule import STANDSTILL_SECONDS

CLOCK_SECONDS: Final = 2.0  # a larger difference makes logs of several hosts hard to read
NEEDS: Final[tuple[Need, ...]] = ("database", "broker", "secret", "webhook", "ottu")
# What each kind of process loads at its start, and the secrets that its container has (docker-compose.yml).
NEEDS_OF: Final[dict[str, tuple[Need, ...]]] = {
    "web": ("database", "broker", "secret", "webhook"),
    "worker": ("database", "broker", "secret", "ottu"),
    "beat": ("database", "broker"),
}

MARKS: Final[dict[Status, tuple[str, str]]] = {
    "ok": ("✓", "green"),
    "warning": ("!", "yellow"),
    "failed": ("✗", "bold red"),
    "skipped": ("-", "dim"),
}


@click.command()
@click.option("--offline", is_flag=True, help="Don't call Ottu.")
@click.option(
    "--for", "process", type=click.Choice(tuple(NEEDS_OF)), help="Check only what this kind of process needs."
)
@console.json_option
def doctor(offline: bool, process: str | None, as_json: bool) -> None:
    """Check settings, services, clock and credentials; say what to do. Makes one call to Ottu."""
    shown = Console()
    checks = []
    for check in _checks(offline, process):
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


def _checks(offline: bool, process: str | None) -> Iterator[Check]:
    try:
        loaded = console.load()
    except Misconfigured as error:
        yield Check("settings", "failed", str(error), "correct it; the other checks need the settings")
        return
    missing = list(_missing(NEEDS if process is None else NEEDS_OF[process]))
    who = "the processes need" if process is None else f"{process} needs"
    yield from missing or [Check("settings", "ok", f"all that {who} is set")]
    for line in loaded.warnings():
        yield Check("settings", "warning", line, "compare it with what Ottu shows; a comma separates keys")
    for name, meant in settings.unknown_names():
        hint = f"did you mean {meant}?" if meant else "no setting has that name; README.md has the list"
        yield Check("settings", "warning", f"{name} is not read", hint)
    if loaded.ottu_cards_api == "unavailable" and process is None:  # no process has all the secrets that this is about
        yield _without_lists(loaded)
    yield from setup.credentials(loaded)
    yield disk.data_folder(loaded.data_dir)
    yield disk.spool(loaded)
    yield broker.reachable(loaded)
    yield exposure.broker_way(loaded)
    if loaded.database_url is None:
        yield Check("database", "skipped", "not set")
        return
    try:
        Address.read(loaded.database(direct=True)()).require_readable_files()
    except Misconfigured as error:
        yield Check("database", "failed", str(error), "correct the setting")
        return
    with console.engine(loaded) as engine:
        database = list(_database(engine))
        yield from database
        usable = all(check.status != "failed" for check in database)
        if not usable:
            return

        def state() -> Iterator[Check]:
            yield from _shared_state(engine, loaded)
            yield from processes.at_work(engine, process)
            yield from feed.went_back(engine, loaded)
            yield failover.loss_window(engine, loaded)
            yield from broker.queues(engine, loaded)
            yield from broker.neighbours(engine, loaded)
            yield logins.roles_are_there(engine, loaded.role_prefix)
            yield from logins.checks(engine)
            yield from room.checks(engine)
            yield from capture.publications(engine)
            yield room.for_all(engine, loaded)
            yield setup.time_zone(engine, loaded)
            yield setup.notifications(engine, loaded)
            yield from endpoints.lags(engine)
            yield from restored.held(engine)
            yield from ottu.odd(engine)
            yield ottu.drift(engine, loaded)
            yield ottu.answers(engine, loaded, offline)

        denied = "ask as the worker does; the web's login may make no call (--offline)"
        yield from _guarded("database", "see the server's log", state, denied=denied)


def _without_lists(loaded: Settings) -> Check:
    """What makes a card active where Ottu offers no list: a bound key, or an inquiry."""
    bound = any(BoundKey.read(text).environment for text in loaded.webhook_keys())
    if bound and loaded.ottu_can_be_called:
        return Check("hints", "ok", "a bound key's are believed, and Ottu can be asked about other payments")
    if loaded.ottu_can_be_called:
        found = "no webhook key is bound: each payment costs an inquiry, ten minutes later"
        return Check("hints", "warning", found, "write OTTU_WEBHOOK_KEYS as production:KEY or sandbox:KEY")
    found = "Ottu cannot be asked about payments" + (
        "" if bound else ", and no webhook key is bound: no card gets active"
    )
    return Check(
        "hints", "warning" if bound else "failed", found, "set OTTU_MERCHANT_ID and OTTU_API_KEY, and bind the keys"
    )


def _missing(needs: tuple[Need, ...]) -> Iterator[Check]:
    for need in needs:
        try:
            console.load(need)
        except Misconfigured as error:
            yield Check("settings", "failed", str(error), "set it in the environment or in .env")


def _database(engine: Engine) -> Iterator[Check]:
    def look() -> Iterator[Check]:
        with engine.connect() as connection:
            before = dt.datetime.now(dt.UTC)
            theirs = db.moment(connection)
            ours = before + (dt.datetime.now(dt.UTC) - before) / 2
            found, read_only = server.durability(connection), server.is_read_only(connection)
        yield Check("database", "ok", f"PostgreSQL {found.version} answers")
        if (standby := room.standby(engine)) is not None:
            yield standby
            return
        if read_only:
            why = "takes no writes: its sessions are read-only. Hints are still taken, and wait on disk"
            fix = "find out who made it so: default_transaction_read_only, or a provider, as for a disk that is full"
            yield Check("database", "failed", why, fix)
            return
        if found.turned_off:
            unsafe = f"{', '.join(found.turned_off)} off: an accepted hint can be lost when the server crashes"
            yield Check("durability", "warning", unsafe, "turn it on, except in tests")
        yield exposure.database_way(engine)
        yield exposure.database_log(engine)
        yield _clock((ours - theirs).total_seconds())
        yield _migrations(engine)

    yield from _guarded("database", "see that it runs and CARDSYNC_DATABASE_URL is right", look)


def _guarded(
    name: str, advice: str, look: Callable[[], Iterator[Check]], *, denied: str | None = None
) -> Iterator[Check]:
    """Turn an error of the database's into a failed check; ``denied`` is the advice where the login lacks a right."""
    try:
        yield from look()
    except Exception as error:
        line = console.database_error(error)
        if line is None:
            raise
        lacks_a_right = db.why(error) == STATES["42501"]
        yield Check(name, "failed", line, denied if denied and lacks_a_right else advice)


def _clock(difference_seconds: float) -> Check:
    found = f"{abs(difference_seconds):.1f} s between this host's and the database's"
    if abs(difference_seconds) > heartbeats.CLOCK_SECONDS:
        return Check(
            "clock", "failed", found, "let both follow NTP: signatures of TLS and of messages go by this host's"
        )
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
    """The secret key, and whether calls, removals or deletions stand still. Nothing is committed: the key is not bound here."""
    with engine.connect() as connection:
        if loaded.secret_key is not None:
            try:
                check_secret(connection, loaded.key_ring())
                yield Check("secret key", "ok", "is the database's")
                yield tokens.at_rest(connection, loaded.key_ring())
            except Misconfigured as error:
                yield Check("secret key", "failed", str(error), "set the one that it was first used with")
        state, last, held = gate.state(connection), schedule.last_sweep(connection), askers.held(connection)
    if state.brake_engaged_at is not None:
        found = f"removals are held since {console.rfc3339(state.brake_engaged_at)}"
        yield Check(
            "brake", "failed", found, "cardsync brake show; release it once you know why the cards were missing"
        )
    if held:
        number, first = sum(one.deletions_held for one in held), held[0]
        found = (
            f"{number} deletions of {len(held)} askers are held, first those of {console.printable(first.asker)}, since"
            f" {console.rfc3339(first.held_since)}"
        )
        advice = (
            "cardsync brake show; ask them, then: cardsync brake release --requests, or: cardsync deletions cancel ID"
        )
        yield Check("requests", "failed", found, advice)
    if last is not None and last.seconds_ago >= STANDSTILL_SECONDS:
        found = f"none for {last.seconds_ago:.0f} s: retries, routine looks and erasures stand still"
        yield Check("sweep", "failed", found, "see that a beat runs, and a worker, and what their logs say")
    yield from ottu.calls(state)
