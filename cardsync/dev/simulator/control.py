"""The stand-in's control API under ``/_simulator/``: set knobs, act as a shopper, read the calls and the true cards.

Rules: it answers only loopback, whatever address the server listens on, because it shows tokens (``truth``) and can change
everything. The list of calls and the deliveries contain no token.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Final, cast, get_args

from flask import Blueprint, Response, request
from pydantic import ValidationError

from cardsync.dev.simulator.calls import POINTS, CallLog, Endpoint, Gates, Point
from cardsync.dev.simulator.cards import Environment
from cardsync.dev.simulator.checkout import Checkout, Visit
from cardsync.dev.simulator.delivery import Courier
from cardsync.dev.simulator.desk import as_json, detail
from cardsync.dev.simulator.faults import Faults
from cardsync.dev.simulator.world import NoSuchCardError, World

PREFIX: Final = "/_simulator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """The parts of one simulator that the control API uses. The server stands above this module and hands them in."""

    world: World
    faults: Faults
    gates: Gates
    calls: CallLog
    courier: Courier
    checkout: Callable[..., Checkout]
    deliver: Callable[[dict[str, Any]], object]


def blueprint(controls: Controls) -> Blueprint:
    """Build the control API of one controls."""
    control = Blueprint("control", __name__, url_prefix=PREFIX)
    control.before_request(_loopback_only)
    for wrong in (ValidationError, ValueError, TypeError, KeyError, NoSuchCardError):
        control.register_error_handler(wrong, _bad_request)
    _add_knobs(control, controls)
    _add_actions(control, controls)
    _add_reports(control, controls)
    return control


def _add_knobs(control: Blueprint, controls: Controls) -> None:
    @control.get("/knobs")
    def knobs() -> Response:
        return as_json(controls.world.knobs.model_dump())

    @control.put("/knobs")
    def turn() -> Response:
        """Change the knobs that are named and leave the others."""
        return as_json(controls.world.turn(**_object()).model_dump())

    @control.post("/script")
    def script() -> Response:
        asked = _object()
        controls.faults.script(_endpoint(asked), *asked["faults"])
        return Response(status=204)

    @control.post("/hold")
    def hold() -> Response:
        controls.gates.hold(_point(_object()["point"]))
        return Response(status=204)

    @control.post("/release")
    def release() -> Response:
        points = _object().get("points", POINTS)
        controls.gates.release(*(_point(point) for point in points))
        return Response(status=204)

    @control.get("/held")
    def held() -> Response:
        return as_json({point: controls.gates.waiting(point) for point in POINTS})


def _add_actions(control: Blueprint, controls: Controls) -> None:
    @control.post("/actions")
    def act() -> Response:
        """Act once as a shopper: ``{"action", "environment", ...}``; the answer contains the token.

        An action that Ottu notifies takes ``plugin`` and ``webhook_url`` too, which decide where its webhook goes.
        """
        asked = _object()
        visit = partial(controls.checkout, **{name: asked.pop(name) for name in _WHERE if name in asked})
        action = asked.pop("action")
        if action not in _ACTIONS:
            raise ValueError(f"action must be one of {', '.join(_ACTIONS)}")
        if asked.get("environment") not in get_args(Environment):
            raise ValueError("environment must be sandbox or production")
        done = _ACTIONS[action](replace(controls, checkout=visit), asked)
        return as_json(_summary(done) if isinstance(done, Visit) else {"action": action, "status": done})

    @control.post("/webhooks")
    def send() -> Response:
        """Sign the object and send it as a webhook."""
        controls.deliver(_object())
        return Response(status=202)


def _add_reports(control: Blueprint, controls: Controls) -> None:
    @control.get("/truth")
    def truth() -> Response:
        """The true cards, without lags: of one customer, or of all."""
        environment, customer_id = request.args.get("environment"), request.args.get("customer_id")
        return as_json(
            [
                {"environment": e, "customer_id": c, "tokens": sorted(controls.world.truth(e, c))}
                for e, c in controls.world.owners()
                if environment in (None, e) and customer_id in (None, c)
            ]
        )

    @control.get("/calls")
    def calls() -> Response:
        since = request.args.get("since")
        found = controls.calls.find(
            endpoint=request.args.get("endpoint"),
            environment=request.args.get("environment"),
            customer_id=request.args.get("customer_id"),
            since=None if since is None else float(since),
        )
        return as_json({"count": len(found), "calls": [asdict(call) for call in found]})

    @control.get("/deliveries")
    def deliveries() -> Response:
        return as_json([asdict(delivery) for delivery in controls.courier.deliveries()])


def _end_agreement(controls: Controls, arguments: dict[str, Any]) -> int:
    controls.world.end_agreement(**arguments)
    return 200


_WHERE: Final = ("plugin", "webhook_url")
# Arguments go as keywords to the method of the same name: a wrong one raises TypeError, which is answered with 400.
_ACTIONS: Final[dict[str, Callable[[Controls, dict[str, Any]], Visit | int]]] = {
    "save_card": lambda c, a: c.checkout().save_card(**a),
    "pay": lambda c, a: c.checkout().pay(**a),
    "pay_without_card": lambda c, a: c.checkout().pay_without_card(**a),
    "agree": lambda c, a: c.checkout().agree(**a),
    "charge_agreement": lambda c, a: c.checkout().charge_agreement(**a),
    "delete_card": lambda c, a: c.checkout().delete_card(**a),
    "change_card": lambda c, a: (c.world.change_card(**a), 200)[1],
    "prefer": lambda c, a: (c.world.prefer(**a), 200)[1],
    "end_agreement": _end_agreement,
}


def _summary(visit: Visit) -> dict[str, Any]:
    return {
        "action": visit.action,
        "result": visit.result,
        "session_id": visit.purchase.session_id,
        "agreement_id": visit.agreement_id,
        "token": visit.card.token if visit.card else None,
        "label": visit.card.label if visit.card else None,
        "notified": visit.delivery is not None,  # false where no webhook is sent, by Ottu's rules or by the knobs
    }


def _loopback_only() -> Response | None:
    try:
        near = ipaddress.ip_address(request.remote_addr or "").is_loopback
    except ValueError:
        near = False
    return None if near else detail("The control API answers loopback only.", 403)


def _object() -> dict[str, Any]:
    body = request.get_json(silent=True)
    if not isinstance(body, dict):
        raise ValueError("the body must be a JSON object")
    return body


def _endpoint(asked: dict[str, Any]) -> Endpoint:
    if asked.get("endpoint") not in get_args(Endpoint):
        raise ValueError("endpoint must be list or delete")
    return cast("Endpoint", asked["endpoint"])


def _point(text: Any) -> Point:
    if text not in POINTS:
        raise ValueError(f"a point is one of {', '.join(POINTS)}")
    return cast("Point", text)


def _bad_request(error: Exception) -> Response:
    if isinstance(error, NoSuchCardError):
        return detail("The customer has no such card.", 404)
    return detail(f"{error} is missing" if isinstance(error, KeyError) else str(error), 400)
