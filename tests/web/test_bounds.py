"""Bounds that need no server: bodies that arrive at once, and keys tried at random."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, event

from cardsync.errors import MalformedBody
from cardsync.store.access import keys
from cardsync.web.ingest.body import EXAMINED_AT_ONCE_BYTES, SMALL_BYTES, BodyReader
from cardsync.web.rate_limits import UNKNOWN_A_SECOND, KeyGuessLimiter
from cardsync.web.responses import Problem

QUERY = {"environment": "sandbox", "customer_id": "cust-1"}


class Sender:
    """Sends its body when it is let."""

    def __init__(self, body: bytes) -> None:
        self.go, self._body = asyncio.Event(), body

    async def __call__(self) -> bytes:
        await self.go.wait()
        return self._body


def read(bodies: BodyReader, sender: Sender, length: int) -> asyncio.Task[bytes]:
    return asyncio.ensure_future(bodies.take(cast("Any", sender), length, bytes))


def test_large_bodies_share_a_room_and_small_ones_always_have_some() -> None:
    async def scene() -> None:
        large, bodies = SMALL_BYTES + 1, BodyReader(large_room_bytes=2 * SMALL_BYTES)
        first, small = Sender(b"a" * large), Sender(b"b")
        reading = read(bodies, first, large)
        await asyncio.sleep(0)
        with pytest.raises(Problem) as refused:
            await read(bodies, Sender(b""), large)
        assert refused.value.code == 503
        small.go.set()
        assert await read(bodies, small, 1) == b"b"
        first.go.set()
        assert len(await reading) == large
        again = Sender(b"c" * large)
        again.go.set()
        assert len(await read(bodies, again, large)) == large

    asyncio.run(scene())


def test_a_body_that_does_not_come_gives_its_room_back() -> None:
    async def scene() -> None:
        large, bodies = SMALL_BYTES + 1, BodyReader(body_seconds=0.01, large_room_bytes=SMALL_BYTES + 1)
        for _ in range(2):
            with pytest.raises(MalformedBody, match="did not arrive"):
                await read(bodies, Sender(b""), large)

    asyncio.run(scene())


def test_a_large_body_that_takes_long_to_examine_holds_no_small_one_up() -> None:
    async def scene() -> None:
        bodies, go, at_it = BodyReader(), threading.Event(), threading.Event()

        def examine(body: bytes) -> int:
            if len(body) > EXAMINED_AT_ONCE_BYTES:
                at_it.set()
                assert go.wait(60)
            return len(body)

        size = EXAMINED_AT_ONCE_BYTES + 1
        first, small = Sender(b"a" * size), Sender(b"b")
        first.go.set()
        small.go.set()
        large = asyncio.ensure_future(bodies.take(cast("Any", first), size, examine))
        await asyncio.to_thread(at_it.wait, 60)
        assert await bodies.take(cast("Any", small), 1, examine) == 1
        assert not large.done()
        go.set()
        assert await large == size
        bodies.close()

    asyncio.run(scene())


def test_unknown_keys_are_looked_up_so_often_a_second_and_known_ones_always() -> None:
    now = [0.0]
    key_guesses = KeyGuessLimiter(2, clock=lambda: now[0])
    assert key_guesses.may_look_up(b"real")
    key_guesses.note(b"real", known=True)
    assert [key_guesses.may_look_up(b"%d" % n) for n in range(3)] == [True, True, False]
    assert key_guesses.may_look_up(b"real")
    now[0] = 1.0
    assert key_guesses.may_look_up(b"guess")
    key_guesses.note(b"real", known=False)  # revoked
    assert key_guesses.may_look_up(b"real")  # like any other from here on
    assert not key_guesses.may_look_up(b"real")


def test_keys_tried_at_random_cost_few_look_ups_and_no_real_key_anything(
    app: Flask, client: FlaskClient, bearer: Callable[..., dict[str, str]], web_engine: Engine
) -> None:
    real, looked_up = bearer(), []
    app.extensions["cardsync"] = replace(app.extensions["cardsync"], key_guesses=KeyGuessLimiter(clock=lambda: 0.0))
    assert client.get("/v1/cards", query_string=QUERY, headers=real).status_code == 200

    @event.listens_for(web_engine, "before_cursor_execute")
    def _count(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        if "api_keys" in statement:
            looked_up.append(statement)

    answers = [
        client.get("/v1/cards", query_string=QUERY, headers={"Authorization": f"Bearer {keys.new_key()}"})
        for _ in range(200)
    ]
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) <= {401, 429}
    assert statuses.count(401) == len(looked_up) == UNKNOWN_A_SECOND
    assert next(a for a in answers if a.status_code == 429).headers["Retry-After"] == "1"
    assert client.get("/v1/cards", query_string=QUERY, headers=real).status_code == 200


def test_what_is_no_key_of_ours_is_never_looked_up(client: FlaskClient, web_engine: Engine) -> None:
    @event.listens_for(web_engine, "before_cursor_execute")
    def _fail(*_: object) -> None:
        raise AssertionError("the database was asked")

    for tried in ("csk_' OR 1=1", "csk_" + "a" * 44, "csk_" + "a" * 42, "a" * 47, "csk_" + "ä" * 43, ""):
        headers = {"Authorization": f"Bearer {tried}"}
        assert client.get("/v1/cards", query_string=QUERY, headers=headers).status_code == 401
