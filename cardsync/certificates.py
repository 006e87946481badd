"""Which authorities' certificates are believed where we call others over TLS: one context for Ottu and for endpoints."""

from __future__ import annotations

import ssl

import httpx

from cardsync.errors import Misconfigured


def verifying_context() -> ssl.SSLContext:
    """Return a context that verifies the other side, for all our calls over HTTP.

    The authorities are those of SSL_CERT_FILE and SSL_CERT_DIR, for a company's own; without them certifi's list. Raises
    ``Misconfigured`` if they cannot be read.
    """
    try:
        return httpx.create_ssl_context()
    except (OSError, ValueError) as error:  # ssl's errors are OSErrors
        raise Misconfigured(f"SSL_CERT_FILE or SSL_CERT_DIR cannot be read: {type(error).__name__}") from None
