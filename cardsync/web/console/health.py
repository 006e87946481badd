"""``/livez``: the process answers. ``/readyz``: the database does too, and is this program's."""

from __future__ import annotations

import json
from typing import Final

from flask import Blueprint, Response
from sqlalchemy.exc import SQLAlchemyError

from cardsync import db
from cardsync.web.console.site import Site

blueprint: Final = Blueprint("health", __name__)


@blueprint.get("/livez")
def livez() -> Response:
    """The process answers."""
    return Response('{"status": "alive"}', content_type="application/json")


@blueprint.get("/readyz")
def readyz() -> Response:
    """Whether pages can be shown."""
    try:
        behind = db.is_behind(db.current_revision(Site.here().engine))
        checks = {"database": "ok", "migrations": "run: cardsync db upgrade" if behind else "ok"}
    except SQLAlchemyError as error:
        checks = {"database": f"cannot be used: {type(error).__name__}", "migrations": "unknown"}
    ready = all(said == "ok" for said in checks.values())
    body = json.dumps({"status": "ready" if ready else "not ready", "checks": checks})
    return Response(body, status=200 if ready else 503, content_type="application/json")
