"""``cardsync recover``: ask Ottu about payments whose notifications never came, and take the answers as hints.

The rules: Ottu's limits are kept (30 inquiries a minute over all, and a payment only after minutes), and each call is counted in
the budget. Where Ottu offers no list of cards (KSA) this is what there is in place of one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Final, TextIO

import click

from cardsync import logs, metrics_multiprocess
from cardsync.cli import console
from cardsync.errors import Misconfigured
from cardsync.settings import Settings
from cardsync.store.access.secret_keys import fingerprint_key

if TYPE_CHECKING:  # the stories choose the place of their metrics at import, which is after the settings are read
    from cardsync.stories.recover import Recovered

SESSIONS_MAX: Final = 100_000  # two days and a half of asking within Ottu's limits
LINE_MAX: Final = 1_000  # characters
MAX_WAIT_SECONDS: Final = 120.0  # longer than Ottu's minute, shorter than its half hour


@click.command()
@click.option("--session", "sessions", multiple=True, help="A payment's session_id. More may follow it.")
@click.argument("more", nargs=-1, metavar="[ID]...")
@click.option(
    "--file", type=click.File("r", encoding="utf-8"), help="A file with a session_id a line; - for standard input."
)
@click.option(
    "--max-wait",
    type=click.FloatRange(0),
    default=MAX_WAIT_SECONDS,
    show_default=True,
    help="Seconds to wait for one payment. What Ottu allows only later is left to the workers.",
)
@console.json_option
def recover(
    sessions: tuple[str, ...], more: tuple[str, ...], file: TextIO | None, max_wait: float, as_json: bool
) -> None:
    """Ask Ottu about payments whose notifications never came, and take each answer as a hint.

    Name one payment or several, as --session ID ID or --session ID --session ID, or a file of them.

    Ottu answers at most 30 such questions a minute, and about one payment once in 30 minutes, three times a day, and
    not within 10 minutes after it was made. A payment that must wait longer than --max-wait is asked about by a worker.
    """
    from cardsync.stories.believe_hint import SESSION

    if bool(sessions) == (file is not None) or (more and not sessions):
        raise click.UsageError("give --session with one ID or more, or --file")
    wanted = [*sessions, *more] if file is None else list(_lines(file))
    for place, session in enumerate(wanted, start=1):
        if SESSION.fullmatch(session) is None:
            where = f"number {place}" if file is not None else "--session"
            raise click.UsageError(f"{where}: a session_id is 1 to 128 letters, digits, - and _")
    if not wanted:
        raise click.UsageError("there is no session in the file")
    loaded = console.load("database", "secret")
    if not loaded.ottu_can_be_called:
        raise Misconfigured("OTTU_MERCHANT_ID and OTTU_API_KEY are missing: without them Ottu cannot be asked")
    metrics_multiprocess.prepare(loaded.data_dir)
    logs.configure(loaded.model_copy(update={"log_level": "error"}), "cli")
    _report(_recover(loaded, wanted, max_wait), as_json)


def _lines(file: TextIO) -> Iterator[str]:
    """The sessions of a file: a line each; empty lines and those that begin with # are passed over."""
    count = 0
    try:
        for number, line in enumerate(iter(lambda: file.readline(LINE_MAX), ""), start=1):
            session = line.strip()
            if not session or session.startswith("#"):
                continue
            count += 1
            if count > SESSIONS_MAX:
                raise click.UsageError(f"line {number}: more than {SESSIONS_MAX} sessions at once")
            yield session
    except UnicodeDecodeError:
        raise click.UsageError("the file is not UTF-8") from None


def _recover(loaded: Settings, wanted: list[str], max_wait: float) -> list[Recovered]:
    from cardsync.ottu import OttuClient
    from cardsync.stories.inquire import InquiryPolicy
    from cardsync.stories.process import HintPolicy
    from cardsync.stories.recover import RecoverPolicy, recover

    found: list[Recovered] = []
    with console.engine(loaded) as engine:
        with engine.begin() as connection:
            key = fingerprint_key(connection, loaded.key_ring())  # binds it, if this is the first to write cards
        hints = HintPolicy(key, believed=loaded.ottu_cards_api == "unavailable", ring=loaded.key_ring())
        policy = RecoverPolicy(InquiryPolicy.of(loaded, key), hints, max_wait)
        client = OttuClient(loaded)
        stopping = threading.Event()
        try:
            with console.told_to_stop(stopping), console.progress("payments", len(set(wanted))) as advance:
                for one in recover(engine, client, wanted, policy, stopping=stopping):
                    found.append(one)
                    advance(1, "" if one.error is None else one.error)
        finally:
            client.close()
    return found


def _report(found: list[Recovered], as_json: bool) -> None:
    from cardsync.stories.recover import counted

    counts = counted(found)
    if as_json:
        console.print_json({**counts, "sessions": [asdict(one) for one in found]})
    else:
        console.print_facts(counts)
        for one in found:
            if one.outcome not in ("answered", "no_card"):
                console.note(f"{one.session_id}: {one.outcome}{f' ({one.error})' if one.error else ''}")
    wrong = [f"{counts['failed']} failed"] if counts["failed"] else []
    wrong += [f"{counts['unknown']} are not known to Ottu"] if counts["unknown"] else []
    wrong += [f"{counts['waiting']} wait, and the workers will ask"] if counts["waiting"] else []
    if wrong:
        console.fail(f"of {len(found)} payments {', '.join(wrong)}")
