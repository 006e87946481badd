"""What an address in the settings may look like; pure checks that raise ``ValueError``.

No error here quotes the address: a database's or broker's holds a password, and ``urlsplit``'s own errors
repeat parts of what they were given.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

DATABASE_SCHEMES: Final = ("postgresql", "postgres", "postgresql+psycopg")
BROKER_SCHEMES: Final = ("amqp", "amqps", "redis", "rediss", "redis+socket", "sentinel", "sentinels")

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?::[0-9]{1,5})?")


def require_scheme(url: str, schemes: tuple[str, ...]) -> None:
    """Raise ``ValueError`` unless ``url`` begins with one of ``schemes`` and its host and port can be told from its password."""
    if _split(url).scheme not in schemes:
        raise ValueError(f"must begin with one of {', '.join(f'{s}://' for s in schemes)}")
    if schemes is DATABASE_SCHEMES:
        return  # PostgreSQL's may name several hosts; ``db.address`` judges it
    for address in url.split(";"):  # a broker may be a list of addresses
        try:
            _split(address).port  # noqa: B018  (asked for its error)
        except ValueError:
            raise ValueError("has no valid port: @, : and / in a name or password must be percent-encoded") from None


def require_host(host: str) -> None:
    """Raise ``ValueError`` unless ``host`` is a host's name, with a port at most."""
    if _HOST.fullmatch(host) is None:
        raise ValueError("must be the host of the Ottu instance, like acme.ottu.net")


def require_safe_base(url: str) -> None:
    """Raise ``ValueError`` unless our credentials may be sent to ``url``: https, or http to loopback."""
    if not url.isprintable() or " " in url:  # urlsplit silently drops line breaks, who opens it does not
        raise ValueError("must not hold spaces, line breaks or control characters")
    parts = _split(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "?" in url or "#" in url:
        raise ValueError("must be an http(s) URL without a query")
    if "@" in parts.netloc:
        raise ValueError("must not carry credentials")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("must have a port from 1 to 65535, or none")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError("plain http is refused except to loopback")


def require_origin(url: str) -> None:
    """Raise ``ValueError`` unless ``url`` is where browsers find a site of ours: https, or http on loopback, without a path."""
    require_safe_base(url)
    if _split(url).path not in ("", "/"):
        raise ValueError("must not have a path")


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise ValueError("is not a well-formed URL") from None


def is_loopback(host: str) -> bool:
    """Tell whether a host's name or address means this machine, as it is written."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
