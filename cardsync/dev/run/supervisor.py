"""``cardsync dev``: all parts on one machine, started from nothing, until it is told to stop.

The promise: one command starts PostgreSQL, the broker, the migrations, web, worker, beat, the operators' console and, if no Ottu
is set, the stand-in for Ottu with shoppers. It shows what happens. Ctrl-C or SIGTERM ends all of it, in the opposite order. A
part that ends by itself also ends all of it, with exit status 1 and the reason. A second start finds the data of the first, also
after a kill.

Rules: where the user has set a service, it is used and the embedded one is not started. The processes are the real commands: they
read the settings that we offer from the data directory (``settings``), as any other command that is started there does.
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
from sqlalchemy.exc import SQLAlchemyError

from cardsync import db, settings
from cardsync.dev.live.feed import Feed, News
from cardsync.dev.live.journal import Journal, Line
from cardsync.dev.live.screen import Screen
from cardsync.dev.live.welcome import Running, facts
from cardsync.dev.run import console, key, process_logins, readiness
from cardsync.dev.run.child import Child, end_leftovers
from cardsync.dev.run.directory import Directory
from cardsync.dev.run.provision import Provision, ShopperOptions, free_port_from, provide, stop_in_time, wait_for_ports
from cardsync.dev.run.readiness import Part
from cardsync.dev.run.reset import remove_data
from cardsync.dev.run.room import full_disk
from cardsync.dev.servers.errors import ServiceError
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.dev.servers.valkey import EmbeddedValkey
from cardsync.dev.simulator.delivery import Delivery
from cardsync.dev.simulator.shoppers import ShopperEvent
from cardsync.settings import Need, Settings
from cardsync.store import calendar
from cardsync.store.access.secret_keys import check_secret

NEEDS: Final[tuple[Need, ...]] = ("database", "broker", "secret", "webhook", "ottu")
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FIRST_ACTIONS: Final = 6  # of shoppers at an Ottu without cards, so that there is something to see at once
FIRST_CARD_SECONDS: Final = 5.0

# How long each process may take to finish its work. All together less than the ten seconds that a person waits.
STOP_SECONDS: Final = {"console": 1.0, "web": 4.0, "beat": 2.0, "worker": 4.0}

TICK_SECONDS: Final = 0.2
DISK_CHECK_SECONDS: Final = 2.0
LOG_CHECK_SECONDS: Final = 60.0


class _Stopped(Exception):
    """A signal to stop came during the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of the command line."""

    port: int
    rate: float
    customers: int
    seed: int
    shoppers: bool
    reset: bool = False  # remove what earlier runs left, before anything starts


class Supervisor:
    """One run of ``cardsync dev``."""

    def __init__(self, options: Options, screen: Screen) -> None:
        self._options = options
        self._screen = screen
        self._journal = Journal()
        self._data_dir = Path()  # known when it runs
        self._parts: list[Part] = []  # servers and processes that must run on
        self._children: list[Child] = []
        self._stop_asked = False
        # What happened, in order, put here by the threads that saw it; the main thread takes it from here and prints.
        self._happened: queue.SimpleQueue[Callable[[], list[Line]]] = queue.SimpleQueue()

    def run(self) -> None:
        """Run until told to stop. Raises ``ServiceError``, also if a part ends, and ``Misconfigured``; then nothing is left
        running.
        """
        began = time.monotonic()
        self._data_dir = settings.load().data_dir
        with self._signals():
            with ExitStack() as running:
                with contextlib.suppress(_Stopped), self._a_full_disk_is_named():
                    self._start(running, began)
                    self._watch()
                self._screen.say("\nStopping ...", "bold")
            self._screen.say("Stopped; the data stays.", "bold")

    @contextlib.contextmanager
    def _a_full_disk_is_named(self) -> Iterator[None]:
        try:
            yield
        except (ServiceError, OSError, SQLAlchemyError) as error:
            if (full := full_disk(self._data_dir)) is None:
                raise
            # The database's own errors quote statements with their values.
            led_to = type(error).__name__ if isinstance(error, SQLAlchemyError) else str(error)
            raise ServiceError(f"{full}, and start again. It led to this:\n{led_to}") from error

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def asked(_number: int, _frame: FrameType | None) -> None:
            self._stop_asked = True
            self._happened.put(list)  # nothing to print: it only wakes the main thread

        earlier = {number: signal.signal(number, asked) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)

    def _start(self, running: ExitStack, began: float) -> None:
        """Start all parts, each after the parts that it needs; show where they are. ``running`` stops them."""
        directory = Directory(self._data_dir)
        directory.acquire()
        running.callback(directory.release)
        ports_of_killed = directory.withdraw()
        end_leftovers(directory.path)
        wait_for_ports(ports_of_killed)
        if self._options.reset:
            remove_data(directory.path)
            self._screen.say(f"The data of earlier runs in {directory.path} is removed.", "yellow")
        web_port = free_port_from(self._options.port)
        console_port = console.free_port(web_port)
        made = self._provide(running, directory, web_port)
        if settings.load().console_url is None:
            made.values["console_url"] = f"http://127.0.0.1:{console_port}"
        directory.offer(made.values, (web_port, console_port))
        running.callback(directory.withdraw)
        effective = settings.load(*NEEDS)
        engine = self._database(running, effective)
        api_key = key.ensure(engine, directory)
        logins = process_logins.make(made.postgres, directory.path) if made.postgres is not None else {}
        lists = effective.ottu_cards_api == "enabled"
        self._start_children(running, directory.path, (web_port, console_port), engine, logins, lists=lists)
        feed = Feed(engine, self._on_news)
        running.callback(feed.stop)
        feed.start()
        simulator = made.simulator
        if simulator is not None:
            running.callback(partial(stop_in_time, simulator))  # before web, so that no notification lacks an answer
        if simulator is not None and self._options.shoppers and not simulator.world.owners():
            for _ in range(FIRST_ACTIONS):
                simulator.shoppers.step()
            readiness.wait_at_most(FIRST_CARD_SECONDS, lambda: readiness.has_card(engine), self._check)
        link = console.link(engine, effective.console_base)
        self._welcome(Running(directory.path, effective, made.postgres, simulator, web_port, api_key, link), began)
        if simulator is not None and self._options.shoppers:
            simulator.start_shoppers(self._options.rate)

    def _provide(self, running: ExitStack, directory: Directory, web_port: int) -> Provision:
        shoppers = ShopperOptions(
            webhook_url=f"http://127.0.0.1:{web_port}/webhooks/ottu",
            customers=self._options.customers,
            seed=self._options.seed,
            on_event=self._on_action,
        )
        return provide(running, settings.load(), directory, shoppers, self._start_server)

    def _start_server(self, server: EmbeddedPostgres | EmbeddedValkey) -> None:
        began = time.monotonic()
        server.start()
        self._parts.append(server)
        if server.remark:
            self._screen.say(server.remark, "yellow")
        self._step(f"{server.name} runs", began)

    def _database(self, running: ExitStack, effective: Settings) -> Engine:
        """Migrate the database, and return an engine for our own queries."""
        began = time.monotonic()
        assert effective.database_url is not None
        url = effective.database_url.get_secret_value()
        db.upgrade(url)
        engine = db.make_engine(url, name="cardsync dev", pool_size=2, autocommit=True)
        running.callback(engine.dispose)
        with engine.begin() as connection:
            check_secret(connection, effective.key_ring())
            calendar.keep_time_zone(connection, effective.time_zone)
        self._step("the database is migrated", began)
        return engine

    def _start_children(
        self,
        running: ExitStack,
        data_dir: Path,
        ports: tuple[int, int],
        engine: Engine,
        logins: Mapping[str, Mapping[str, str]],
        *,
        lists: bool,
    ) -> None:
        began = time.monotonic()
        swept_at = readiness.swept_at(engine)
        web_port, console_port = ports
        of_console = ("console", "--port", str(console_port))
        for arguments in (("worker",), ("beat",), ("web", "--port", str(web_port)), of_console):
            child = Child(arguments, directory=data_dir, environment=logins.get(arguments[0], {}))
            self._children.append(child)
            running.callback(child.stop, STOP_SECONDS[child.name])
            child.start()
            self._parts.append(child)
        for part, answers in (
            ("web", partial(readiness.web_is_ready, web_port)),
            ("console", partial(readiness.web_is_ready, console_port)),
            ("worker", lambda: not lists or readiness.swept_at(engine) != swept_at),
        ):
            readiness.wait_for(part, answers, self._parts, self._check)
        self._step("web, worker, beat and console run", began)

    def _welcome(self, those: Running, began: float) -> None:
        self._screen.say(f"\ncardsync runs, after {time.monotonic() - began:.1f} s.\n", "bold green")
        self._screen.facts(facts(those))
        if those.web_port != self._options.port:
            self._screen.say(f"\nPort {self._options.port} is taken, so web is at {those.web_port}.", "yellow")
        self._screen.say("\nCtrl-C stops all of it and keeps the data.", "dim")
        self._screen.say("Below is what happens. A hint is a notification: it proves nothing by itself,", "dim")
        self._screen.say("so that Ottu is asked, and Ottu's list makes a card active.\n", "dim")

    def _watch(self) -> None:
        """Show what happens until told to stop. Raises ``ServiceError`` when a part ends."""
        checked_at = logs_checked_at = time.monotonic()
        disk_checked_at = 0.0
        full: str | None = None
        while not self._stop_asked:
            with contextlib.suppress(queue.Empty):
                for line in self._happened.get(timeout=TICK_SECONDS)():
                    self._screen.line(line)
            now = time.monotonic()
            if now - checked_at >= TICK_SECONDS:
                checked_at = now
                for line in self._journal.tick(time.time()):
                    self._screen.line(line)
                self._require_parts()
            if now - disk_checked_at >= DISK_CHECK_SECONDS:
                disk_checked_at, before, full = now, full, full_disk(self._data_dir)
                if full and not before:
                    self._screen.say(f"{full[0].upper()}{full[1:]}. Until then parts of this may fail.", "bold red")
                elif before and not full:
                    self._screen.say("The disk has room again.", "green")
            if now - logs_checked_at >= LOG_CHECK_SECONDS:
                logs_checked_at = now
                for child in self._children:
                    child.bound_log()

    def _require_parts(self) -> None:
        try:
            readiness.require_running(self._parts)
        except ServiceError:
            # Said now, since stopping takes seconds; the reason is the command's error, its last output.
            self._screen.say("\nA part of it ended, so all of it stops ...", "bold")
            raise

    def _on_action(self, event: ShopperEvent) -> None:
        """Called in the simulator's threads: a shopper did something. How its notification ended follows later."""
        self._happened.put(partial(self._journal.acted, event))
        if event.delivery is not None:
            event.delivery.add_done_callback(partial(self._on_delivery, event.number))

    def _on_delivery(self, number: int, ended: Future[Delivery]) -> None:
        if not ended.cancelled():
            self._happened.put(partial(self._journal.delivered, number, ended.result(), time.time()))

    def _on_news(self, news: News) -> None:
        """Called in the feed's thread."""
        self._happened.put(partial(self._journal.read, news, time.time()))

    def _step(self, what: str, began: float) -> None:
        self._screen.say(f"{what} ({time.monotonic() - began:.1f} s)", "dim")
        self._check()

    def _check(self) -> None:
        if self._stop_asked:
            raise _Stopped
