"""Signing in by OpenID Connect: authorization code with PKCE, a signed ID token, and the exact value of one claim for the role.

What must come back with the browser (state, nonce, verifier) is kept in a cookie for ten minutes. It is SameSite=Lax, since the
issuer sends the browser back from another site; it opens nothing by itself. Errors lead to the sign-in page, and the log has the
error's class alone.
"""

from __future__ import annotations

import json
import secrets
import time
from typing import Any, Final

import structlog
from authlib.integrations.httpx_client import OAuth2Client
from flask import Blueprint, Response, abort, make_response, redirect, request, url_for
from flask.typing import ResponseReturnValue
from joserfc import jwt
from joserfc.jwk import KeySet

from cardsync.core.card_numbers import looks_like_full_number
from cardsync.settings import Settings
from cardsync.store.console import operators
from cardsync.store.console import sessions as store
from cardsync.store.console.operators import ROLES, Role
from cardsync.web.console import rendering
from cardsync.web.console.pages.sign_in import signed_in
from cardsync.web.console.site import Site

log = structlog.get_logger(__name__)

blueprint: Final = Blueprint("issuer", __name__)

KEEP_SECONDS: Final = 600
TIMEOUT_SECONDS: Final = 5.0
ALGORITHMS: Final = ["RS256", "PS256", "ES256", "EdDSA"]  # none that an issuer signs with a shared secret
CLOCK_SECONDS: Final = 60


class NotVouched(Exception):
    """The issuer's answer does not say who this is, or gives no role."""


@blueprint.get("/sign-in/issuer")
def begin() -> ResponseReturnValue:
    """Send the browser to the issuer."""
    settings = _settings()
    kept = {
        "state": secrets.token_urlsafe(32),
        "nonce": secrets.token_urlsafe(32),
        "verifier": secrets.token_urlsafe(48),
    }
    try:
        with _client(settings) as client:
            address, _ = client.create_authorization_url(
                _metadata(client, settings)["authorization_endpoint"],
                state=kept["state"],
                nonce=kept["nonce"],
                code_verifier=kept["verifier"],
            )
    except Exception as error:  # noqa: BLE001  (another system's border: whatever it does, the page says that it does not work)
        return _refuse(error)
    response = redirect(address, code=303)
    assert isinstance(response, Response)
    _keep(response, json.dumps(kept), KEEP_SECONDS)
    return response


@blueprint.get("/sign-in/issuer/back")
def back() -> ResponseReturnValue:
    """The browser comes back with a code: exchange it, verify who it is, and begin a session."""
    settings, site = _settings(), Site.here()
    try:
        kept = json.loads(request.cookies.get(_cookie(), ""))
        if not secrets.compare_digest(kept["state"].encode(), request.args.get("state", "").encode()):
            raise NotVouched
        with _client(settings) as client:
            claims = _claims(client, settings, kept, request.args["code"])
        role, name = _role(settings, claims), _name(claims)
        secret = operators.new_secret()
        with site.engine.connect() as connection:
            opened = store.open_by_issuer(
                connection,
                issuer=settings.oidc_issuer or "",
                subject=str(claims["sub"]),
                name=name,
                role=role,
                secret=secret,
                came_from=site.came_from(),
            )
        if opened is None:
            raise NotVouched
    except Exception as error:  # noqa: BLE001  (as above)
        return _refuse(error)
    response = signed_in(secret)
    _keep(response, "", 0)
    return response


def _settings() -> Settings:
    settings = Site.here().settings
    if settings.oidc_issuer is None:
        abort(404)
    return settings


def _client(settings: Settings) -> OAuth2Client:
    assert settings.oidc_client_secret is not None
    return OAuth2Client(
        client_id=settings.oidc_client_id,
        client_secret=settings.oidc_client_secret.get_secret_value(),
        scope="openid profile email",
        redirect_uri=f"{settings.console_base}{url_for('issuer.back')}",
        code_challenge_method="S256",
        timeout=TIMEOUT_SECONDS,
    )


def _metadata(client: OAuth2Client, settings: Settings) -> dict[str, Any]:
    """What the issuer says of itself; it must say the name that the settings have."""
    issuer = settings.oidc_issuer or ""
    found: dict[str, Any] = client.request(
        "GET", f"{issuer.rstrip('/')}/.well-known/openid-configuration", withhold_token=True
    ).json()
    if found.get("issuer") != issuer:
        raise NotVouched
    return found


def _claims(client: OAuth2Client, settings: Settings, kept: dict[str, str], code: str) -> dict[str, Any]:
    """Exchange the code, and verify the ID token: its signature, issuer, audience, nonce and times."""
    metadata = _metadata(client, settings)
    token = client.fetch_token(metadata["token_endpoint"], code=code, code_verifier=kept["verifier"])
    keys = KeySet.import_key_set(client.request("GET", metadata["jwks_uri"], withhold_token=True).json())
    claims = dict(jwt.decode(token["id_token"], keys, algorithms=ALGORITHMS).claims)
    audience = claims.get("aud")
    now = time.time()
    if (
        claims.get("iss") != settings.oidc_issuer
        or settings.oidc_client_id not in (audience if isinstance(audience, list) else [audience])
        or (isinstance(audience, list) and len(audience) > 1 and claims.get("azp") != settings.oidc_client_id)
        or claims.get("nonce") != kept["nonce"]
        or not isinstance(claims.get("sub"), str)
        or float(claims.get("exp", 0)) < now - CLOCK_SECONDS
        or float(claims.get("iat", now)) > now + CLOCK_SECONDS
    ):
        raise NotVouched
    return claims


def _role(settings: Settings, claims: dict[str, Any]) -> Role:
    """The highest role that an exact value of the claim gives. Raises ``NotVouched`` if none does."""
    said = claims.get(settings.oidc_claim)
    values = said if isinstance(said, list) else [said]
    given = [settings.oidc_roles[value] for value in values if isinstance(value, str) and value in settings.oidc_roles]
    if not given:
        raise NotVouched
    return max(given, key=ROLES.index)


def _name(claims: dict[str, Any]) -> str:
    """What the journal calls the operator: never the name of one who was invited here."""
    said = str(claims.get("preferred_username") or claims.get("email") or claims["sub"])
    name = f"oidc:{said}"[: operators.NAME_MAX]
    if not name.isprintable() or looks_like_full_number(name):
        raise NotVouched
    return name


def _refuse(error: Exception) -> ResponseReturnValue:
    log.warning("issuer_did_not_vouch", error=type(error).__name__)
    response = make_response(rendering.page("sign_in.html", status=403, link=None, refused="issuer"))
    _keep(response, "", 0)
    return response


def _cookie() -> str:
    return "__Host-cardsync-issuer" if Site.here().is_secure else "cardsync-console-issuer"


def _keep(response: Response, value: str, seconds: int) -> None:
    secure = Site.here().is_secure
    response.set_cookie(_cookie(), value, max_age=seconds, path="/", secure=secure, httponly=True, samesite="Lax")
