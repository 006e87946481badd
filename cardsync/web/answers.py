"""How a view answers."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from flask import Response


def json_answer(text: str, status: HTTPStatus = HTTPStatus.OK, *, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with JSON that is written already."""
    return Response(text, status=int(status), headers=dict(headers or {}), content_type="application/json")
