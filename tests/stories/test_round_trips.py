"""How often a worker waits for PostgreSQL: round trips counted on the wire, where libpq writes down what it sends.

A round trip is a message that asks the server to answer (Query, Sync, Flush) after commands that it has not answered yet. So a
BEGIN that is sent alone counts, as a COMMIT does, and statements that are sent together count once. The web's insert is no part.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import event

from cardsync.settings import Settings
from tests.factories import SECRET
from tests.stories.shop import Shop, listed
from tests.waiting import until
from workers.dispatch.dispatcher import Dispatcher
from workers.dispatch.kinds import WorkerContext, kinds

TO_AN_ACTIVE_CARD: Final = 10
AN_UNCHANGED_LOOK: Final = 6
AN_UNCHANGED_LIST: Final = 12  # of 40 cards with 5 agreements each
CARDS, EACH = 40, 5
WARM: Final = 7  # psycopg prepares a statement when it has sent it five times, in a round trip of its own
THREADS: Final = 4

_SENT: Final = re.compile(
    r"^\d{4}-\d\d-\d\d [\d:.]+\tF\t\d+\t(\w+)", re.MULTILINE
)  # a statement may have several lines
_ASKS: Final = ("Sync", "Flush")
_COMMANDS: Final = ("Parse", "Bind", "Execute", "Describe", "Close")


def round_trips(trace: str) -> int:
    """How many there are in what libpq wrote: time, side, length, message and its parts, with tabs between."""
    count, is_waiting = 0, False
    for message in _SENT.findall(trace):
        if message == "Query" or (message in _ASKS and is_waiting):
            count, is_waiting = count + 1, False
        elif message in _COMMANDS:
            is_waiting = True
    return count


@pytest.fixture
def worker(shop: Shop, tmp_path: Path) -> Iterator[Callable[[Callable[[], object]], int]]:
    """Lets a worker do what is due, after something was done, and counts its round trips."""
    path = tmp_path / "trace"
    with path.open("w+") as trace:

        def write_down(driver: Any, *_: object) -> None:
            driver.pgconn.trace(trace.fileno())

        settings = Settings.model_validate({"secret_key": SECRET.decode(), "data_dir": tmp_path})
        shop.worker.dispose()
        event.listen(shop.worker, "connect", write_down)
        context = WorkerContext(settings, shop.worker, shop.ottu, "0123456789", SECRET)  # type: ignore[arg-type]
        dispatcher = Dispatcher(shop.worker, kinds(context), threads=THREADS)

        def work_after(done: Callable[[], object]) -> int:
            done()
            before = path.stat().st_size
            assert dispatcher.turn()
            until(lambda: dispatcher.jobs == 0, "all jobs end")
            with path.open() as lines:
                lines.seek(before)
                return round_trips(lines.read())

        yield work_after
        dispatcher.close()
        shop.worker.dispose()


def _outcomes(shop: Shop) -> list[str]:
    return [row.outcome for row in shop.execute("SELECT outcome FROM cardsync.observations ORDER BY observation_no")]


def test_a_hint_that_becomes_an_active_card(shop: Shop, worker: Callable[[Callable[[], object]], int]) -> None:
    shop.ottu.cards = listed("9999000000000001")
    counts = [worker(partial(shop.receive, f"cust-{n}")) for n in range(WARM)]
    assert shop.cards(f"cust-{WARM - 1}") == {"9999000000000001": "active"}
    assert counts[-1] <= TO_AN_ACTIVE_CARD, counts


def test_a_hint_that_names_an_agreement_too(shop: Shop, worker: Callable[[Callable[[], object]], int]) -> None:
    counts = []
    for n in range(WARM):
        shop.ottu.cards = listed("9999000000000001", agreements=(f"agreement-{n}",))
        counts.append(worker(partial(shop.receive, f"cust-{n}", agreement={"id": f"agreement-{n}"})))
    assert shop.execute("SELECT count(*) FROM registry.agreement_cards")[0][0] == WARM
    assert counts[-1] <= TO_AN_ACTIVE_CARD, counts


def _swept(shop: Shop) -> None:
    shop.execute("UPDATE cardsync.customers SET due_at = clock_timestamp(), lane = 'sweep'")


@pytest.mark.parametrize(
    ("cards", "each", "most"), [(1, 0, AN_UNCHANGED_LOOK), (CARDS, EACH, AN_UNCHANGED_LIST)], ids=["one", "many"]
)
def test_an_unchanged_list(
    shop: Shop, worker: Callable[[Callable[[], object]], int], cards: int, each: int, most: int
) -> None:
    shop.ottu.cards = tuple(
        card
        for n in range(cards)
        for card in listed(f"9999{n:012}", agreements=tuple(f"agreement-{n}-{m}" for m in range(each)))
    )
    worker(partial(shop.receive, "cust-1"))
    counts = [worker(partial(_swept, shop)) for _ in range(WARM)]
    assert _outcomes(shop) == ["changed", *["unchanged"] * WARM]
    assert shop.execute("SELECT count(*) FROM cardsync.agreements")[0][0] == cards * each
    assert counts[-1] <= most, counts


def test_what_is_sent_alone_counts_and_what_is_sent_together_counts_once() -> None:
    def trace(*messages: str) -> str:
        return "".join(f"2026-01-01 00:00:00.000000\t{m[0]}\t4\t{m[1:]}\n" for m in messages)

    assert round_trips(trace("FQuery", "BCommandComplete", "FQuery")) == 2
    together = ("FParse", "FBind", "FExecute", "FBind", "BParseComplete", "FExecute")
    assert round_trips(trace(*together, "FSync", "FFlush")) == 1
    assert round_trips(trace(*together, "FFlush", *together, "FSync")) == 2
