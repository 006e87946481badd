"""What every request passes before its page: who it is, what that operator may, and that a form comes from our own page.

The order is that of what an answer gives away: a form from elsewhere is refused first, then a request without a session, then a
role that is too low, then a form without its synchronizer token.
"""

from __future__ import annotations

from typing import Final

import structlog
from flask import Flask, g, redirect, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import Forbidden, LengthRequired, MethodNotAllowed, NotFound, ServiceUnavailable

from cardsync.web.console import sessions
from cardsync.web.console.roles import ROUTES, Rule
from cardsync.web.console.site import Site

log = structlog.get_logger(__name__)

MAX_FORM_BYTES: Final = 65_536
READS: Final = ("GET", "HEAD", "OPTIONS")


class NotOurForm(Forbidden):
    """A form that was not sent from a page of ours, or not of this session."""


class ReadOnly(Forbidden):
    """``CARDSYNC_CONSOLE_READ_ONLY`` turns all actions off."""


class NotTheRole(Forbidden):
    """The operator's role does not allow it."""


def register(app: Flask) -> None:
    """Let each request pass here first."""
    app.config["MAX_CONTENT_LENGTH"] = MAX_FORM_BYTES
    app.before_request(_check)


def _check() -> ResponseReturnValue | None:
    g.operator = None
    if request.routing_exception is not None:
        if isinstance(request.routing_exception, MethodNotAllowed | NotFound):
            return None  # Flask answers it
        raise request.routing_exception
    rule = ROUTES.get(request.endpoint or "")
    if rule is None:
        log.error("route_without_a_rule", endpoint=request.endpoint)
        raise NotTheRole
    if request.method not in READS:
        _require_own_page()
    return None if rule.role is None else _check_operator(rule)


def _check_operator(rule: Rule) -> ResponseReturnValue | None:
    assert rule.role is not None
    try:
        operator = sessions.find()
    except SQLAlchemyError as error:
        log.warning("session_not_read", error=type(error).__name__)
        raise ServiceUnavailable from error
    if operator is None:
        if request.method in READS:
            return redirect(url_for("sign_in.show"), code=303)
        raise NotTheRole
    if not operator.may(rule.role):
        raise NotTheRole
    if request.method not in READS:
        if not sessions.is_form_token(request.form.get("form_token", "")):
            raise NotOurForm
        if rule.writes and Site.here().settings.console_read_only:
            raise ReadOnly
    return None


def _require_own_page() -> None:
    """Raise ``NotOurForm`` for a form that another site sent.

    Every browser of today says ``Origin`` with a form, and those that leave it out say ``Sec-Fetch-Site``. A program that says
    neither has no cookie that a browser would send by itself, and needs the synchronizer token like all.
    """
    if request.headers.get("Transfer-Encoding"):  # Werkzeug cuts a chunked body silently where it is too long
        raise LengthRequired
    origin = request.headers.get("Origin")
    if origin is not None:
        if not Site.here().is_own_origin(origin):
            raise NotOurForm
    elif request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise NotOurForm
