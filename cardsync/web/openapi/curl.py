"""Commands for a shell that call an operation with the description's own examples, for the page."""

from __future__ import annotations

import json
import shlex
from typing import Final
from urllib.parse import quote, urlencode

from cardsync.web.openapi.parts import Document

URL: Final = "https://cardsync.example"


def command(path: str, method: str, operation: Document) -> str:
    """One command with what the operation requires; the key is in a variable, and not in the shell's history."""
    query: list[tuple[str, str]] = []
    lines = [f"curl -X {method}" if method != "GET" else "curl"]
    if operation.get("security"):
        lines.append('-H "Authorization: Bearer $CARDSYNC_KEY"')
    for parameter in operation.get("parameters", ()):
        value = str(parameter["example"])
        if parameter["in"] == "path":
            path = path.replace("{" + parameter["name"] + "}", quote(value))
        elif parameter["in"] == "query" and parameter["required"]:
            query.append((parameter["name"], value))
        elif parameter["in"] == "header" and method != "GET":  # the tag of an earlier answer is for later ones
            lines.append("-H " + shlex.quote(f"{parameter['name']}: {value}"))
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        lines.append("-H " + shlex.quote(f"Content-Type: {media_type}"))
        lines.append("-d " + shlex.quote(json.dumps(content["example"])))
    lines.append(shlex.quote(f"{URL}{path}{'?' + urlencode(query) if query else ''}"))
    return " \\\n  ".join(lines)
