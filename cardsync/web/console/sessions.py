"""The session of a request: a cookie that holds its secret, and the synchronizer token that its forms carry.

Over https the cookie is ``__Host-cardsync``: Secure, for this host alone, HttpOnly, SameSite=Strict. On loopback over plain http
no browser would send a Secure cookie back to every program, so there it is ``cardsync-console``, with the rest the same. The
synchronizer token is made from the session's secret, one for each session, and reveals nothing of it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from typing import Final

from flask import Response, g, request

from cardsync.store.console import sessions
from cardsync.store.console.sessions import Operator
from cardsync.web.console.site import Site

SECURE_COOKIE: Final = "__Host-cardsync"
PLAIN_COOKIE: Final = "cardsync-console"
SESSION_SECONDS: Final = 12 * 3_600  # as the database has it, which decides

_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")


def decoded(text: str) -> bytes | None:
    """The 32 bytes of a link or a cookie; ``None`` if it cannot be one."""
    if _SECRET.fullmatch(text) is None:
        return None
    try:
        return base64.urlsafe_b64decode(f"{text}=")
    except binascii.Error:
        return None


def secret() -> bytes | None:
    """The secret that the request's cookie holds."""
    return decoded(request.cookies.get(_cookie(Site.here()), ""))


def find() -> Operator | None:
    """Who is signed in, by one statement; kept for the rest of the request."""
    held = secret()
    found = None
    if held is not None:
        with Site.here().engine.connect() as connection:
            found = sessions.find(connection, held)
    g.operator = found
    return found


def operator() -> Operator:
    """Who is signed in, on a route that needs a sign-in."""
    found: Operator = g.operator
    return found


def acting_secret() -> bytes:
    """The session's secret, for the functions of the database that act."""
    held = secret()
    assert held is not None, "the guard lets no request through without one"
    return held


def form_token() -> str:
    """The synchronizer token of this session's forms."""
    held = secret()
    assert held is not None
    return base64.urlsafe_b64encode(hmac.digest(held, b"cardsync console forms 1", hashlib.sha256)).decode()


def is_form_token(given: str) -> bool:
    """Tell whether a form was made for this session."""
    return hmac.compare_digest(given.encode(), form_token().encode())


def begin(response: Response, new: bytes) -> None:
    """Give the browser the cookie of a new session."""
    site = Site.here()
    response.set_cookie(
        _cookie(site),
        base64.urlsafe_b64encode(new).decode().rstrip("="),
        max_age=SESSION_SECONDS,
        path="/",
        secure=site.is_secure,
        httponly=True,
        samesite="Strict",
    )


def forget(response: Response) -> None:
    """Take the cookie back."""
    site = Site.here()
    response.delete_cookie(_cookie(site), path="/", secure=site.is_secure, httponly=True, samesite="Strict")


def _cookie(site: Site) -> str:
    return SECURE_COOKIE if site.is_secure else PLAIN_COOKIE
