"""Where a page of a list begins, as its address has it: a time and an id of ours."""

from __future__ import annotations

import datetime as dt
import uuid

from flask import Flask, request

from cardsync.store.console.lists import Place


def asked() -> Place | None:
    """Where the asked page begins; the first page for what is no place."""
    try:
        at, ref = request.args.get("after", "").split("~")
        return Place(dt.datetime.fromisoformat(at), uuid.UUID(ref))
    except ValueError:
        return None


def written(after: Place) -> str:
    """A place for an address."""
    return f"{after.at.isoformat()}~{after.ref}"


def register(app: Flask) -> None:
    """Let templates write places."""
    app.jinja_env.filters["mark"] = written
