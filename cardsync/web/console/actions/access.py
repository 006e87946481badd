"""What admins do: invite and disable operators, make and revoke keys of the API. A link or a key is shown once, on the answer."""

from __future__ import annotations

import base64
import uuid
from typing import Final

from flask import Blueprint, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest

from cardsync.core.card_numbers import looks_like_full_number
from cardsync.errors import Refused
from cardsync.store.access import keys
from cardsync.store.console import actions, operators
from cardsync.web.console import rendering
from cardsync.web.console.actions.forms import act, carry_out, refused
from cardsync.web.console.site import Site

blueprint: Final = Blueprint("access_actions", __name__)


@blueprint.post("/access/operators/invite")
def invite() -> ResponseReturnValue:
    """Show a link that signs an operator in, once."""
    who, name, role = act(), _name(), request.form.get("role", "")
    if role not in operators.ROLES:
        raise BadRequest
    link = operators.new_secret()
    try:
        with Site.here().engine.connect() as connection:
            actions.invite_operator(connection, who, name, role, link)
    except Refused as error:
        return refused(error)
    base = Site.here().settings.console_base
    address = f"{base}/sign-in/{base64.urlsafe_b64encode(link).decode().rstrip('=')}"
    return rendering.page("shown_once.html", what="link", name=name, secret=address)


@blueprint.post("/access/operators/disable")
def disable() -> ResponseReturnValue:
    """Sign an operator out everywhere, and let none of the sessions begin again."""
    who, name = act(), _name()
    return carry_out(
        lambda connection: actions.disable_operator(connection, who, name), done="disable", endpoint="access.show"
    )


@blueprint.post("/access/keys")
def create_key() -> ResponseReturnValue:
    """Make a key of the API and show it, this one time."""
    who, name = act(), _name()
    scopes = [scope for scope in keys.SCOPES if scope in request.form.getlist("scope")]
    days = request.form.get("days", type=int)
    if not scopes or (days is not None and not 1 <= days <= keys.LIFE_DAYS_MAX):
        raise BadRequest
    key = keys.new_key()
    try:
        with Site.here().engine.connect() as connection:
            actions.create_key(
                connection,
                who,
                name,
                hashed=keys.key_hash(key),
                prefix=keys.shown_prefix(key),
                scopes=scopes,
                days=days,
            )
    except Refused as error:
        return refused(error)
    return rendering.page("shown_once.html", what="key", name=name, secret=key)


@blueprint.post("/access/keys/<uuid:key_id>/revoke")
def revoke_key(key_id: uuid.UUID) -> ResponseReturnValue:
    """End a key of the API at once."""
    who = act()
    return carry_out(
        lambda connection: actions.revoke_key(connection, who, key_id), done="revoke_key", endpoint="access.show"
    )


def _name() -> str:
    """A name as the journal keeps it for good. Raises ``BadRequest`` for what is none."""
    name = request.form.get("name", "").strip()
    if not 0 < len(name) <= operators.NAME_MAX or not name.isprintable() or looks_like_full_number(name):
        raise BadRequest
    return name
