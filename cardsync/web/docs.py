"""``/openapi.json``, and ``/docs``: the same for people, as one page without scripts or anything from elsewhere.

The page is written once, at start. Its content policy allows its own style sheet, by hash, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from importlib import resources
from typing import Any, Final

from flask import Blueprint, Response
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from cardsync.web.openapi_parts import Document

_CODE = re.compile(r"`([^`]+)`")
_METHODS: Final = ("get", "post", "put", "patch", "delete")


def blueprint(document: Document) -> Blueprint:
    """The two routes."""
    made = Blueprint("docs", __name__)
    as_json = json.dumps(document, indent=2)
    page, policy = _page(document)

    @made.get("/openapi.json")
    def openapi() -> Response:
        return Response(as_json, content_type="application/json")

    @made.get("/docs")
    def docs() -> Response:
        return Response(page, content_type="text/html; charset=utf-8", headers={"Content-Security-Policy": policy})

    return made


def _page(document: Document) -> tuple[str, str]:
    """The page, and the policy that allows its style sheet."""
    folder = resources.files("cardsync.web") / "templates"
    style = (folder / "docs.css").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["prose"] = _prose
    environment.filters["kind"] = _kind
    template = environment.from_string((folder / "docs.html").read_text(encoding="utf-8"))
    page = template.render(
        info=document["info"],
        tags=document["tags"],
        operations=list(_operations(document)),
        schemas=document["components"]["schemas"],
        style=Markup(style),  # noqa: S704  (a file of ours)
    )
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy


def _operations(document: Document) -> Iterator[Document]:
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                yield {"path": path, "method": method.upper(), **item[method]}


def _prose(text: str) -> Markup:
    """The little of Markdown that the descriptions use: paragraphs and code."""
    paragraphs = (" ".join(p.split()) for p in text.split("\n\n") if p.strip())
    with_code = (_CODE.sub(r"<code>\1</code>", str(escape(p))) for p in paragraphs)
    return Markup("".join(f"<p>{p}</p>" for p in with_code))  # noqa: S704  (escaped above)


def _kind(schema: dict[str, Any]) -> Markup:
    """A schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return Markup('<a href="#schema-{0}">{0}</a>').format(name)
    if "anyOf" in schema:
        return Markup(" or ").join(_kind(s) for s in schema["anyOf"])
    if "const" in schema:
        return Markup("<code>{}</code>").format(schema["const"])
    if "enum" in schema:
        return Markup(", ").join(Markup("<code>{}</code>").format(value) for value in schema["enum"])
    if schema.get("type") == "array":
        return Markup("list of ") + _kind(schema.get("items", {}))
    words = [str(schema.get("type", "anything"))]
    words += [str(schema["format"])] if "format" in schema else []
    words += [f"≤ {schema['maxLength']} characters"] if "maxLength" in schema else []
    return escape(", ".join(words))
