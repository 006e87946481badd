"""Bodies of a signature that came again wait for a write of their own: a fresh hint waits for none of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from werkzeug.test import Client

from cardsync.stories.receive import Authentic, Receipt, store
from cardsync.web.ingest import endpoint
from cardsync.web.ingest.known_repeats import SIGNATURES_MAX, KnownRepeats
from tests import payloads
from tests.waiting import until

JSON = "application/json"
PAYER = "cust-1"


def altered(number: int) -> bytes:
    """The same signature over the same fields, in another body."""
    return payloads.signed({**payloads.save_card(PAYER), "unsigned": f"altered-{number}"})


def status(client: Client, body: bytes) -> int:
    return client.post(endpoint.PATH, data=body, content_type=JSON).status_code


def test_a_fresh_hint_shares_no_write_with_known_repeats(
    make_client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that holds a repeat is held up; the fresh hint is answered meanwhile."""
    client, let_go, held = make_client(), threading.Event(), threading.Event()
    is_held = False

    def held_up(engine: Any, batch: Sequence[Authentic], *more: Any, **named: Any) -> Sequence[Receipt]:
        if is_held and any(one.new.event.customer_id == PAYER for one in batch):
            held.set()
            assert let_go.wait(60)
        return store(engine, batch, *more, **named)

    monkeypatch.setattr(endpoint, "store", held_up)
    monkeypatch.setattr(endpoint, "WRITE_SECONDS", 60)  # the repeats wait here, and do not go to the disk
    assert [status(client, altered(number)) for number in (1, 2)] == [200, 200]
    is_held = True
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(status(client, altered(3))))
    thread.start()
    try:
        until(held.is_set, "the write of the repeat has begun")
        assert status(client, payloads.signed(payloads.save_card("another", session_id="another"))) == 200
        assert answers == []
    finally:
        let_go.set()
        thread.join()
    assert answers == [200]


def test_what_came_least_lately_is_forgotten_first() -> None:
    known = KnownRepeats()
    names = [str(number).encode() for number in range(SIGNATURES_MAX)]
    for name in names:
        known.add(name)
    known.add(names[0])
    known.add(b"one more")
    assert names[0] in known
    assert names[1] not in known
    assert b"one more" in known
    known.add(None)
    assert None not in known
