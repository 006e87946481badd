"""What we send is signed by Standard Webhooks: the specification's own library verifies it, and only as it was sent."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from cardsync.core.webhooks import SECRET_BYTES, headers, secret_bytes, secret_text
from cardsync.errors import MalformedBody

SECRETS = st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES)


def verified(secret: bytes, body: str, signed: Mapping[str, str]) -> bool:
    try:
        Webhook(secret_text(secret)).verify(body, dict(signed), json_parse=False)
    except WebhookVerificationError:
        return False
    return True


@given(SECRETS, SECRETS, st.text(max_size=200))
def test_the_specifications_own_library_verifies_what_we_sign(secret: bytes, other: bytes, body: str) -> None:
    signed = headers("msg-1", int(time.time()), body.encode(), [secret])
    assert verified(secret, body, signed)
    assert not verified(secret, body + "x", signed)
    assert not verified(secret, body, {**signed, "webhook-id": "msg-2"})
    assert verified(other, body, signed) is (other == secret)


@given(SECRETS, SECRETS)
def test_while_a_secret_is_replaced_receivers_of_either_one_are_served(new: bytes, old: bytes) -> None:
    signed = headers("msg-1", int(time.time()), b"{}", [new, old])
    assert verified(new, "{}", signed)
    assert verified(old, "{}", signed)


@given(SECRETS)
def test_a_secret_comes_back_from_its_text(secret: bytes) -> None:
    assert secret_bytes(secret_text(secret)) == secret


@pytest.mark.parametrize("text", ["", "whsec_?", "secret", "WHSEC_AAAA", "whsec_AAA", "whsec_ AAAA"])
def test_a_text_that_is_no_secret_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(MalformedBody, match=r"^not a secret of an endpoint$"):
        secret_bytes(text)
