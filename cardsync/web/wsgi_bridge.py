"""A bridge from RSGI, which granian speaks on the event loop, to WSGI (PEP 3333), which Flask speaks on threads."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from flask import Flask

if TYPE_CHECKING:
    from granian.rsgi import Scope

_NAMES: Final = {"content-length": "CONTENT_LENGTH", "content-type": "CONTENT_TYPE"}


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, as RSGI sends it."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


def call(app: Flask, environ: dict[str, Any]) -> Answer:
    """Call a WSGI application to its end, on a thread."""
    told: list[tuple[int, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], _: object = None) -> Callable[[bytes], object]:
        told.append((int(status.split(" ", 1)[0]), headers))
        return lambda _data: None

    answered: Iterable[bytes] = app(environ, start_response)
    try:
        body = b"".join(answered)
    finally:
        close = getattr(answered, "close", None)
        if close is not None:
            close()
    status, headers = told[-1]
    return Answer(status, headers, body)


def headers_of(scope: Scope) -> dict[str, str]:
    """The headers under their names in WSGI. Granian leaves those out whose value is not ASCII."""
    found: dict[str, str] = {}
    for name, value in scope.headers.items():
        key = _NAMES.get(name) or "HTTP_" + name.upper().replace("-", "_")
        found[key] = f"{found[key]},{value}" if key in found else value
    return found


def environ_of(scope: Scope) -> dict[str, Any]:
    """A request as WSGI has it (PEP 3333), without its body."""
    host, _, port = scope.server.rpartition(":")
    client, _, client_port = scope.client.rpartition(":")
    return {
        **headers_of(scope),
        "REQUEST_METHOD": scope.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": scope.path.encode("utf-8").decode("latin-1"),
        "QUERY_STRING": scope.query_string,
        "SERVER_PROTOCOL": f"HTTP/{scope.http_version}",
        "SERVER_NAME": host,
        "SERVER_PORT": port,
        "REMOTE_ADDR": client,
        "REMOTE_PORT": client_port,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.scheme,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
