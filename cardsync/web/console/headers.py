"""Headers of every answer: nothing inline, nothing from elsewhere, in no frame, and no page is stored.

``Referrer-Policy`` is ``same-origin``: with ``no-referrer`` browsers send forms with ``Origin: null``, which is any site's.
"""

from __future__ import annotations

import hashlib
from typing import Final

from flask import Flask, Response, g, request

from cardsync.web import headers as web_headers

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "style-src 'self'",
        "script-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS: Final = (
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=()"),
    ("Server", "cardsync"),
)
ASSET_SECONDS: Final = 31_536_000  # an asset's address holds a hash of its content


def register(app: Flask) -> None:
    """Give each answer its headers, and each page a tag by which the browser's next look costs no body."""
    app.before_request(lambda: web_headers.begin(request.environ.get("HTTP_X_REQUEST_ID", "")))
    app.after_request(_finish)


def _finish(response: Response) -> Response:
    for name, value in _HEADERS:
        response.headers[name] = value
    response.headers["X-Request-ID"] = web_headers.request_id()
    if request.endpoint == "static" and response.status_code == 200:
        response.headers["Cache-Control"] = f"public, max-age={ASSET_SECONDS}, immutable"
        return response
    response.headers["Cache-Control"] = "no-store"
    response.headers["Vary"] = "Cookie"
    if request.method == "GET" and response.status_code == 200 and response.mimetype == "text/html":
        response.set_etag(_tag(response))
        response.make_conditional(request)
    return response


def _tag(response: Response) -> str:
    """A hash of what a page says; the keys of its forms are new each time, and say nothing."""
    body = response.get_data()
    for key in g.get("request_keys", ()):
        body = body.replace(key.encode(), b"")
    return hashlib.sha256(body).hexdigest()[:32]
