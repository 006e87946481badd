"""An endpoint of the merchant's that gets the changes of the machine's own registry, and answers as it likes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, Literal

from sqlalchemy import Engine, text

from cardsync.outgoing import Ended, Message, Sender
from cardsync.store.deliveries import batches, endpoints
from cardsync.stories import endpoints as story
from cardsync.stories.deliver import Courier
from cardsync.stories.endpoints import NewEndpoint
from tests.factories import RING
from tests.machine.clock import Clock

NAME: Final = "consumer"
DAY_SECONDS: Final = 86_400
ROUNDS: Final = 50

# What becomes of a message: the status of its answer, none in time, or the end of the worker, after it arrived or before.
Ending = Literal[200, 500, "no answer", "killed after", "killed before"]
ENDINGS: Final[tuple[Ending, ...]] = (200, 200, 500, "no answer", "killed after", "killed before")

_FEED: Final = text("""
    SELECT seq, at, card_id, environment, customer_id, change, fields, cause, epoch FROM registry.card_changes ORDER BY seq
""")


class _Held(Sender):
    """Holds each message until the machine ends it."""

    def __init__(self) -> None:
        self.under_way: list[tuple[Message, Callable[[Ended], None]]] = []

    def send(self, message: Message, then: Callable[[Ended], None] = lambda _: None) -> Any:
        self.under_way.append((message, then))


class Consumer:
    """What a consumer keeps: the changes that it has handled, in order, each once."""

    def __init__(self, worker: Engine, observer: Engine, clock: Clock) -> None:
        self._worker, self._observer, self._clock = worker, observer, clock
        self.handled: list[dict[str, Any]] = []
        story.add(worker, NewEndpoint(NAME, "https://consumer.example.test/", "changes"), RING)
        self._begin()

    def _begin(self) -> None:
        """A worker starts, the first time or after it was killed."""
        self._sender = _Held()
        self._courier = Courier(self._worker, RING, self._sender, jitter=lambda: 0.5)

    def turn(self, ending: Ending) -> None:
        """A worker sends what is due, and it ends like this."""
        self._courier.turn()
        assert len(self._sender.under_way) <= 1, "two batches are under way at once"
        for message, then in self._sender.under_way:
            if ending in (200, "killed after"):
                self._handle(message)
            if ending in (200, 500, "no answer"):
                then(Ended(None, "no answer in time") if ending == "no answer" else Ended(int(ending), None))
        if ending in ("killed after", "killed before"):
            self._begin()
        else:
            self._sender.under_way.clear()
            self._courier.turn(claim=False)

    def _handle(self, message: Message) -> None:
        """Handle what is new in a batch: a batch comes again if its end was not written down."""
        batch = json.loads(message.body)["data"]["changes"]
        numbers = [change["seq"] for change in batch]
        expected = len(self.handled) + 1
        assert numbers == list(range(numbers[0], numbers[-1] + 1)), "a batch has a gap, or another order"
        assert numbers[0] <= expected, "changes were skipped"
        self.handled += [change for change in batch if change["seq"] >= expected]

    def check_all_arrived(self) -> None:
        """Let it answer well: then it has the whole feed, as SQL shows it."""
        with self._worker.begin() as connection:
            endpoints.enable(connection, NAME)  # after five days of trouble it is disabled
        with self._observer.connect() as connection:
            feed = [json.loads(json.dumps(batches.as_json(dict(row)))) for row in connection.execute(_FEED).mappings()]
        for _ in range(ROUNDS):
            if len(self.handled) >= len(feed):
                break
            self._clock.pass_(DAY_SECONDS)
            self.turn(200)
        assert self.handled == feed, "what arrived is not the feed"
