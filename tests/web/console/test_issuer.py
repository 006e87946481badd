"""Signing in by OpenID Connect, against an issuer that signs with its own key: what is vouched for, and what is not."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

from tests.store.rows import change, one
from tests.web.console.conftest import ORIGIN, Browser

ROLES = {"card-support": "support", "card-admin": "admin"}


class Issuer:
    """An issuer that answers on loopback. ``claims`` change what it vouches for, ``signs_with`` by which key."""

    def __init__(self) -> None:
        self.key = self.signs_with = RSAKey.generate_key(2048, {"kid": "1"})
        self.claims: dict[str, Any] = {}
        self.challenge = ""
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(issuer.metadata() if "openid" in self.path else KeySet([issuer.key]).as_dict(private=False))

            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                digest = hashlib.sha256(form["code_verifier"][0].encode()).digest()
                proved = base64.urlsafe_b64encode(digest).decode().rstrip("=") == issuer.challenge
                self.answer(
                    {"access_token": "fake", "token_type": "Bearer", "id_token": issuer.token()} if proved else {}
                )

            def answer(self, body: dict[str, Any]) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def metadata(self) -> dict[str, str]:
        where = {"authorization_endpoint": "/authorize", "token_endpoint": "/token", "jwks_uri": "/keys"}
        return {"issuer": self.url, **{name: f"{self.url}{path}" for name, path in where.items()}}

    def token(self) -> str:
        now = int(time.time())
        usual = {
            "iss": self.url,
            "aud": "cardsync",
            "sub": "42",
            "iat": now,
            "exp": now + 60,
            "groups": ["card-support"],
        }
        claims = {**usual, "preferred_username": "amal", **self.claims}
        return jwt.encode({"alg": "RS256", "kid": "1"}, claims, self.signs_with)


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def browser(make_console, issuer):
    app = make_console(
        console_url=ORIGIN,
        oidc_issuer=issuer.url,
        oidc_client_id="cardsync",
        oidc_client_secret="fake",
        oidc_roles=ROLES,
    )
    return Browser(app)


def come_back(browser: Browser, issuer: Issuer, **changed: str):
    """Go to the issuer as a browser does, and come back with a code."""
    sent = browser.client.get("/sign-in/issuer", base_url=ORIGIN)
    assert sent.status_code == 303
    asked = parse_qs(urlsplit(sent.headers["Location"]).query)
    assert asked["code_challenge_method"] == ["S256"]
    issuer.challenge = asked["code_challenge"][0]
    issuer.claims.setdefault("nonce", asked["nonce"][0])
    back = {"code": "one-time", "state": asked["state"][0], **changed}
    return browser.client.get("/sign-in/issuer/back", query_string=back, base_url=ORIGIN)


def test_an_issuer_vouches_for_an_operator_with_the_role_of_an_exact_value(browser, issuer, engine):
    assert "Sign in with your organisation" in browser.get("/sign-in").text
    assert come_back(browser, issuer).status_code == 200
    assert "oidc:amal" in browser.get("/").text
    assert one(engine, "SELECT name, role FROM cardsync.operators") == ("oidc:amal", "support")
    issuer.claims = {"groups": ["card-support", "card-admin"]}
    assert come_back(browser, issuer).status_code == 200
    assert one(engine, "SELECT role FROM cardsync.operators").role == "admin"


@pytest.mark.parametrize(
    "claims",
    [
        {"groups": ["Card-Support"]},
        {"groups": ["card-support-2", "card"]},
        {"groups": None},
        {"nonce": "another"},
        {"iss": "https://evil.example"},
        {"aud": "another"},
        {"aud": ["cardsync", "another"]},
        {"exp": 1},
        {"iat": 9_999_999_999},
        {"sub": None},
    ],
    ids=str,
)
def test_what_the_issuer_does_not_vouch_for_opens_nothing(browser, issuer, engine, claims):
    issuer.claims = dict(claims)
    answer = come_back(browser, issuer)
    assert (answer.status_code, "did not vouch for you" in answer.text) == (403, True)
    assert one(engine, "SELECT count(*) AS n FROM cardsync.console_sessions").n == 0


def test_a_token_of_another_key_opens_nothing(browser, issuer, engine):
    issuer.signs_with = RSAKey.generate_key(2048, {"kid": "1"})
    assert come_back(browser, issuer).status_code == 403
    assert one(engine, "SELECT count(*) AS n FROM cardsync.console_sessions").n == 0


def test_a_browser_that_did_not_begin_here_opens_nothing(browser, issuer, engine):
    assert come_back(browser, issuer, state="another").status_code == 403
    assert browser.client.get("/sign-in/issuer/back?code=x&state=y", base_url=ORIGIN).status_code == 403
    assert one(engine, "SELECT count(*) AS n FROM cardsync.console_sessions").n == 0


def test_an_operator_who_was_disabled_here_stays_out(browser, issuer, engine):
    assert come_back(browser, issuer).status_code == 200
    change(engine, "UPDATE cardsync.operators SET disabled_at = now()")
    issuer.claims = {}
    assert come_back(browser, issuer).status_code == 403


def test_an_issuer_that_is_away_is_said_to_be(browser, issuer):
    issuer.server.shutdown()
    issuer.server.server_close()
    assert browser.client.get("/sign-in/issuer", base_url=ORIGIN).status_code == 403


def test_without_an_issuer_there_is_no_such_way_in(console):
    assert Browser(console).client.get("/sign-in/issuer", base_url=ORIGIN).status_code == 404
