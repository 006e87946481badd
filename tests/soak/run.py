"""The soak: shoppers at a steady rate while everything fails by a seeded schedule, and then the truth.

At the end, when nothing fails any more: every notification that was answered with success is an event that was settled, every
card in the registry is one of Ottu's and the other way round, every deletion that was accepted is done. A notification that
got no answer, because the server that had it was killed, is lost as Ottu would lose it; the sweeps find what it was about.

Some notifications are sent several times, at once or later. Ottu's lists go mad now and then, empty for everybody. When all
came right, Ottu goes mad once more, until the brake on removals engages: some thirty customers lost cards by then, at most. An
operator releases it once Ottu is well, and those customers have their cards again. The database may be some milliseconds away,
each way, for all processes.

    python -m tests.soak.run [--minutes M] [--rate R] [--database-milliseconds N] [--seed S] [--json]   (or: make soak ARGS=...)
"""

from __future__ import annotations

import contextlib
import json
import secrets
import tempfile
import threading
import time
from collections import Counter, deque
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any, Final, LiteralString

import click
import httpx
import psycopg
from sqlalchemy import make_url

from cardsync import db
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.dev.simulator.payloads import body, sign
from tests.e2e.brokers import Broker, valkey
from tests.e2e.processes import Process, run
from tests.e2e.proxy import TcpProxy
from tests.e2e.system import ENVIRONMENT, System, token_of
from tests.logins import ProcessLogins
from tests.soak.faults import Fault, plan
from tests.soak.harm import Harm, be_well, go_mad
from tests.soak.report import Report, as_text
from tests.soak.senders import SUCCESS, Senders
from tests.waiting import until

BRAKE: Final = """
    SELECT brake_engaged_at IS NOT NULL, (SELECT count(*) FROM cardsync.customers WHERE removals_held) FROM cardsync.gate
"""
# Which customers lost a card to a list. Cards whose deletion was asked for are apart, as they are for the brake.
LOST: Final = """
    SELECT count(DISTINCT customer) FROM cardsync.card_changes AS gone
    WHERE change = 'removed' AND seq > %(after)s AND NOT EXISTS (
        SELECT 1 FROM cardsync.card_changes AS asked WHERE asked.card_id = gone.card_id AND asked.change = 'deleting'
    )
"""
HEAD: Final = "SELECT coalesce(max(seq), 0) FROM cardsync.card_changes"
ACTIVE_CARD: Final = "SELECT card_id FROM registry.cards WHERE status = 'active' ORDER BY random() LIMIT 1"
STARTS_SECONDS: Final = 180.0  # a worker waits for the database, which may be away just then
STANDSTILL_SECONDS: Final = 180.0  # in which nothing at all came right: then it never does
LOOK_EVERY_SECONDS: Final = 1.0
CUSTOMERS: Final = 200
CARDS_MAX: Final = 6  # of one customer: then the shopper pays, or deletes one in Ottu's own checkout
SETTINGS: Final = {
    "OTTU_DAILY_CALLS": "20000000",  # the sweeps alone find what was never notified: they must come round in seconds
    "CARDSYNC_LOOK_AGAIN_S": "2",
    "CARDSYNC_CONFIRM_S": "5",  # a card that is deleted right after its notification is waited for so long
}
AGAIN_SHARE: Final = 0.15  # of the notifications: sent twice or three times
KEPT_BODIES: Final = 50  # of which one is sent once more now and then, long after it was first sent
ENGAGES_SECONDS: Final = 120.0  # a deadline: until thirty customers with cards were looked at
LOST_MAX: Final = 30  # customers, until the brake engages: by its defaults 29 (``core.brake``)


class Again:
    """Sends bodies, some of them several times, and now and then one of before."""

    def __init__(self, seed: int, senders: Senders) -> None:
        self._senders = senders
        self._draws = Random(f"again:{seed}")  # noqa: S311  # a replay, not a secret
        self._kept: deque[bytes] = deque(maxlen=KEPT_BODIES)

    def send(self, content: bytes) -> int:
        """Hand a new body over, with copies; how many."""
        self._kept.append(content)
        bodies = [content]
        if self._draws.random() < AGAIN_SHARE:
            other = self._draws.choice(self._kept) if self._draws.random() < 0.5 else content
            bodies += [other] * self._draws.choice((1, 2))
        for one in bodies:
            self._senders.send(one)
        return len(bodies)


def _one_row(connection: psycopg.Connection[Any], statement: LiteralString) -> tuple[Any, ...]:
    row = connection.execute(statement).fetchone()
    assert row is not None
    return tuple(row)


class Soak:
    """One run over one system with two web servers, two workers and two beats, the database behind a proxy that can be cut."""

    def __init__(
        self,
        folder: Path,
        postgres: EmbeddedPostgres,
        database_url: str,
        broker: Broker,
        logins: ProcessLogins,
        *,
        database_milliseconds: float = 0.0,
        data: Path | None = None,
    ) -> None:
        """``data`` is the data folder of all processes, one in ``folder`` unless given."""
        address = make_url(database_url)
        self._milliseconds = database_milliseconds
        self._network = TcpProxy(("127.0.0.1", int(address.port or 0)), one_way_seconds=database_milliseconds / 1_000)
        behind = address.set(port=self._network.port).render_as_string(hide_password=False)
        self._database_url, self._postgres, self._broker = database_url, postgres, broker
        elsewhere = {} if data is None else {"CARDSYNC_DATA_DIR": str(data)}
        self.system = System(folder, behind, broker, logins, **SETTINGS, **elsewhere)
        started = {
            kind: [self.system.start(kind, f"{kind}-{number}") for number in (1, 2)] for kind in ("worker", "beat")
        }
        webs = [self.system.start("web", "web-1"), self.system.start("web", "web-2", port=self.system.second_port)]
        self._urls = [self.system.url, f"http://127.0.0.1:{self.system.second_port}"]
        self._processes = {"web": webs, **started}
        self._key = self.system.key("cards:read", "cards:delete")

    def run(self, seed: int, seconds: float, rate: float, *, until_the_brake_engages: bool = True) -> Report:
        """Let shoppers act for ``seconds``, then wait for the truth; then the same after lists that were empty for everybody."""
        report = Report(seed, seconds, rate, database_milliseconds=self._milliseconds)
        faults = plan(seed, seconds)
        report.faults = Counter(f"{fault.target} {fault.how}" for fault in faults)
        senders = Senders(self._urls)
        harm = Harm(
            self._processes,
            self._broker,
            self._postgres,
            self._network,
            self.system.simulator,
            self._wait_until_it_runs,
        )
        deletions = self._act(harm, seed, seconds, rate, faults, senders, report)
        senders.close()
        self._sum_up(harm, senders, report)
        began = time.monotonic()
        with psycopg.connect(self._database_url, autocommit=True) as connection:
            self._converge(connection, senders, deletions, report)
            if until_the_brake_engages and not report.wrong:
                self._be_mad_until_the_brake_engages(connection, report)
                self._converge(connection, senders, deletions, report)
        report.converged_after = round(time.monotonic() - began, 1)
        report.calls_to_ottu = len(self.system.simulator.calls("list")) + len(self.system.simulator.calls("delete"))
        return report

    def _wait_until_it_runs(self, process: Process) -> None:
        kind, _, number = process.name.partition("-")
        if kind != "web":
            process.says(f"{kind}_started", seconds=STARTS_SECONDS)
            return

        def lives() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"{self._urls[int(number) - 1]}/livez", timeout=10).status_code == 200
            return False

        until(lives, f"{process.name} answers", seconds=STARTS_SECONDS)

    def close(self) -> None:
        """End everything."""
        self.system.close()
        self._network.cut()

    def _act(
        self, harm: Harm, seed: int, seconds: float, rate: float, faults: list[Fault], senders: Senders, report: Report
    ) -> set[str]:
        striking = harm.begin(faults)
        asked: set[str] = set()
        asking = threading.Thread(target=self._ask_for_deletions, args=(seed, seconds, asked, report), daemon=True)
        asking.start()
        draws, began = Random(f"shoppers:{seed}"), time.monotonic()  # noqa: S311  # a replay, not a secret
        customers = [self.system.customer("soak") for _ in range(max(CUSTOMERS, int(rate)))]
        again = Again(seed, senders)
        while (passed := time.monotonic() - began) < seconds:
            if report.hints > passed * rate:
                time.sleep(0.002)
                continue
            sent = self._shop(draws, draws.choice(customers), again)
            report.hints += sent
            report.copies += max(0, sent - 1)
        for thread in (*striking, asking):
            thread.join(600)
        report.wrong += [f"the schedule broke: {error!r}" for error in harm.errors]
        report.deletions_accepted = len(asked)
        return asked

    def _shop(self, draws: Random, customer: str, again: Again) -> int:
        """One deed of a shopper's; how many notifications are sent of it."""
        checkout = self.system.simulator.checkout()
        cards = self.system.simulator.world.cards(ENVIRONMENT, customer)
        if len(cards) >= CARDS_MAX or (cards and draws.random() < 0.1):
            checkout.delete_card(ENVIRONMENT, customer, draws.choice(cards).token)
            return 0
        if cards and draws.random() < 0.6:
            visit = checkout.pay(ENVIRONMENT, customer, draws.choice(cards).token, notify=False)
        else:
            visit = checkout.save_card(ENVIRONMENT, customer, notify=False)
            self.system.keep_secret(token_of(visit))
        assert visit.event is not None
        return again.send(body(sign(visit.event, self.system.simulator.webhook_key)))

    def _ask_for_deletions(self, seed: int, seconds: float, asked: set[str], report: Report) -> None:
        """A service of the merchant's has a card deleted now and then; only what was answered with 202 was accepted."""
        draws, began = Random(f"service:{seed}"), time.monotonic()  # noqa: S311  # a replay, not a secret
        while time.monotonic() - began < seconds:
            time.sleep(0.5)
            card_id = self._active_card()
            if card_id is None:
                continue
            wish = {"card_id": card_id}
            headers = {"Authorization": f"Bearer {self._key}", "Idempotency-Key": secrets.token_hex(8)}
            try:
                answer = httpx.post(f"{draws.choice(self._urls)}/v1/deletions", json=wish, headers=headers, timeout=5)
            except httpx.HTTPError:
                report.deletion_answers["none"] += 1
                continue
            report.deletion_answers[str(answer.status_code)] += 1
            if answer.status_code == 202:
                asked.add(answer.json()["deletion_id"])

    def _active_card(self) -> str | None:
        """One that the registry shows, as services know them; ``None`` while there is none, or the database is away."""
        try:
            with psycopg.connect(self._database_url, connect_timeout=2) as connection:
                row = connection.execute(ACTIVE_CARD).fetchone()
        except psycopg.Error:
            return None
        return None if row is None else str(row[0])

    def _sum_up(self, harm: Harm, senders: Senders, report: Report) -> None:
        report.answers = Counter(str(one.status or "none") for one in senders.sent)
        report.failed_over = sum(one.tries > 1 for one in senders.sent)
        at_once = (one for one in senders.sent if one.tries == 1 and one.status in SUCCESS)
        times = sorted(
            one.seconds
            for one in at_once
            if not any(begin < one.began + one.seconds and one.began < end for begin, end in harm.web_pauses)
        )
        report.median_answer = round(times[len(times) // 2], 4) if times else 0.0
        report.slowest_answer = round(times[-1], 3) if times else 0.0
        refused = {status for status in report.answers if status not in ("200", "none")}
        report.wrong += [f"{report.answers[status]} hints were answered {status}" for status in sorted(refused)]

    def _converge(
        self, connection: psycopg.Connection[Any], senders: Senders, deletions: set[str], report: Report
    ) -> None:
        accepted = {str(one.event_id) for one in senders.sent if one.event_id is not None}
        least, since = None, time.monotonic()
        while True:
            wrong = {**self._unsettled(connection, accepted), **self._untrue(connection)}
            wrong.update(self._undone(connection, deletions))
            if not wrong:
                return
            # How fast a backlog is worked off is the machine's; that it is worked off is ours.
            if least is None or sum(wrong.values()) < least:
                least, since = sum(wrong.values()), time.monotonic()
            if time.monotonic() - since > STANDSTILL_SECONDS:
                report.wrong += [f"{number} {what}" for what, number in wrong.items()]
                return
            report.brake_released += self._release_brake(connection)
            time.sleep(LOOK_EVERY_SECONDS)

    def _be_mad_until_the_brake_engages(self, connection: psycopg.Connection[Any], report: Report) -> None:
        """Nobody shops and nothing else fails: the sweeps alone ask for lists, and all of them are empty."""
        report.brake_released += self._release_brake(connection)
        (before,) = _one_row(connection, HEAD)
        go_mad(self.system.simulator)
        try:
            until(lambda: _one_row(connection, BRAKE)[0], "the brake engages", seconds=ENGAGES_SECONDS)
        except AssertionError as error:
            report.wrong.append(str(error))
        finally:
            be_well(self.system.simulator)
        lost = connection.execute(LOST, {"after": before}).fetchone()
        report.customers_lost = 0 if lost is None else int(lost[0])
        if not 0 < report.customers_lost <= LOST_MAX:
            report.wrong.append(f"{report.customers_lost} customers lost cards before the brake engaged")

    def _release_brake(self, connection: psycopg.Connection[Any]) -> bool:
        """What an operator does, who knows that Ottu is well: the cards that its lists still lack are gone.

        Many were deleted in Ottu's own checkout, more than the brake believes by itself: so the operator vouches for them.
        """
        engaged, held = _one_row(connection, BRAKE)
        if engaged:
            done = run(self.system.folder, self.system.settings, "brake", "release", "--accept", str(held))
            assert done.returncode == 0, done.stderr
        return bool(engaged)

    def _unsettled(self, connection: psycopg.Connection[Any], accepted: set[str]) -> dict[str, int]:
        rows = connection.execute("SELECT event_id::text, status FROM cardsync.events").fetchall()
        statuses = dict(rows)
        missing = sum(1 for event_id in accepted if event_id not in statuses)
        open_ = Counter(status for status in statuses.values() if status not in ("done", "ignored"))
        found = {"hints that were answered with success are nowhere": missing} if missing else {}
        return found | {f"hints are {status}": number for status, number in open_.items()}

    def _untrue(self, connection: psycopg.Connection[Any]) -> dict[str, int]:
        rows = connection.execute(
            "SELECT customer_id, array_agg(token) FROM registry.card_tokens JOIN registry.cards USING (card_id)"
            " GROUP BY customer_id"
        ).fetchall()
        registry = {customer: set(tokens) for customer, tokens in rows}
        world = self.system.simulator.world
        wrong = sum(
            registry.get(customer, set()) != world.truth(ENVIRONMENT, customer) for _, customer in world.owners()
        )
        return {"customers have other cards than Ottu says": wrong} if wrong else {}

    def _undone(self, connection: psycopg.Connection[Any], deletions: set[str]) -> dict[str, int]:
        rows = connection.execute("SELECT status, count(*) FROM registry.deletions GROUP BY status").fetchall()
        found = dict(rows)
        wrong = {f"deletions are {status}": number for status, number in found.items() if status != "done"}
        missing = len(deletions) - sum(found.values())
        return wrong | ({"deletions are nowhere": missing} if missing > 0 else {})


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--minutes", default=5.0, show_default=True, type=click.FloatRange(0.1, 120))
@click.option("--rate", default=100.0, show_default=True, type=click.FloatRange(1, 1_000), help="Hints a second.")
@click.option(
    "--database-milliseconds",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 100),
    help="How far the database is away, each way.",
)
@click.option("--seed", type=int, help="Of the schedule; a new one unless given.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(minutes: float, rate: float, database_milliseconds: float, seed: int | None, as_json: bool) -> None:
    """Let everything fail, by a seeded schedule, and see whether the registry is Ottu's truth in the end."""
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    away = f" --database-milliseconds {database_milliseconds:g}" if database_milliseconds else ""
    again = f"--minutes {minutes:g} --rate {rate:g}{away} --seed {seed}"
    click.echo(f"Seed {seed}; again with: make soak ARGS='{again}'", err=True)
    with tempfile.TemporaryDirectory(prefix="cardsync-soak-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o711)  # run by root, PostgreSQL is another user
        postgres = EmbeddedPostgres(folder / "postgres")
        postgres.start()
        try:
            db.upgrade(postgres.url)
            logins = ProcessLogins(postgres)
            with valkey(folder / "valkey") as broker:
                soak = Soak(folder, postgres, postgres.url, broker, logins, database_milliseconds=database_milliseconds)
                try:
                    report = soak.run(seed, minutes * 60, rate)
                    soak.system.assert_nothing_leaked()
                finally:
                    soak.close()
        finally:
            postgres.remove()
    click.echo(json.dumps(asdict(report), indent=2) if as_json else as_text(report))
    if report.wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
