"""TLS to PostgreSQL where the address says nothing of it: the server's certificate is verified, if the server is elsewhere.

libpq's own default is ``prefer``, which verifies nothing: who sits on the way gets all tokens. So an address that leads out of
this network gets ``verify-full``. What the address, the environment or a service file says of ``sslmode`` stays as it is given.

Near are sockets, loopback, private and link-local addresses, names without a dot (``postgres``, in compose) and names that only a
private network knows (``db.internal``). Any other name counts as elsewhere. It is not resolved: the answer may come from the very
stranger who is to be kept out, and may be another one at the next connection.

The authorities are those by which Ottu is verified (``cardsync.certificates``). Rejected: ``sslrootcert=system`` for all. The
libpq in psycopg's wheel has an OpenSSL of its own, whose folder of certificates exists nowhere, so ``system`` finds none there.
With SSL_CERT_FILE or SSL_CERT_DIR it reads those.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Final

import certifi

_OF_THE_ENVIRONMENT: Final = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "service": "PGSERVICE",
    "servicefile": "PGSERVICEFILE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
}
# https://www.iana.org/assignments/special-use-domain-names; `internal` was reserved in 2024. `svc` ends Kubernetes' short names.
_NEAR_NAMES: Final = (".local", ".internal", ".localhost", ".home.arpa", ".svc")
_NEAR_NETWORKS: Final = tuple(
    map(
        ipaddress.ip_network,
        (
            "127.0.0.0/8",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "169.254.0.0/16",
            "::1",
            "fc00::/7",
            "fe80::/10",
        ),
    )
)
# libpq's texts, and what is wrong. Others may pass by themselves, like a handshake that was cut off.
_REFUSED: Final = (
    ("certificate verify failed", "no authority that is known here vouches for it"),
    ("server certificate for", "it is for another host"),
    ("host name must be specified", "the address has no name to compare it with"),
    ("root certificate", "the authorities' certificates cannot be read"),
    ("does not support SSL", "the server speaks no TLS"),
)


def verification(address: dict[str, str]) -> dict[str, str]:
    """The parameters that verify the server of an address, by libpq's names; none if it is near, or if ``sslmode`` is said."""
    environment = {
        name: os.environ[variable] for name, variable in _OF_THE_ENVIRONMENT.items() if os.environ.get(variable)
    }
    said = environment | _service(environment | address) | address
    if "sslmode" in said or all(map(is_near, _hosts(said))):
        return {}
    # Without sslrootcert libpq reads this file, where somebody may have put an authority for all clients.
    if "sslrootcert" in said or os.access(_at_home(".postgresql/root.crt"), os.F_OK):
        return {"sslmode": "verify-full"}
    return {"sslmode": "verify-full", "sslrootcert": _authorities()}


def is_near(host: str) -> bool:
    """Whether a host, by name or address, is this one or in a private network; it is not resolved."""
    if not host or host.startswith(("/", "@")):  # a socket
        return True
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        name = host.rstrip(".").lower()
        return "." not in name or name.endswith(_NEAR_NAMES)
    found = getattr(found, "ipv4_mapped", None) or found
    return any(found in network for network in _NEAR_NETWORKS)


def why_refused(error: Exception) -> str | None:
    """Why a server could not be verified, and what to do; ``None`` for any other error. It names neither host nor address."""
    said = str(error)
    why = next((why for sign, why in _REFUSED if sign in said), None)
    if why is None:
        return None
    return (
        "the database's server is elsewhere and CARDSYNC_DATABASE_URL says no sslmode, so its certificate is verified, and that "
        f"failed ({why}): name its authority's file by sslrootcert, or state an sslmode"
    )


def _hosts(said: Mapping[str, str]) -> Iterator[str]:
    """Where connections lead: ``hostaddr`` goes before ``host``, for each of several."""
    names, addresses = (said.get(name, "").split(",") for name in ("host", "hostaddr"))
    for name, address in zip_longest(names, addresses, fillvalue=""):
        yield address or name


def _authorities() -> str:
    return "system" if os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR") else certifi.where()


def _at_home(name: str) -> Path:
    try:
        return Path.home() / name
    except RuntimeError:  # a user without a home has no such file
        return Path(os.devnull) / name


def _service(said: Mapping[str, str]) -> dict[str, str]:
    """What the service file says of the service that is named, if one is: as libpq looks for it, which reports what is wrong."""
    name = said.get("service")
    if name is None:
        return {}
    files = [Path(said["servicefile"]) if "servicefile" in said else _at_home(".pg_service.conf")]
    if folder := os.environ.get("PGSYSCONFDIR"):
        files.append(Path(folder) / "pg_service.conf")
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        if found := _group(lines, name):
            return found
    return {}


def _group(lines: list[str], name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    inside = False
    for line in map(str.strip, lines):
        if line.startswith("["):
            inside = line == f"[{name}]"
        elif inside and not line.startswith("#") and "=" in line:
            key, _, value = line.partition("=")
            found.setdefault(key, value)
    return found
