"""``/openapi.json``, and ``/docs``: the same for people, as one page without scripts and without resources of other sites.

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

from flask import Blueprint, Response, request
from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup, escape

from cardsync.errors import NotFound
from cardsync.web.openapi import curl
from cardsync.web.openapi.parts import Document
from cardsync.web.problems import FIELD_CODES, KINDS, PATH

_CODE = re.compile(r"`([^`]+)`")
_METHODS: Final = ("get", "post", "put", "patch", "delete")


def blueprint(document: Document, *, console: str) -> Blueprint:
    """The description, its page, and a page for each kind of problem. ``console``: where operators find theirs."""
    made = Blueprint("docs", __name__)
    as_json = json.dumps(document, indent=2)
    environment, policy = _environment()
    page = _page(environment, document, console)
    template = environment.get_template("problem.html")
    explained = {code: template.render(kind=kind, field_codes=FIELD_CODES) for code, kind in KINDS.items()}

    @made.get("/")
    def root() -> Response:
        if request.accept_mimetypes.best_match(("application/json", "text/html")) == "text/html":
            return Response(status=303, headers={"Location": "/docs"})
        found = {"docs": "/docs", "openapi": "/openapi.json", "console": console}
        return Response(json.dumps(found), content_type="application/json")

    @made.get("/openapi.json")
    def openapi() -> Response:
        return Response(as_json, content_type="application/json")

    @made.get("/docs")
    def docs() -> Response:
        return _html(page, policy)

    @made.get(f"{PATH}<code>")
    def problem(code: str) -> Response:
        if code not in explained:
            raise NotFound("there is no such kind of problem")
        return _html(explained[code], policy)

    return made


def _html(page: str, policy: str) -> Response:
    return Response(page, content_type="text/html; charset=utf-8", headers={"Content-Security-Policy": policy})


def _environment() -> tuple[Environment, str]:
    """The templates, and the policy that allows their style sheet."""
    folder = resources.files("cardsync.web") / "templates"
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in ("docs.css", "docs.html", "problem.html")}
    environment = Environment(
        loader=DictLoader(texts), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["prose"] = _prose
    environment.filters["kind"] = _kind
    environment.globals["style"] = Markup(texts["docs.css"])  # noqa: S704  (a file of ours)
    digest = base64.b64encode(hashlib.sha256(texts["docs.css"].encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return environment, policy


def _page(environment: Environment, document: Document, console: str) -> str:
    operations = list(_operations(document))
    return environment.get_template("docs.html").render(
        info=document["info"],
        console=console,
        tags=document["tags"],
        operations=operations,
        first=operations[0]["curl"],
        schemas=document["components"]["schemas"],
        kinds=KINDS.values(),
        field_codes=FIELD_CODES,
    )


def _operations(document: Document) -> Iterator[Document]:
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                said = item[method]
                yield {"path": path, "method": method.upper(), "curl": curl.command(path, method.upper(), said), **said}


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
