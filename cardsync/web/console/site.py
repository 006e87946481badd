"""What a console knows of itself: its engine, its public address, and what that means for cookies and origins."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from flask import Flask, current_app, request
from sqlalchemy import Engine

from cardsync.settings import Settings
from cardsync.urls import is_loopback

_KEY: Final = "cardsync.console.site"


@dataclass(frozen=True, slots=True)
class Site:
    """One console.

    ``is_secure``: its public address is https. Only then its cookies are ``Secure``: a browser keeps no such cookie over plain
    http, which is let pass on loopback alone.
    """

    engine: Engine = field(repr=False)
    settings: Settings = field(repr=False)
    origin: str | None
    is_secure: bool

    @staticmethod
    def of(settings: Settings, engine: Engine) -> Site:
        """The site that the settings describe. Without ``CARDSYNC_CONSOLE_URL`` it is plain http on loopback."""
        origin = None if settings.console_url is None else _origin(settings.console_url)
        return Site(engine, settings, origin, (origin or "").startswith("https://"))

    @staticmethod
    def here() -> Site:
        """The site of the request that is answered now."""
        found: Site = current_app.extensions[_KEY]
        return found

    def store_in(self, app: Flask) -> None:
        """Keep it where ``here`` finds it."""
        app.extensions[_KEY] = self

    def is_own_origin(self, origin: str) -> bool:
        """Tell whether a browser's ``Origin`` is this console's.

        Over https only the public address counts, since a proxy may change ``Host``. Over plain http it is any of loopback's
        names, if the request was sent to that name.
        """
        if self.origin is not None and origin == self.origin:
            return True
        return not self.is_secure and self.is_plain_and_local and origin == f"http://{request.host}"

    @property
    def is_plain_and_local(self) -> bool:
        """Whether the request was sent to one of loopback's names. A page elsewhere that a browser was led here by is not."""
        return is_loopback(urlsplit(f"//{request.host}").hostname or "")

    def came_from(self) -> str | None:
        """The address that the request came from; that which the proxy saw, if the console has a public address behind one."""
        peer = request.remote_addr
        forwarded = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
        address = forwarded if self.is_secure and forwarded else peer
        try:
            return str(ipaddress.ip_address(address or ""))
        except ValueError:
            return None


def _origin(url: str) -> str:
    """A URL's origin as browsers write it: lower case, without the scheme's own port."""
    parts = urlsplit(url)
    usual = {"https": 443, "http": 80}[parts.scheme]
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port not in (None, usual) else "")
