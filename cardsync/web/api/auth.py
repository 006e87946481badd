"""Who may call the API: ``Authorization: Bearer <key>``, and the scope that a view asks for.

A key that is not well formed never reaches the database. A limited number of unknown keys a second does (``web.rate_limits``);
the rest get 429. So does a key that sends more requests a second than it may, or causes more calls to Ottu a day
(``web.key_quotas``); ``Retry-After`` says when it may again. 401 says the same for every reason; 403 names the scope.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Final, ParamSpec, TypeVar

from flask import g, request
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from cardsync.db import once_more_if_the_connection_was_dead
from cardsync.store.access import key_use, keys
from cardsync.store.access.key_use import CallQuota
from cardsync.store.access.keys import ApiKey, Scope
from cardsync.web import long_polls
from cardsync.web.responses import Problem
from cardsync.web.services import services

RATE_WINDOW_SECONDS: Final = 1

P = ParamSpec("P")
R = TypeVar("R")


def requires(*scopes: Scope) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let only keys with one of ``scopes`` call the view; ``caller()`` is then the key."""
    wanted = " or ".join(scopes)

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            g.api_key = key = _authenticate()
            if long_polls.WAITED not in request.environ and not services().key_quotas.lets_pass(key):
                raise too_many("The key sends more requests a second than it may.", RATE_WINDOW_SECONDS)
            if key.scopes.isdisjoint(scopes):
                raise Problem(
                    "insufficient_scope",
                    f"The key lacks the scope {wanted}.",
                    headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scopes[0]}"'},
                    extensions={"scope": wanted},
                )
            return view(*args, **kwargs)

        return guarded

    return decorate


def caller() -> ApiKey:
    """The key that the current request came with."""
    key = g.api_key
    assert isinstance(key, ApiKey)
    return key


def rate_limit_headers() -> dict[str, str]:
    """How many requests the current request's key may send a second, and how many are left.

    The header fields are those of draft-ietf-httpapi-ratelimit-headers. A request without a valid key gets none.
    """
    if "api_key" not in g:
        return {}
    key, window = caller(), RATE_WINDOW_SECONDS
    return {
        "RateLimit-Policy": f'"requests";q={key.requests_per_second};w={window}',
        "RateLimit": f'"requests";r={services().key_quotas.left(key)};t={window}',
    }


def call_quota() -> CallQuota:
    """The calls to Ottu that the current request's key may cause."""
    return services().key_quotas.calls(caller())


def calls_spent() -> Problem:
    """The answer for a key that has caused all the calls to Ottu that it may cause today."""
    with services().engine.connect() as connection:
        seconds = math.ceil(key_use.seconds_to_midnight(connection))
    return too_many("The key has caused all the calls to Ottu that it may cause today.", seconds, kind="calls_spent")


def too_many(detail: str, retry_after_seconds: int, *, kind: str = "rate_limited") -> Problem:
    """429, with the time after which it may be tried again."""
    return Problem(kind, detail, headers={"Retry-After": str(max(1, retry_after_seconds))})


def may_read_tokens() -> bool:
    """Tell whether the current request's key may see tokens."""
    return "tokens:read" in caller().scopes


def _authenticate() -> ApiKey:
    kind, _, presented = request.headers.get("Authorization", "").partition(" ")
    presented = presented.strip()
    known = None
    if kind.lower() == "bearer" and keys.is_well_formed(presented):
        known = _look_up(keys.key_hash(presented))
    if known is None:
        raise Problem(
            "invalid_key",
            "A valid key is required: Authorization: Bearer <key>.",
            headers={"WWW-Authenticate": 'Bearer realm="cardsync"'},
        )
    return known


def _look_up(key_hash: bytes) -> ApiKey | None:
    here = services()
    if not here.key_guesses.may_look_up(key_hash):
        raise too_many("Too many unknown keys are tried at the moment.", 1)
    try:
        known = once_more_if_the_connection_was_dead(lambda: _find(here.engine, key_hash))
    except SQLAlchemyError:
        here.key_guesses.note_failure(key_hash)  # or real keys would get 429 while the database has no connection left
        raise
    here.key_guesses.note(key_hash, known=known is not None)
    return known


def _find(engine: Engine, key_hash: bytes) -> ApiKey | None:
    with engine.connect() as connection:
        return keys.find(connection, key_hash)
