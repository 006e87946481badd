"""Who may call the API: ``Authorization: Bearer <key>``, and the scope that a view asks for.

A key that is not well formed never reaches the database, and of unknown ones only so many a second do (``guessing``): 429.
401 says the same for every reason; 403 names the scope.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from http import HTTPStatus
from typing import ParamSpec, TypeVar

from flask import g, request
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from cardsync.store import keys
from cardsync.store.keys import ApiKey, Scope
from cardsync.web.problems import Problem
from cardsync.web.services import services

P = ParamSpec("P")
R = TypeVar("R")


def requires(*scopes: Scope) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let only keys with one of ``scopes`` call the view; ``caller()`` is then the key."""
    wanted = " or ".join(scopes)

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            g.api_key = key = _authenticate()
            if key.scopes.isdisjoint(scopes):
                raise Problem(
                    HTTPStatus.FORBIDDEN,
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
            HTTPStatus.UNAUTHORIZED,
            "A valid key is required: Authorization: Bearer <key>.",
            headers={"WWW-Authenticate": 'Bearer realm="cardsync"'},
        )
    return known


def _look_up(key_hash: bytes) -> ApiKey | None:
    here = services()
    if not here.guesses.may_look_up(key_hash):
        raise Problem(
            HTTPStatus.TOO_MANY_REQUESTS, "Too many unknown keys are tried at the moment.", headers={"Retry-After": "1"}
        )
    known = _find(here.engine, key_hash)
    here.guesses.note(key_hash, known=known is not None)
    return known


def _find(engine: Engine, key_hash: bytes) -> ApiKey | None:
    """Look a key up; once more if the pooled connection had died unnoticed, so that no reader pays for a restart."""
    try:
        with engine.connect() as connection:
            return keys.find(connection, key_hash)
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
    with engine.connect() as connection:
        return keys.find(connection, key_hash)
