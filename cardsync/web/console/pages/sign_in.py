"""Signing in by a link that works once, and out.

Opening the link begins the session, and the answer is a page that leads on by itself: a cookie that is ``SameSite=Strict`` is not
sent along a redirect that began on another site, such as a mail program's. Programs that look at links before people do (previews
in chats, scanners of mail) would use the link up: those that say what they are get a page with a button instead.
"""

from __future__ import annotations

import re
from typing import Final

import structlog
from flask import Blueprint, Response, make_response, redirect, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import SQLAlchemyError

from cardsync.store.console import operators
from cardsync.store.console import sessions as store
from cardsync.web.console import rendering, sessions
from cardsync.web.console.site import Site

log = structlog.get_logger(__name__)

blueprint: Final = Blueprint("sign_in", __name__)

_LOOKS_AHEAD: Final = re.compile(
    r"bot\b|bot/|preview|expand|scan|crawl|spider|facebookexternalhit|whatsapp", re.IGNORECASE
)


@blueprint.get("/sign-in")
def show() -> ResponseReturnValue:
    """Where one who is not signed in arrives: how to get a link."""
    return rendering.page("sign_in.html", link=None, refused=None)


@blueprint.get("/sign-in/<link>")
def by_link(link: str) -> ResponseReturnValue:
    """A link that somebody opened."""
    looks_ahead = request.method == "HEAD" or _LOOKS_AHEAD.search(request.headers.get("User-Agent", ""))
    prefetches = "prefetch" in (request.headers.get("Sec-Purpose", "") + request.headers.get("Purpose", ""))
    if looks_ahead or prefetches:
        return rendering.page("sign_in.html", link=link, refused=None)
    return _use(link)


@blueprint.post("/sign-in/<link>")
def use_link(link: str) -> ResponseReturnValue:
    """The page's button."""
    return _use(link)


def _use(link: str) -> ResponseReturnValue:
    site = Site.here()
    if not site.is_secure and not site.is_plain_and_local:
        return rendering.page("sign_in.html", status=403, link=None, refused="plain")
    secret, given = operators.new_secret(), sessions.decoded(link)
    try:
        with site.engine.connect() as connection:
            name = given and store.open_by_link(connection, given, secret, came_from=site.came_from())
    except SQLAlchemyError as error:
        log.warning("sign_in_not_possible", error=type(error).__name__)
        return rendering.page("sign_in.html", status=503, link=link, refused="away")
    if not name:
        return rendering.page("sign_in.html", status=403, link=None, refused="link")
    return signed_in(secret)


def signed_in(secret: bytes) -> Response:
    """The page that gives the browser its cookie, and leads on."""
    log.info("operator_signed_in")
    response = make_response(rendering.page("signed_in.html"))
    sessions.begin(response, secret)
    response.headers["Refresh"] = f"0; url={url_for('now.show')}"
    return response


@blueprint.post("/sign-out")
def sign_out() -> ResponseReturnValue:
    """End this session, or all of the operator's."""
    site = Site.here()
    with site.engine.connect() as connection:
        everywhere = request.form.get("everywhere") == "yes"
        store.close(connection, sessions.acting_secret(), everywhere=everywhere, came_from=site.came_from())
    response = redirect(url_for("sign_in.show"), code=303)
    assert isinstance(response, Response)
    sessions.forget(response)
    return response
