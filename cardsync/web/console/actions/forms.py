"""What the forms of actions have in common: their key, a reason, and what a refusal means to the person."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from flask import redirect, request, url_for
from flask.typing import ResponseReturnValue
from markupsafe import escape
from sqlalchemy import Connection
from werkzeug.exceptions import BadRequest

from cardsync.core.card_numbers import looks_like_full_number
from cardsync.errors import Conflict, NotFound, NotSignedIn, Refused, RoleTooLow, SignInTooOld
from cardsync.store.console.actions import Act
from cardsync.web.console import rendering, sessions, stored
from cardsync.web.console.site import Site
from cardsync.web.console.words import N_, _

Value = TypeVar("Value")

REASON_MAX: Final = 200  # characters

_STATUS: Final[Mapping[type[Refused], int]] = {
    NotSignedIn: 401,
    RoleTooLow: 403,
    SignInTooOld: 403,
    NotFound: 404,
    Conflict: 409,
}
_SAID: Final[Mapping[type[Refused], str]] = {
    NotSignedIn: N_("Your session has ended. Sign in again."),
    RoleTooLow: N_("Your role does not allow this. Ask an admin of this console."),
    SignInTooOld: N_("This needs a sign-in of the last ten minutes. Sign in again, and come back."),
    NotFound: N_("There is no such thing any more."),
}


def act() -> Act:
    """Who acts now. Raises ``BadRequest`` for a form without a key."""
    try:
        key = uuid.UUID(request.form.get("request_key", ""))
    except ValueError:
        raise BadRequest from None
    return Act(sessions.acting_secret(), Site.here().came_from(), key)


def reason() -> str | None:
    """Why, in the operator's words. Raises ``BadRequest`` if they hold what looks like a card number, or are too long."""
    said = " ".join(request.form.get("reason", "").split())
    if len(said) > REASON_MAX or looks_like_full_number(said):
        raise BadRequest
    return said or None


def carry_out(
    action: Callable[[Connection], Value], *, done: str, endpoint: str, **values: object
) -> ResponseReturnValue:
    """Act, and lead to a page that says so; a refusal is a page with its reason."""
    try:
        with Site.here().engine.connect() as connection:
            action(connection)
    except Refused as error:
        return refused(error)
    return redirect(url_for(endpoint, done=done, **values), code=303)  # type: ignore[arg-type]


def refused(error: Refused) -> ResponseReturnValue:
    """A page that says why something was not done."""
    kind = type(error)
    said = (
        _(_SAID[kind]) if kind in _SAID else escape(_("This was not done: %(why)s.")) % {"why": stored.said(str(error))}
    )
    status = _STATUS.get(kind, 400)
    return rendering.page("error.html", status=status, code=status, message=said)
