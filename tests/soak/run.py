"""The soak: shoppers at a steady rate while everything fails by a seeded schedule, and then the truth.

At the end, when nothing fails any more: every notification that was answered with success is an event that was settled, every
card in the registry is one of Ottu's and the other way round, every deletion that was accepted is done. A notification that
nobody answered, because the server that had it was killed, is lost as Ottu would lose it; the sweeps find what it was about.

    python -m tests.soak.run [--minutes M] [--rate R] [--seed S] [--json]          (or: make soak ARGS=...)
"""

from __future__ import annotations

import contextlib
import json
import secrets
import tempfile
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import click
import httpx
import psycopg
from sqlalchemy import make_url

from cardsync import db
from cardsync.dev.postgres import EmbeddedPostgres
from cardsync.dev.simulator.payloads import body, sign
from tests.e2e.brokers import Broker, valkey
from tests.e2e.processes import Process, until
from tests.e2e.proxy import TcpProxy
from tests.e2e.system import ENVIRONMENT, System, token_of
from tests.logins import ProcessLogins
from tests.soak.faults import Fault, plan
from tests.soak.harm import Harm
from tests.soak.senders import SUCCESS, Senders

CONVERGE_SECONDS: Final = 120.0
CUSTOMERS: Final = 200
CARDS_MAX: Final = 6  # of one customer: then the shopper pays, or deletes one in Ottu's own checkout
SETTINGS: Final = {
    "OTTU_DAILY_CALLS": "20000000",  # the sweeps alone find what was never notified: they must come round in seconds
    "CARDSYNC_LOOK_AGAIN_S": "2",
    "CARDSYNC_CONFIRM_S": "5",  # a card that is deleted right after its notification is waited for so long
    "CARDSYNC_REMOVAL_BRAKE_FLOOR": "1000000",
}


@dataclass(slots=True)
class Report:
    """What a run came to. ``answers`` counts by status, "none" where nobody answered; times are in seconds."""

    seed: int
    seconds: float
    rate: float
    faults: Counter[str] = field(default_factory=Counter)
    hints: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    failed_over: int = 0
    median_answer: float = 0.0
    slowest_answer: float = 0.0  # of those that the first server answered, while none was paused
    deletions_accepted: int = 0
    converged_after: float = 0.0
    calls_to_ottu: int = 0
    wrong: list[str] = field(default_factory=list)


class Soak:
    """One run over one system with two web servers, two workers and two beats, the database behind a proxy that can be cut."""

    def __init__(
        self, folder: Path, postgres: EmbeddedPostgres, database_url: str, broker: Broker, logins: ProcessLogins
    ) -> None:
        address = make_url(database_url)
        self._network = TcpProxy(("127.0.0.1", int(address.port or 0)))
        behind = address.set(port=self._network.port).render_as_string(hide_password=False)
        self._database_url, self._postgres, self._broker = database_url, postgres, broker
        self.system = System(folder, behind, broker, logins, **SETTINGS)
        started = {
            kind: [self.system.start(kind, f"{kind}-{number}") for number in (1, 2)] for kind in ("worker", "beat")
        }
        webs = [self.system.start("web", "web-1"), self.system.start("web", "web-2", port=self.system.second_port)]
        self._urls = [self.system.url, f"http://127.0.0.1:{self.system.second_port}"]
        self._processes = {"web": webs, **started}
        self._key = self.system.key("cards:read", "cards:delete")

    def run(self, seed: int, seconds: float, rate: float) -> Report:
        """Let shoppers act for so long, then wait for the truth."""
        report = Report(seed, seconds, rate)
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
        report.converged_after = round(time.monotonic() - began, 1)
        report.calls_to_ottu = len(self.system.simulator.calls("list")) + len(self.system.simulator.calls("delete"))
        return report

    def _wait_until_it_runs(self, process: Process) -> None:
        kind, _, number = process.name.partition("-")
        if kind != "web":
            process.says(f"{kind}_started")
            return

        def lives() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"{self._urls[int(number) - 1]}/livez", timeout=2).status_code == 200
            return False

        until(lives, f"{process.name} answers")

    def close(self) -> None:
        """End everything."""
        self.system.close()
        self._network.cut()

    def _act(
        self, harm: Harm, seed: int, seconds: float, rate: float, faults: list[Fault], senders: Senders, report: Report
    ) -> set[str]:
        striking = harm.begin(faults)
        asked: set[str] = set()
        asking = threading.Thread(target=self._ask_for_deletions, args=(seed, seconds, asked), daemon=True)
        asking.start()
        draws, began = Random(f"shoppers:{seed}"), time.monotonic()  # noqa: S311  # a replay, not a secret
        customers = [self.system.customer("soak") for _ in range(CUSTOMERS)]
        while (passed := time.monotonic() - began) < seconds:
            if report.hints > passed * rate:
                time.sleep(0.002)
                continue
            report.hints += self._shop(draws, draws.choice(customers), senders)
        for thread in (*striking, asking):
            thread.join(60)
        report.wrong += [f"the schedule broke: {error!r}" for error in harm.errors]
        report.deletions_accepted = len(asked)
        return asked

    def _shop(self, draws: Random, customer: str, senders: Senders) -> int:
        """One deed of a shopper's; how many notifications it leads to."""
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
        senders.send(body(sign(visit.event, self.system.simulator.webhook_key)))
        return 1

    def _ask_for_deletions(self, seed: int, seconds: float, asked: set[str]) -> None:
        """A service of the merchant's has a card deleted now and then; only what was answered with 202 was accepted."""
        draws, began = Random(f"service:{seed}"), time.monotonic()  # noqa: S311  # a replay, not a secret
        while time.monotonic() - began < seconds:
            time.sleep(0.5)
            owners = self.system.simulator.world.owners()
            cards = self.system.simulator.world.cards(*draws.choice(owners)) if owners else []
            if not cards:
                continue
            card = draws.choice(cards)
            wish = {"environment": ENVIRONMENT, "customer_id": card.customer_id, "token": card.token}
            headers = {"Authorization": f"Bearer {self._key}", "Idempotency-Key": secrets.token_hex(8)}
            try:
                answer = httpx.post(f"{draws.choice(self._urls)}/v1/deletions", json=wish, headers=headers, timeout=5)
            except httpx.HTTPError:
                continue
            if answer.status_code == 202:
                asked.add(answer.json()["deletion_id"])

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
        wrong: list[str] = []

        def is_true() -> bool:
            wrong[:] = [*self._unsettled(connection, accepted), *self._untrue(connection)]
            wrong.extend(self._undone(connection, deletions))
            return not wrong

        try:
            until(is_true, "the registry is Ottu's truth", seconds=CONVERGE_SECONDS)
        except AssertionError:
            report.wrong += wrong

    def _unsettled(self, connection: psycopg.Connection[Any], accepted: set[str]) -> list[str]:
        rows = connection.execute("SELECT event_id::text, status FROM cardsync.events").fetchall()
        statuses = dict(rows)
        missing = [event_id for event_id in accepted if event_id not in statuses]
        open_ = Counter(status for status in statuses.values() if status not in ("done", "ignored"))
        found = [f"{len(missing)} hints that were answered with success are nowhere"] if missing else []
        return found + [f"{number} hints are {status}" for status, number in open_.items()]

    def _untrue(self, connection: psycopg.Connection[Any]) -> list[str]:
        rows = connection.execute(
            "SELECT customer_id, array_agg(token) FROM registry.card_tokens JOIN registry.cards USING (card_id)"
            " GROUP BY customer_id"
        ).fetchall()
        registry = {customer: set(tokens) for customer, tokens in rows}
        world = self.system.simulator.world
        wrong = [
            customer
            for _, customer in world.owners()
            if registry.get(customer, set()) != world.truth(ENVIRONMENT, customer)
        ]
        return [f"the cards of {len(wrong)} customers are not Ottu's"] if wrong else []

    def _undone(self, connection: psycopg.Connection[Any], deletions: set[str]) -> list[str]:
        rows = connection.execute("SELECT status, count(*) FROM registry.deletions GROUP BY status").fetchall()
        found = dict(rows)
        wrong = [f"{number} deletions are {status}" for status, number in found.items() if status != "done"]
        known = sum(found.values())
        return wrong + ([f"{len(deletions) - known} deletions are nowhere"] if known < len(deletions) else [])


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--minutes", default=5.0, show_default=True, type=click.FloatRange(0.1, 120))
@click.option("--rate", default=100.0, show_default=True, type=click.FloatRange(1, 1_000), help="Hints a second.")
@click.option("--seed", type=int, help="Of the schedule; a new one unless given.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(minutes: float, rate: float, seed: int | None, as_json: bool) -> None:
    """Let everything fail, by a seeded schedule, and see whether the registry is Ottu's truth in the end."""
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    click.echo(
        f"Seed {seed}; again with: make soak ARGS='--minutes {minutes:g} --rate {rate:g} --seed {seed}'", err=True
    )
    with tempfile.TemporaryDirectory(prefix="cardsync-soak-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o711)  # run by root, PostgreSQL is another user
        postgres = EmbeddedPostgres(folder / "postgres")
        postgres.start()
        try:
            db.upgrade(postgres.url)
            logins = ProcessLogins(postgres)
            with valkey(folder / "valkey") as broker:
                soak = Soak(folder, postgres, postgres.url, broker, logins)
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


def as_text(report: Report) -> str:
    """The report for people."""
    answers = ", ".join(f"{status}: {number:,}" for status, number in sorted(report.answers.items()))
    faults = ", ".join(f"{fault} {number} x" for fault, number in sorted(report.faults.items()))
    return "\n".join(
        [
            f"seed              {report.seed}",
            f"ran               {report.seconds:g} s at {report.rate:g} hints a second",
            f"faults            {faults}",
            f"hints             {report.hints:,}; answers {answers}; {report.failed_over:,} asked the second server",
            f"answered within   {1000 * report.median_answer:.1f} ms (half), {report.slowest_answer:.2f} s (all)",
            f"deletions         {report.deletions_accepted} accepted",
            f"calls to Ottu     {report.calls_to_ottu:,}",
            f"converged after   {report.converged_after:g} s",
            f"wrong             {'; '.join(report.wrong) or 'nothing'}",
        ]
    )


if __name__ == "__main__":
    main()
