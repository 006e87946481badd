"""Why something does not answer, in words: the one place that tells DNS, a refused port, an unknown CA and a wrong name apart.

Clients wrap the error that matters in several of their own, so the whole chain is looked at. No text of an error is repeated:
it may hold an address with its password, or a URL with a token.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from typing import Final

NO_ANSWER: Final = "it does not answer in time"
CLOSED: Final = "it closed the connection"

# X509_V_ERR_* of OpenSSL, as Python hands them on.
_EXPIRED: Final = (10,)
_NOT_YET_VALID: Final = (9,)
_OTHER_NAME: Final = (62, 64)  # host name, IP address
# What a server without TLS says is no record of TLS; OpenSSL's names for that differ between versions.
_NO_TLS: Final = (
    "WRONG_VERSION_NUMBER",
    "RECORD_LAYER_FAILURE",
    "UNKNOWN_PROTOCOL",
    "HTTP_REQUEST",
    "PACKET_LENGTH_TOO_LONG",
)


def why_unreachable(error: BaseException) -> str | None:
    """Say why no connection was made, as ``it ...`` or ``its ...``; ``None`` if the error is of another kind."""
    chain = list(_chain(error))
    found = next((why for one in chain if (why := _why(one)) is not None), None)
    if any(
        type(one).__name__ == "ProxyError" for one in chain
    ):  # httpcore's and httpx's, which this room does not import
        return f"the proxy in front of it fails: {found}" if found else "the proxy in front of it refuses"
    return found


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, then what caused it, then what it was raised during; the innermost ones are the most exact."""
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in seen:
        seen.append(following)
        following = following.__cause__ or following.__context__
    yield from reversed(seen)


def _why(error: BaseException) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _why_not_verified(error.verify_code)
    if isinstance(error, ssl.SSLError):
        return "it does not speak TLS on that port" if error.reason in _NO_TLS else "the TLS handshake failed"
    if isinstance(error, socket.gaierror):
        return "its host name is not known (DNS)"
    if isinstance(error, ConnectionRefusedError):
        return "it refuses connections: nothing listens on that port"
    if isinstance(error, TimeoutError):
        return NO_ANSWER
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return CLOSED
    return None


def _why_not_verified(code: int) -> str:
    if code in _OTHER_NAME:
        return "its certificate is for another host name"
    if code in _EXPIRED:
        return "its certificate has expired"
    if code in _NOT_YET_VALID:
        return "its certificate is not valid yet"
    return "its certificate is signed by an authority (CA) that is not known here"
