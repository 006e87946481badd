"""What operators do with endpoints and deliveries. A worker makes a secret, and it is shown to the session that asked."""

from __future__ import annotations

from typing import Final

from flask import Blueprint, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest

from cardsync import ciphers
from cardsync.core.card_numbers import looks_like_full_number
from cardsync.core.delivery import KINDS
from cardsync.errors import MalformedBody, Refused
from cardsync.outgoing.addresses import require_url
from cardsync.store.deliveries.endpoints import NAME_MAX
from cardsync.web.console import sessions
from cardsync.web.console.actions.forms import act, refused
from cardsync.web.console.actions.operations import ask

blueprint: Final = Blueprint("endpoint_actions", __name__)


@blueprint.post("/endpoints/enable")
def enable() -> ResponseReturnValue:
    """Let an endpoint be delivered to again."""
    return ask("enable_endpoint", _name())


@blueprint.post("/endpoints/disable")
def disable() -> ResponseReturnValue:
    """Deliver nothing more to an endpoint, and keep what waits."""
    return ask("disable_endpoint", _name())


@blueprint.post("/endpoints/test")
def try_one() -> ResponseReturnValue:
    """Send one signed message of type ``cardsync.test``."""
    return ask("test_endpoint", _name())


@blueprint.post("/endpoints/add")
def add() -> ResponseReturnValue:
    """Add an endpoint. Its address is kept in the journal, so one with a query, which may hold a key, is refused."""
    name, url, kind = _name(), request.form.get("url", "").strip(), request.form.get("kind", "")
    if kind not in KINDS or looks_like_full_number(name) or not name.isprintable():
        raise BadRequest
    try:
        if require_url(url).query:
            raise Refused("an address with a query is for the command line: cardsync endpoints add")
    except Refused as error:
        return refused(error)
    return ask("add_endpoint", name, filter_={"url": url, "kind": kind, **_answer()})


@blueprint.post("/endpoints/rotate")
def rotate() -> ResponseReturnValue:
    """Make a new secret; the old one signs beside it for a day."""
    return ask("rotate_endpoint", _name(), filter_=_answer())


@blueprint.post("/endpoints/remove")
def remove() -> ResponseReturnValue:
    """Remove an endpoint; what waits for it is given up."""
    return ask("remove_endpoint", _name())


@blueprint.post("/deliveries/<int:delivery_id>/replay")
def replay_delivery(delivery_id: int) -> ResponseReturnValue:
    """Send a delivery again, if its body is kept."""
    return ask("replay_delivery", str(delivery_id))


def _name() -> str:
    name = request.form.get("name", "").strip()
    if not 0 < len(name) <= NAME_MAX:
        raise BadRequest
    return name


def _answer() -> dict[str, str]:
    """Where the worker's answer goes: a key that this session alone can make again, of the request's own key."""
    who = act()
    return {"salt": str(who.key), "answer_to": ciphers.answer_address(ciphers.answer_key(who.secret, str(who.key)))}


def answer(sealed: str, salt: object) -> str | None:
    """What the worker answered; ``None`` for another session than the one that asked."""
    try:
        return ciphers.opened_answer(ciphers.answer_key(sessions.acting_secret(), str(salt)), sealed)
    except MalformedBody:
        return None
