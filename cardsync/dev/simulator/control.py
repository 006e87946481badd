"""The stand-in's own API under ``/_simulator/``: turn knobs, act as a shopper, read what was asked and what
is true.

The rules: it answers loopback only, whatever the server listens on, because it shows tokens (``truth``) and
can do anything. The log of calls and the deliveries show none.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from flask import Blueprint, Response, request
from pydantic import ValidationError

from cardsync.dev.simulator.calls import POINTS, Endpoint, Point
from cardsync.dev.simulator.cards import Environment
from cardsync.dev.simulator.checkout import Visit
from cardsync.dev.simulator.desk import as_json, detail
from cardsync.dev.simulator.world import NoSuchCardError

if TYPE_CHECKING:
    from cardsync.dev.simulator.server import Simulator

PREFIX: Final = "/_simulator"


def blueprint(simulator: Simulator) -> Blueprint:
    """Build the control API of one simulator."""
    control = Blueprint("control", __name__, url_prefix=PREFIX)
    control.before_request(_loopback_only)
    for wrong in (ValidationError, ValueError, TypeError, KeyError, NoSuchCardError):
        control.register_error_handler(wrong, _refused)
    _add_knobs(control, simulator)
    _add_deeds(control, simulator)
    _add_reports(control, simulator)
    return control


def _add_knobs(control: Blueprint, simulator: Simulator) -> None:
    @control.get("/knobs")
    def knobs() -> Response:
        return as_json(simulator.knobs.model_dump())

    @control.put("/knobs")
    def turn() -> Response:
        """Turn the knobs that are named and leave the others."""
        return as_json(simulator.turn(**_object()).model_dump())

    @control.post("/script")
    def script() -> Response:
        asked = _object()
        simulator.faults.script(_endpoint(asked), *asked["faults"])
        return Response(status=204)

    @control.post("/hold")
    def hold() -> Response:
        simulator.gates.hold(_point(_object()["point"]))
        return Response(status=204)

    @control.post("/release")
    def release() -> Response:
        points = _object().get("points", POINTS)
        simulator.gates.release(*(_point(point) for point in points))
        return Response(status=204)

    @control.get("/held")
    def held() -> Response:
        return as_json({point: simulator.gates.waiting(point) for point in POINTS})


def _add_deeds(control: Blueprint, simulator: Simulator) -> None:
    @control.post("/actions")
    def act() -> Response:
        """Do one thing as a shopper: ``{"action", "environment", ...}``; the answer has the token."""
        asked = _object()
        action = asked.pop("action")
        if action not in _DEEDS:
            raise ValueError(f"action must be one of {', '.join(_DEEDS)}")
        if asked.get("environment") not in get_args(Environment):
            raise ValueError("environment must be sandbox or production")
        done = _DEEDS[action](simulator, asked)
        return as_json(_told(done) if isinstance(done, Visit) else {"action": action, "status": done})

    @control.post("/webhooks")
    def send() -> Response:
        """Sign the object and send it as a webhook."""
        simulator.deliver(_object())
        return Response(status=202)


def _add_reports(control: Blueprint, simulator: Simulator) -> None:
    @control.get("/truth")
    def truth() -> Response:
        """The cards in truth: of one customer, or of all."""
        environment, customer_id = request.args.get("environment"), request.args.get("customer_id")
        return as_json(
            [
                {"environment": e, "customer_id": c, "tokens": sorted(simulator.world.truth(e, c))}
                for e, c in simulator.world.owners()
                if environment in (None, e) and customer_id in (None, c)
            ]
        )

    @control.get("/calls")
    def calls() -> Response:
        since = request.args.get("since")
        found = simulator.calls(
            endpoint=request.args.get("endpoint"),
            environment=request.args.get("environment"),
            customer_id=request.args.get("customer_id"),
            since=None if since is None else float(since),
        )
        return as_json({"count": len(found), "calls": [asdict(call) for call in found]})

    @control.get("/deliveries")
    def deliveries() -> Response:
        return as_json([asdict(delivery) for delivery in simulator.deliveries()])


def _end_agreement(simulator: Simulator, arguments: dict[str, Any]) -> int:
    simulator.world.end_agreement(**arguments)
    return 200


# Arguments go to the method of the same name as keywords: a wrong one is its TypeError, answered 400.
_DEEDS: Final[dict[str, Callable[[Simulator, dict[str, Any]], Visit | int]]] = {
    "save_card": lambda s, a: s.checkout().save_card(**a),
    "pay": lambda s, a: s.checkout().pay(**a),
    "pay_without_card": lambda s, a: s.checkout().pay_without_card(**a),
    "agree": lambda s, a: s.checkout().agree(**a),
    "charge_agreement": lambda s, a: s.checkout().charge_agreement(**a),
    "delete_card": lambda s, a: s.checkout().delete_card(**a),
    "change_card": lambda s, a: (s.world.change_card(**a), 200)[1],
    "prefer": lambda s, a: (s.world.prefer(**a), 200)[1],
    "end_agreement": _end_agreement,
}


def _told(visit: Visit) -> dict[str, Any]:
    return {
        "action": visit.deed,
        "result": visit.result,
        "session_id": visit.purchase.session_id,
        "agreement_id": visit.agreement_id,
        "token": visit.card.token if visit.card else None,
        "label": visit.card.label if visit.card else None,
        "notified": visit.delivery is not None,
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


def _refused(error: Exception) -> Response:
    if isinstance(error, NoSuchCardError):
        return detail("The customer has no such card.", 404)
    return detail(f"{error} is missing" if isinstance(error, KeyError) else str(error), 400)
