"""The addresses of Redis Sentinels: ``sentinel://user:password@host:26379;sentinel://other:26379/0?master=NAME``.

A sentinel holds no messages: it names the server that is the master just now. User, password and number of the database are the
servers'; ``sentinel_username`` and ``sentinel_password`` are for the sentinels themselves.

Rules: what one of the addresses says holds for all of them, because kombu takes user, password and database from the address
that it tries just now, and people write them once. Two addresses that say different things are refused. ``sentinels://`` is the
same over TLS, to sentinels and servers alike. No error quotes an address.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

SENTINEL_SCHEMES: Final = ("sentinel", "sentinels")
PORT: Final = 26_379
_OPTIONS: Final = ("master", "sentinel_username", "sentinel_password")


@dataclass(frozen=True, slots=True)
class Sentinels:
    """What the addresses say together. ``url`` is as kombu reads it: each address whole, and none with an option."""

    url: str = field(repr=False)
    master: str
    username: str | None
    password: str | None = field(repr=False)

    @classmethod
    def read(cls, addresses: Sequence[str]) -> Sentinels:
        """Read them; what begins with ``ssl_`` is left to others. Raises ``ValueError`` for what is wrong."""
        parts = [urlsplit(address) for address in addresses]
        if len({one.scheme for one in parts}) > 1:
            raise ValueError("all of its addresses must begin with the same scheme")
        options = [(name, value) for one in parts for name, value in parse_qsl(one.query, keep_blank_values=True)]
        if any(name not in _OPTIONS and not name.startswith("ssl_") for name, _ in options):
            raise ValueError(f"a sentinel's address takes {', '.join(_OPTIONS)} and names that begin with ssl_")
        said = {name: _agreed(name, (value for key, value in options if key == name)) for name in _OPTIONS}
        if said["master"] is None:
            raise ValueError("a sentinel's address needs the name of the master: ?master=NAME")
        if not all(one.hostname for one in parts):
            raise ValueError("a sentinel's address needs a host")
        signed_in = _agreed("user and password", (one.netloc.rpartition("@")[0] for one in parts))
        database = _agreed("number of the database", (one.path.strip("/") for one in parts)) or "0"
        if not (database.isascii() and database.isdigit()):
            raise ValueError("a sentinel's address ends with the number of a database, such as /0")
        before = "" if signed_in is None else f"{signed_in}@"
        return cls(
            url=";".join(f"sentinel://{before}{_place(one)}/{database}" for one in parts),
            master=said["master"],
            username=said["sentinel_username"],
            password=said["sentinel_password"],
        )


def are_sentinels(url: str) -> bool:
    """Whether the broker's address names sentinels."""
    return urlsplit(url).scheme in SENTINEL_SCHEMES


def _agreed(what: str, values: Iterable[str]) -> str | None:
    """What those that say something say; ``None`` if none does."""
    found = {value for value in values if value}
    if len(found) > 1:
        raise ValueError(f"the sentinels' addresses must not differ in {what}")
    return next(iter(found), None)


def _place(parts: SplitResult) -> str:
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    return f"{host}:{parts.port or PORT}"
