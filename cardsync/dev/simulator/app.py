"""Ottu's endpoints: what they check, and what they answer when nothing fails.

The desk does what comes before and after: credentials, faults, held calls.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, cast, get_args

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from cardsync.dev.simulator import inquiry
from cardsync.dev.simulator.cards import Environment
from cardsync.dev.simulator.desk import BadRequestError, Desk, as_json, detail
from cardsync.dev.simulator.world import World

LIST_PATH: Final = "/b/pbl/v2/card/"
MAX_BODY_BYTES: Final = 1_048_576
MAX_PAGE: Final = 100
_FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data")


@dataclass(frozen=True, slots=True)
class ListRequest:
    """A valid list request."""

    environment: Environment
    customer_id: str
    pg_codes: list[str]
    agreement_id: str | None


def create_app(desk: Desk, hosts: Collection[str] = ("localhost",)) -> Flask:
    """Build the application with Ottu's endpoints; ``control.mount`` adds the stand-in's own.

    It answers to these names and to plain addresses alone. A page in the developer's browser can make a name of its own mean
    127.0.0.1 (DNS rebinding), and would then be let in to the controls.
    """
    app = Flask("ottu-stand-in", static_folder=None)
    app.before_request(lambda: None if _is_ours(request.host, hosts) else detail("Unknown host.", 421))
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.url_map.merge_slashes = False  # a redirect would show the token once more

    @app.post(LIST_PATH)
    def list_cards() -> Response:
        parsed: dict[str, Any] | BadRequestError
        try:
            parsed = _body()
        except BadRequestError as refused:
            parsed = refused
        said = parsed if isinstance(parsed, dict) else {}

        def work() -> Response:
            if isinstance(parsed, BadRequestError):
                raise parsed
            return _listed(desk.world, read_list_request(parsed))

        return desk.serve("list", str(said.get("type", "")), str(said.get("customer_id", "")), work)

    @app.delete(f"{LIST_PATH}<path:token>/")
    def delete_card(token: str) -> Response:
        environment, customer_id = request.args.get("type", ""), request.args.get("customer_id", "")

        def work() -> Response:
            wrong = _wrong_owner({"type": environment or None, "customer_id": customer_id or None})
            if wrong:
                raise BadRequestError(wrong)
            return _deleted(desk.world.delete(cast("Environment", environment), customer_id, token))

        return desk.serve("delete", environment, customer_id, work)

    inquiry.mount(app, desk, _body)

    @app.errorhandler(HTTPException)
    def as_ottu_says(error: HTTPException) -> Response:
        if error.code == 405:
            return detail(f'Method "{request.method}" not allowed.', 405)
        return detail("Not found." if error.code == 404 else error.name, error.code or 500)

    return app


def _is_ours(host: str, hosts: Collection[str]) -> bool:
    name, _, port = host.rpartition(":")
    bare = (name if name and port.isdigit() else host).removeprefix("[").removesuffix("]").lower()
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        return bare in hosts
    return True


def read_list_request(body: dict[str, Any]) -> ListRequest:
    """Check the body of a list request. Raises ``BadRequestError`` with the errors of all fields."""
    wrong = _wrong_owner(body)
    pg_codes, agreement_id = body.get("pg_codes"), body.get("agreement_id")
    if pg_codes is not None and not isinstance(pg_codes, list):
        wrong["pg_codes"] = [f'Expected a list of items but got type "{type(pg_codes).__name__}".']
    if agreement_id is not None and not isinstance(agreement_id, str):
        wrong["agreement_id"] = ["Not a valid string."]
    if wrong:
        raise BadRequestError(wrong)
    codes = [str(code) for code in pg_codes or []]
    return ListRequest(body["type"], body["customer_id"], codes, agreement_id or None)


def _wrong_owner(fields: dict[str, Any]) -> dict[str, Any]:
    wrong: dict[str, Any] = {}
    if fields.get("type") is None:
        wrong["type"] = ["This field is required."]
    elif fields["type"] not in get_args(Environment):
        wrong["type"] = [f'"{fields["type"]}" is not a valid choice.']
    customer_id = fields.get("customer_id")
    if customer_id is None:
        wrong["customer_id"] = ["This field is required."]
    elif not isinstance(customer_id, str):
        wrong["customer_id"] = ["Not a valid string."]
    elif not customer_id.strip():
        wrong["customer_id"] = ["This field may not be blank."]
    return wrong


def _body() -> dict[str, Any]:
    """Read a JSON or a form body. Raises ``BadRequestError``: 415 for any other media type, 400 for a body that is no object."""
    if request.mimetype in _FORMS:
        fields: dict[str, Any] = request.form.to_dict()
        if "pg_codes" in fields:
            fields["pg_codes"] = request.form.getlist("pg_codes")
        return fields
    if request.mimetype != "application/json":
        raise BadRequestError({"detail": "Unsupported media type in request."}, 415)
    try:
        body = json.loads(request.get_data())
    except (ValueError, RecursionError):
        raise BadRequestError({"detail": "JSON parse error."}) from None
    if not isinstance(body, dict):
        raise BadRequestError({"non_field_errors": ["Invalid data. Expected a dictionary."]})
    return body


def _listed(world: World, asked: ListRequest) -> Response:
    cards = world.list_cards(asked.environment, asked.customer_id, asked.pg_codes, asked.agreement_id)
    if world.knobs.extra_fields:
        cards = [{**card, "undocumented": {"nested": [1, None]}, "x_flag": True} for card in cards]
    if world.knobs.list_shape == "pages":
        return as_json(_page(cards, world.knobs.page_size))
    # One object can only be one card: with none or several, even a gateway that answers with objects must answer with a list.
    return as_json(cards[0] if world.knobs.list_shape == "object" and len(cards) == 1 else cards)


def _page(cards: list[dict[str, Any]], page_size: int) -> dict[str, Any]:
    limit = min(_number("limit", page_size) or page_size, MAX_PAGE)
    offset = _number("offset", 0)

    def link(at: int) -> str:
        return f"{request.host_url.rstrip('/')}{LIST_PATH}?limit={limit}&offset={at}"

    return {
        "count": len(cards),
        "next": link(offset + limit) if offset + limit < len(cards) else None,
        "previous": link(max(0, offset - limit)) if offset else None,
        "results": cards[offset : offset + limit],
    }


def _number(name: str, default: int) -> int:
    text = request.args.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else default


def _deleted(status: int) -> Response:
    if status == 204:
        return Response(status=204, mimetype="application/json")
    if status == 404:
        return detail("Not found.", 404)
    return detail("The card is tied to an auto-debit agreement and cannot be deleted.", status)
