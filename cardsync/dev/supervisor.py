"""``cardsync dev``: everything on one machine, from nothing, until it is told to stop.

The promise: one command starts PostgreSQL, the broker, the migrations, web, worker, beat and, where no Ottu is set, its
stand-in with shoppers; it shows what happens; Ctrl-C or SIGTERM ends all of it, in the opposite order; a second start finds
the data of the first; one that was killed leaves nothing that a next start could trip over.

Rules: what the user has set himself is used, and its embedded counterpart is not started. The processes are the real
commands: they read what we offer from the data directory (``settings``), as any other command started there does.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final

from sqlalchemy import Engine

from cardsync import db, settings
from cardsync.dev import key, process_logins, readiness
from cardsync.dev.child import Child, end_leftovers
from cardsync.dev.directory import Directory
from cardsync.dev.feed import Feed, News
from cardsync.dev.journal import Journal, Line
from cardsync.dev.keeper import Keeper
from cardsync.dev.postgres import EmbeddedPostgres
from cardsync.dev.provision import Provision, Shop, free_port_from, provide, stop_in_time
from cardsync.dev.screen import Screen
from cardsync.dev.simulator.delivery import Delivery
from cardsync.dev.simulator.shoppers import ShopperEvent
from cardsync.dev.valkey import EmbeddedValkey
from cardsync.dev.welcome import Running, facts
from cardsync.settings import Need, Settings
from cardsync.store.secret import check_secret

NEEDS: Final[tuple[Need, ...]] = ("database", "broker", "secret", "webhook", "ottu")
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FIRST_DEEDS: Final = 6  # of shoppers in an empty world, so that there is something to see at once

# How long each may take to end what it is doing, together less than the ten seconds that a person waits.
STOP_SECONDS: Final = {"web": 4.0, "beat": 2.0, "worker": 4.0}

TICK_SECONDS: Final = 0.2
LOGS_LOOKED_AT_SECONDS: Final = 60.0


class _Stopped(Exception):
    """Told to stop while starting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says."""

    port: int
    rate: float
    customers: int
    seed: int
    shoppers: bool


class Supervisor:
    """One run of ``cardsync dev``."""

    def __init__(self, options: Options, screen: Screen) -> None:
        self._options = options
        self._screen = screen
        self._journal = Journal()
        self._keeper = Keeper()
        self._children: dict[str, Child] = {}
        self._stop_asked = False
        # What happened, in order, from whichever thread saw it; the one thread that prints takes it from here.
        self._happened: queue.SimpleQueue[Callable[[], list[Line]]] = queue.SimpleQueue()

    def run(self) -> None:
        """Run until told to stop. Raises ``ServiceError``, ``Misconfigured``; then nothing is left running."""
        began = time.monotonic()
        with self._signals():
            with ExitStack() as running:
                with contextlib.suppress(_Stopped):
                    self._start(running, began)
                    self._watch()
                self._screen.say("\nStopping ...", "bold")
            self._screen.say("Stopped; the data stays.", "bold")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def asked(_number: int, _frame: FrameType | None) -> None:
            self._stop_asked = True
            self._happened.put(list)  # wakes whoever waits

        earlier = {number: signal.signal(number, asked) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)

    def _start(self, running: ExitStack, began: float) -> None:
        """Start all parts, each after what it stands on; show where they are. ``running`` stops them."""
        directory = Directory(settings.load().data_dir)
        directory.acquire()
        running.callback(directory.release)
        directory.withdraw()  # of one that was killed
        end_leftovers(directory.path)
        web_port = free_port_from(self._options.port)
        made = self._provide(running, directory, web_port)
        directory.offer(made.values)
        running.callback(directory.withdraw)
        effective = settings.load(*NEEDS)
        engine = self._database(running, effective)
        api_key = key.let_in(engine, directory)
        logins = process_logins.make(made.postgres, directory.path) if made.postgres is not None else {}
        lists = effective.ottu_cards_api == "enabled"
        self._start_children(running, directory.path, web_port, engine, logins, lists=lists)
        feed = Feed(engine, self._tell_news)
        running.callback(feed.stop)
        feed.start()
        shops = made.simulator if self._options.shoppers else None
        if made.simulator is not None:
            running.callback(partial(stop_in_time, made.simulator))  # first of all, so that nobody is left unanswered
        if shops is not None and not shops.world.owners():
            for _ in range(FIRST_DEEDS):
                shops.shoppers.step()
        self._welcome(Running(directory.path, effective, made.postgres, made.simulator, web_port, api_key), began)
        if shops is not None:
            shops.start_shoppers(self._options.rate)

    def _provide(self, running: ExitStack, directory: Directory, web_port: int) -> Provision:
        shop = Shop(
            webhook_url=f"http://127.0.0.1:{web_port}/webhooks/ottu",
            customers=self._options.customers,
            seed=self._options.seed,
            on_event=self._tell_deed,
        )
        return provide(running, settings.load(), directory.path, directory.secrets(), shop, self._start_service)

    def _start_service(self, service: EmbeddedPostgres | EmbeddedValkey) -> None:
        began = time.monotonic()
        service.start()
        self._keeper.keep(service.program, service, time.monotonic())
        self._step(f"{service.program} runs", began)

    def _database(self, running: ExitStack, effective: Settings) -> Engine:
        """Migrate, and return an engine for our own questions."""
        began = time.monotonic()
        assert effective.database_url is not None
        url = effective.database_url.get_secret_value()
        db.upgrade(url)
        engine = db.make_engine(url, name="cardsync dev", pool_size=2, autocommit=True)
        running.callback(engine.dispose)
        with engine.begin() as connection:
            check_secret(connection, effective.secret_bytes())
        self._step("the database is migrated", began)
        return engine

    def _start_children(
        self,
        running: ExitStack,
        data_dir: Path,
        web_port: int,
        engine: Engine,
        logins: Mapping[str, Mapping[str, str]],
        *,
        lists: bool,
    ) -> None:
        began = time.monotonic()
        swept_at = readiness.swept_at(engine)
        for arguments in (("worker",), ("beat",), ("web", "--port", str(web_port))):
            child = Child(arguments, directory=data_dir, environment=logins.get(arguments[0], {}))
            self._children[child.name] = child
            running.callback(child.stop, STOP_SECONDS[child.name])
            child.start()
            self._keeper.keep(child.name, child, time.monotonic())
        for part, answers in (
            ("web", partial(readiness.web_is_ready, web_port)),
            ("worker", lambda: not lists or readiness.swept_at(engine) != swept_at),
        ):
            readiness.wait_for(part, answers, self._children.values(), self._check)
        self._step("web, worker and beat run", began)

    def _welcome(self, those: Running, began: float) -> None:
        self._screen.say(f"\ncardsync runs, after {time.monotonic() - began:.1f} s.\n", "bold green")
        self._screen.facts(facts(those))
        if those.web_port != self._options.port:
            self._screen.say(f"\nPort {self._options.port} is taken, so web is at {those.web_port}.", "yellow")
        self._screen.say("\nCtrl-C stops all of it and keeps the data. What happens:\n", "dim")

    def _watch(self) -> None:
        """Tell what happens, and look after the parts, until told to stop."""
        looked_at = logs_looked_at = time.monotonic()
        while not self._stop_asked:
            with contextlib.suppress(queue.Empty):
                for line in self._happened.get(timeout=TICK_SECONDS)():
                    self._screen.line(line)
            now = time.monotonic()
            if now - looked_at >= TICK_SECONDS:
                looked_at = now
                for line in self._journal.passed(time.time()):
                    self._screen.line(line)
                for said in self._keeper.look(now):
                    self._screen.say(said, "bold yellow")
            if now - logs_looked_at >= LOGS_LOOKED_AT_SECONDS:
                logs_looked_at = now
                for child in self._children.values():
                    child.bound_log()

    def _tell_deed(self, event: ShopperEvent) -> None:
        """From the simulator's threads: a shopper did something, and later, how its notification ended."""
        self._happened.put(partial(self._journal.acted, event))
        if event.delivery is not None:
            event.delivery.add_done_callback(partial(self._tell_delivery, event.number))

    def _tell_delivery(self, number: int, ended: Future[Delivery]) -> None:
        if not ended.cancelled():
            self._happened.put(partial(self._journal.delivered, number, ended.result(), time.time()))

    def _tell_news(self, news: News) -> None:
        """From the feed's thread."""
        self._happened.put(partial(self._journal.read, news, time.time()))

    def _step(self, what: str, began: float) -> None:
        self._screen.say(f"{what} ({time.monotonic() - began:.1f} s)", "dim")
        self._check()

    def _check(self) -> None:
        if self._stop_asked:
            raise _Stopped
