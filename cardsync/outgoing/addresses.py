"""Which addresses may be sent to. ``https`` to any host; plain ``http`` to this machine and to private networks alone.

A name is looked up, and the connection is made to an address that was checked: a name that leads elsewhere a moment later (DNS
rebinding) gains nothing. Link-local addresses are refused for both: a cloud's metadata service is there, and no endpoint is. So
are the addresses elsewhere at which clouds answer their machines (``METADATA``).
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import Final
from urllib.parse import SplitResult, urlsplit

from cardsync.errors import Refused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

URL_MAX: Final = 2_000
NAME_MAX: Final = 253  # of a name in DNS, without the dot at its end
LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)  # "_" is in names of containers

# Addresses at which a cloud tells a machine about itself, and gives it credentials, that are not link-local.
METADATA: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        "100.100.100.200/32",  # Alibaba Cloud
        "fd00:100::100:200/128",  # Alibaba Cloud
        "168.63.129.16/32",  # Azure, the host's agent
        "192.0.0.192/32",  # Oracle Cloud, its first generation
        "fd00:c1::a9fe:a9fe/128",  # Oracle Cloud
        "fd00:ec2::/32",  # AWS: metadata at ::254, credentials of pods at ::23; the rest is AWS's own too
        "fd20:ce::254/128",  # Google Cloud
        "fd00:42::42/128",  # Scaleway
        "fd00:a9fe:a9fe::1/128",  # Akamai (Linode)
    )
)


def require_url(url: str) -> SplitResult:
    """Read an endpoint's URL. Raises ``Refused`` for one that is none, or that is never sent to.

    A name is not looked up here: the machine on which an operator adds an endpoint may know other names than the worker.
    """
    if not 0 < len(url) <= URL_MAX or not url.isascii() or not url.isprintable() or " " in url:
        raise Refused(f"the URL must be 1 to {URL_MAX} visible ASCII characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Refused("the URL is not well formed") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise Refused("the URL must be https://host[:port]/path, or http:// to this machine or a private network")
    if "@" in parts.netloc or parts.fragment:
        raise Refused("the URL must carry no credentials and no fragment: messages are signed")
    address = literal(parts.hostname)
    if address is None and not _is_name(parts.hostname):
        raise Refused("the URL is not well formed")
    if address is not None:
        require_address(address, is_plain=parts.scheme == "http")
    elif parts.scheme == "http" and parts.hostname != "localhost":
        for found in _known_here(parts.hostname):
            require_address(found, is_plain=True)
    return parts


def require_address(address: Address, *, is_plain: bool) -> None:
    """Raise ``Refused`` unless a connection may be made to this address; ``is_plain`` without TLS."""
    address = getattr(address, "ipv4_mapped", None) or address
    is_reserved = address.is_reserved and not address.is_loopback  # ::1 is both
    is_metadata = any(address in network for network in METADATA)
    if is_metadata or address.is_link_local or address.is_multicast or address.is_unspecified or is_reserved:
        raise Refused("the address is none that endpoints have")
    if is_plain and not address.is_private:
        raise Refused("plain http is refused except to this machine and to private networks: use https")


def resolved(
    found: list[tuple[socket.AddressFamily, int, int, str, tuple[object, ...]]], *, is_plain: bool
) -> list[str]:
    """The addresses of a look-up, each checked. Raises ``Refused`` if one of them may not be sent to."""
    addresses = list(dict.fromkeys(str(sockaddr[0]).partition("%")[0] for _, _, _, _, sockaddr in found))
    for one in addresses:
        require_address(ipaddress.ip_address(one), is_plain=is_plain)
    return addresses


def literal(host: str) -> Address | None:
    """The address that a host of a URL is, ``None`` for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_name(host: str) -> bool:
    """Whether a look-up of this name can begin: each label has 1 to 63 characters, and only such as names have."""
    name = host.removesuffix(".")
    return len(name) <= NAME_MAX and all(LABEL.fullmatch(label) for label in name.split("."))


def _known_here(host: str) -> list[Address]:
    """The addresses of a name, as far as this machine knows it."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [ipaddress.ip_address(str(sockaddr[0]).partition("%")[0]) for *_, sockaddr in found]
