"""The console's application, put together from its parts."""

from __future__ import annotations

from typing import Any

import structlog
from flask import Flask, g
from sqlalchemy import Engine, event
from werkzeug.exceptions import HTTPException

from cardsync.errors import places
from cardsync.settings import Settings
from cardsync.web.console import guard, headers, health, keyset, preferences, rendering, shown
from cardsync.web.console.actions import ACTIONS
from cardsync.web.console.pages import PAGES
from cardsync.web.console.preferences import Preferences
from cardsync.web.console.site import Site
from cardsync.web.console.words import N_, _

log = structlog.get_logger(__name__)

# What an error's page says, and what to do next.
_SAYS = {
    400: N_("The form is not complete. Go back, and send it again."),
    401: N_("Sign in first."),
    403: N_("This is not allowed."),
    404: N_("There is no such page, or what it showed is gone."),
    405: N_("This address takes no such request."),
    409: N_("This was not done, since it does not fit what stands there now."),
    411: N_("The request does not say how long it is."),
    413: N_("The form is too long."),
    503: N_("The database does not answer. Try again in a moment."),
}
_SAYS_OF = {
    "NotTheRole": N_("Your role does not allow this. Ask an admin of this console."),
    "NotOurForm": N_(
        "The form was not sent from a page of this console, or it is of an older session. Open the page again."
    ),
    "ReadOnly": N_("This console is read-only: CARDSYNC_CONSOLE_READ_ONLY is set."),
}


def create_app(settings: Settings, *, engine: Engine) -> Flask:
    """Make the application. ``engine`` commits each statement by itself. Nothing is connected to here."""
    event.listen(engine, "connect", _plan_each_time)
    app = Flask("cardsync.web.console", static_folder="static", template_folder="templates")
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False
    Site.of(settings, engine).store_in(app)
    headers.register(app)
    preferences.register(app)
    guard.register(app)
    rendering.register(app)
    shown.register(app)
    keyset.register(app)
    app.register_error_handler(HTTPException, _refuse)
    app.register_error_handler(Exception, _fail)
    app.register_blueprint(health.blueprint)
    for one in (*PAGES, *ACTIONS):
        app.register_blueprint(one)
    return app


def _plan_each_time(session: Any, _record: object) -> None:
    """Let PostgreSQL plan each statement for what it is given: a plan for any place may read a whole table for this one."""
    session.prepare_threshold = None


def _refuse(error: HTTPException) -> tuple[str, int]:
    status = error.code or 500
    said = _SAYS_OF.get(type(error).__name__) or _SAYS.get(status) or N_("Something went wrong here.")
    return _error_page(status, _(said))


def _fail(error: Exception) -> tuple[str, int]:
    """An error that was not expected: its class and places are logged, its text may hold a secret."""
    log.error("page_failed", error=type(error).__name__, places=places(error))
    return _error_page(500, _("Something went wrong here. The log says where."))


def _error_page(status: int, said: str) -> tuple[str, int]:
    if "preferences" not in g:
        g.preferences = Preferences()
    g.setdefault("operator", None)
    return rendering.page("error.html", status=status, code=status, message=said)
