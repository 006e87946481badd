"""Where the database is: libpq's whole form of an address, read by libpq itself.

``postgresql://user:password@host/database``, with several hosts and ports, sockets, and libpq's parameters after the ``?``.
No error quotes the address, because it holds a password. Where it leads elsewhere and says nothing of TLS, the server is verified
(``db.tls``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import psycopg
from psycopg import conninfo
from sqlalchemy import URL

from cardsync.db import tls
from cardsync.errors import Misconfigured

NAME: Final = "CARDSYNC_DATABASE_URL"
FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_DRIVER: Final = "postgresql+psycopg"
_SCHEME = re.compile(r"(?:postgresql\+psycopg|postgresql|postgres)://")
_OPTION = re.compile(r"(?:-c\s*|--)([A-Za-z_][A-Za-z0-9_.]*)\s*=")
_FORM: Final = (
    f"{NAME} is wrong: it must be postgresql://user:password@host:port/database, with signs like @, : and / in a name or "
    "password percent-encoded"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the database is, asked at each connection, and the data folder that remembers its server."""

    read: Callable[[], str]
    data_dir: Path

    def __call__(self) -> str:
        """The address."""
        return self.read()


@dataclass(frozen=True, slots=True)
class Address:
    """libpq's parameters, under libpq's names. ``is_verified_by_default``: it said no ``sslmode``, and leads elsewhere."""

    parameters: Mapping[str, str]
    is_verified_by_default: bool = False

    @classmethod
    def read(cls, text: str) -> Address:
        """Read an address. Raises ``Misconfigured`` if it is none, or if a sign in a password must be encoded."""
        scheme = _SCHEME.match(text)
        if scheme is None:
            raise Misconfigured(_FORM)
        rest = text[scheme.end() :]
        _require_encoded_password(rest)
        try:
            parameters = conninfo.conninfo_to_dict(f"postgresql://{rest}")
        except (psycopg.Error, ValueError):  # their texts quote the address
            raise Misconfigured(_FORM) from None
        found = {name: str(value) for name, value in parameters.items() if value not in (None, "")}
        if any(port and not port.isdecimal() for port in found.get("port", "").split(",")):
            raise Misconfigured(_FORM)
        verification = tls.verification(found)
        return cls({**found, **verification}, bool(verification))

    @property
    def url(self) -> URL:
        """The same for SQLAlchemy, which has no place for several hosts but among the parameters."""
        rest = dict(self.parameters)
        user, password, database = rest.pop("user", None), rest.pop("password", None), rest.pop("dbname", None)
        host, port = rest.get("host"), rest.get("port")
        if host is not None and "," not in host and not host.startswith("/"):
            del rest["host"]
            rest.pop("port", None)
            number = None if port is None else int(port)
            return URL.create(_DRIVER, user, password, host, number, database, rest)
        return URL.create(_DRIVER, user, password, database=database, query=rest)

    def hosts(self) -> list[Address]:
        """An address for each host, where there are several."""
        names = {
            name: self.parameters[name].split(",") for name in ("host", "hostaddr", "port") if name in self.parameters
        }
        count = max(map(len, names.values()), default=1)
        if count == 1:
            return []
        # libpq takes one port for all hosts, or one for each.
        each = [{n: v[place] if len(v) > 1 else v[0] for n, v in names.items()} for place in range(count)]
        return [replace(self, parameters={**self.parameters, **one}) for one in each]

    @property
    def set_in_options(self) -> frozenset[str]:
        """The server's settings that the address itself sets, in small letters."""
        return frozenset(name.lower() for name in _OPTION.findall(self.parameters.get("options", "")))

    def why_refused(self, error: Exception) -> str | None:
        """Why the server could not be verified, and what to do, where the address did not ask for that; else ``None``."""
        return tls.why_refused(error) if self.is_verified_by_default else None

    def require_readable_files(self) -> None:
        """Raise ``Misconfigured`` if the address names a certificate or key that this process cannot read."""
        for name in FILES:
            path = self.parameters.get(name)
            if path and not (name == "sslrootcert" and path == "system"):
                try:
                    os.close(os.open(path, os.O_RDONLY))
                except (OSError, ValueError) as error:
                    raise Misconfigured(f"{NAME}: {name} cannot be read: {type(error).__name__}") from None


def _require_encoded_password(rest: str) -> None:
    """Refuse an address that libpq would cut at the wrong place, so that a part of the password became a host's name.

    libpq ends the password at the first ``@`` or ``/``. What follows would stand in errors, as a host that is not known.
    """
    authority, _, path = rest.partition("/")
    if authority.count("@") > 1 or "@" in path.partition("?")[0]:
        raise Misconfigured(_FORM)
