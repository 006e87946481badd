"""The inquiry endpoint: the payload of one payment (``payments``), as often as Ottu lets anybody ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from flask import Flask, Response

from cardsync.dev.simulator.desk import BadRequestError, Desk, as_json, detail

INQUIRY_PATH: Final = "/b/pbl/v2/inquiry/"


def mount(app: Flask, desk: Desk, read_body: Callable[[], dict[str, Any]]) -> None:
    """Add the endpoint."""

    @app.post(INQUIRY_PATH)
    def inquire() -> Response:
        def work() -> Response:
            asked = read_body()
            if not isinstance(asked.get("session_id") or asked.get("order_no"), str):
                raise BadRequestError({"session_id": ["This field is required."]})
            answer = desk.world.payments.ask(asked, desk.world.knobs)
            if isinstance(answer, float):
                response = detail("Request was throttled.", 429)
                response.headers["Retry-After"] = str(int(answer) + 1)
                return response
            return detail("Not found.", 404) if answer is None else as_json(answer)

        return desk.serve("inquiry", "", "", work)
