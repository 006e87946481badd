"""``Simulator``: the whole stand-in, on a real port, in threads of this process.

Use it as a context manager, or call ``start()`` and ``stop()``. After ``stop()`` nothing answers, not even on connections that a
client kept open. With a ``state_file`` the cards outlive the process. Without it, a registry that kept its data would find at the
next start that all its cards are gone.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

from werkzeug.serving import WSGIRequestHandler, make_server

from cardsync.dev.simulator import control, payloads
from cardsync.dev.simulator.app import create_app
from cardsync.dev.simulator.calls import Call, CallLog, Gates, Point
from cardsync.dev.simulator.checkout import Checkout
from cardsync.dev.simulator.delivery import Courier, Delivery
from cardsync.dev.simulator.desk import Credentials, Desk
from cardsync.dev.simulator.faults import Fault, Faults
from cardsync.dev.simulator.handlers import Handlers
from cardsync.dev.simulator.knobs import Knobs
from cardsync.dev.simulator.shoppers import EPOCH, ShopperEvent, Shoppers
from cardsync.dev.simulator.world import World
from cardsync.files import write_private

# The last second before a SIGKILL may be lost: the registry then sees cards disappear, which it must handle anyway.
KEEP_SECONDS: Final = 1.0
BACKLOG: Final = 128  # connections that wait to be accepted: more than a deployment's workers


class Simulator:
    """The stand-in for Ottu. Attributes for tests: ``world``, ``faults``, ``gates``, ``shoppers``, ``courier``, ``handlers``."""

    def __init__(
        self,
        knobs: Knobs | None = None,
        seed: int = 1,
        api_key: str | None = None,
        webhook_key: str | None = None,
        webhook_url: str | None = None,
        *,
        plugin_urls: Mapping[str, str] | None = None,
        operations_url: str | None = None,
        username: str | None = None,
        password: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        hosts: Sequence[str] = (),
        customers: int = 20,
        rate: float = 0.0,
        on_event: Callable[[ShopperEvent], None] | None = None,
        on_delivery: Callable[[Delivery], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        state_file: Path | None = None,
    ) -> None:
        self.seed, self.rate = seed, rate
        self.api_key = api_key or secrets.token_hex(16)
        self.webhook_key = webhook_key or secrets.token_hex(16)
        self.world: World = World(knobs or Knobs(), clock, seed)
        self.faults, self.gates = Faults(seed), Gates()
        self.handlers = Handlers(webhook_url, dict(plugin_urls or {}), operations_url)
        self.courier = Courier(lambda: self.world.knobs, seed, on_delivery=on_delivery)
        self.shoppers = Shoppers(self.world, self.deliver, seed, customers=customers, on_event=on_event)
        self._log = CallLog(time.time)
        self._credentials = Credentials(api_key=self.api_key, username=username, password=password)
        self._address = (host, port)
        self._hosts = frozenset(name.lower() for name in ("localhost", host, *hosts))
        self._server: _Server | None = None
        self._visits = 0
        self._visiting = threading.Lock()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._state_file = state_file
        self._kept_revision = (-1, 0, 0)

    @property
    def base_url(self) -> str:
        """Where the stand-in answers: cardsync's ``OTTU_BASE_URL``. Raises ``RuntimeError`` before ``start()``."""
        if self._server is None:
            raise RuntimeError("the simulator is not started")
        host = self._address[0]
        near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # compared, not bound
        return f"http://{f'[{near}]' if ':' in near else near}:{self._server.port}"

    @property
    def knobs(self) -> Knobs:
        """The current knobs."""
        return self.world.knobs

    def turn(self, **changes: Any) -> Knobs:
        """Change some knobs. Raises ``pydantic.ValidationError``."""
        return self.world.turn(**changes)

    def start(self) -> Simulator:
        """Listen, and start the shoppers if there is a rate. Raises ``OSError`` if the port is taken."""
        self._stopping.clear()
        self._restore()
        self.come_back()
        if self.rate > 0:
            self.start_shoppers(self.rate)
        if self._state_file is not None:
            self._spawn("state", self._keep_going)
        return self

    def stop(self) -> None:
        """Stop everything: cut calls that hang or are held, and cancel webhooks that wait."""
        self._stopping.set()
        self.gates.release()
        if self._server is not None:
            self._server.stop()
        self.courier.close()
        for thread in self._threads:
            thread.join(timeout=5)
        self._threads.clear()
        self._keep()

    def start_shoppers(self, rate: float) -> None:
        """Let shoppers act, ``rate`` times a second, until ``stop()``."""
        self._spawn("shoppers", lambda: self.shoppers.run(self._stopping, rate))

    def go_away(self) -> None:
        """Stop answering, like an Ottu that is down, and cut running calls. Webhooks are still sent."""
        if self._server is not None:
            self._server.stop()

    def come_back(self) -> None:
        """Answer again, at the same address, with the current world."""
        desk = Desk(
            world=self.world,
            credentials=self._credentials,
            calls=self._log,
            gates=self.gates,
            faults=self.faults,
            stopping=self._stopping,
        )
        app = create_app(desk, self._hosts)
        controls = control.Controls(
            world=self.world,
            faults=self.faults,
            gates=self.gates,
            calls=self._log,
            courier=self.courier,
            checkout=self.checkout,
            deliver=self.deliver,
        )
        app.register_blueprint(control.blueprint(controls))
        host, port = self._address
        self._server = _Server(app, host, self._server.port if self._server else port)
        self._spawn("server", self._server.serve)

    def __enter__(self) -> Simulator:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def checkout(self, plugin: str | None = None, webhook_url: str | None = None) -> Checkout:
        """A new visit to Ottu's checkout, with its own random numbers: by a plugin, or with a ``webhook_url`` of its own."""
        with self._visiting:
            self._visits += 1
            number = self._visits
        draws = Random(f"{self.seed}:visit:{number}")  # noqa: S311  # a replay, not a secret
        send = partial(self.deliver, plugin=plugin, webhook_url=webhook_url)
        return Checkout(self.world, send, draws=draws, at=EPOCH + dt.timedelta(seconds=number))

    def deliver(
        self,
        payload: dict[str, Any],
        label: str = "given",
        *,
        plugin: str | None = None,
        webhook_url: str | None = None,
    ) -> Future[Delivery]:
        """Sign the payload, unless it has a signature, and send it; the future returns how that ended at the first address."""
        if "signature" not in payload:
            payload = payloads.sign(payload, self.webhook_key, self.world.knobs.signature_scheme)
        addresses = self.handlers.of(payload, plugin=plugin, given=webhook_url)
        first, *_ = [self.courier.send(payloads.body(payload), label, address) for address in addresses]
        return first

    def calls(
        self,
        endpoint: str | None = None,
        *,
        environment: str | None = None,
        customer_id: str | None = None,
        since: float | None = None,
    ) -> list[Call]:
        """Calls to Ottu's endpoints, oldest first; ``since`` in seconds since 1970."""
        return self._log.find(endpoint=endpoint, environment=environment, customer_id=customer_id, since=since)

    def deliveries(self) -> list[Delivery]:
        """How webhooks ended, in the order in which they did."""
        return self.courier.deliveries()

    @contextlib.contextmanager
    def held(self, point: Point) -> Iterator[Gates]:
        """Hold calls at a point within the block; call ``wait_until_waiting(point)`` on the gates that it yields."""
        self.gates.hold(point)
        try:
            yield self.gates
        finally:
            self.gates.release(point)

    def script_list(self, *faults: Fault) -> None:
        """The next list calls have these faults, one each."""
        self.faults.script("list", *faults)

    def script_delete(self, *faults: Fault) -> None:
        """The next delete calls have these faults, one each."""
        self.faults.script("delete", *faults)

    def _spawn(self, name: str, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=f"simulator-{name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _restore(self) -> None:
        if self._state_file is None or not self._state_file.exists():
            return
        state = json.loads(self._state_file.read_text(encoding="utf-8"))
        self.world.restore(state["world"])
        if state["seed"] == self.seed:
            # Continue, instead of sending the same webhooks and saving the same tokens again.
            self.shoppers.number, self._visits = state["actions"], state["visits"]

    def _keep_going(self) -> None:
        while not self._stopping.wait(KEEP_SECONDS):
            self._keep()

    def _keep(self) -> None:
        # The actions count too: after a restart, an action that changed nothing would otherwise be repeated and notified again.
        revision = (self.world.revision, self.shoppers.number, self._visits)
        if self._state_file is None or revision == self._kept_revision:
            return
        state = {
            "seed": self.seed,
            "actions": self.shoppers.number,
            "visits": self._visits,
            "world": self.world.snapshot(),
        }
        try:
            self._state_file.parent.mkdir(parents=True, exist_ok=True)
            write_private(self._state_file, json.dumps(state))
        except OSError:  # a full disk: the file from before stays, and the next turn tries again
            return
        self._kept_revision = revision


class _Server:
    """The application on a port, each connection in a thread."""

    def __init__(self, app: Any, host: str, port: int) -> None:
        live: set[socket.socket] = set()
        lock = threading.Lock()
        self._live, self._lock = live, lock

        class Handler(WSGIRequestHandler):
            """Logs nothing, because a deletion's URL holds the token. Registers its connection, so that ``stop`` can cut it."""

            def setup(self) -> None:
                with lock:
                    live.add(self.request)
                super().setup()

            def finish(self) -> None:
                with lock:
                    live.discard(self.request)
                super().finish()

            def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002  # its name there
                """Say nothing."""

        # Bound here, because werkzeug ends the whole process if the port is taken.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family, backlog=BACKLOG) as bound:
            self.port: int = bound.getsockname()[1]
            self._server = make_server(host, self.port, app, threaded=True, request_handler=Handler, fd=bound.fileno())

    def serve(self) -> None:
        self._server.serve_forever(poll_interval=0.05)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        with self._lock:
            for connection in self._live:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
