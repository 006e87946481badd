"""Which addresses are sent to: never a cloud's metadata, and plain http only where no stranger listens."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardsync.errors import Refused
from cardsync.outgoing.addresses import URL_MAX, require_address, require_url, resolved

ANY = st.ip_addresses()


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.invalid/ottu?shop=1",
        "https://203.0.113.7:8443/",
        "http://127.0.0.1:8000/",
        "http://localhost/",
        "http://10.1.2.3/",
        "http://[::1]:80/",
        "https://[2001:db8::1]/",
    ],
)
def test_these_are_sent_to(url: str) -> None:
    assert require_url(url).geturl() == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://example.invalid/",
        "https:///path",
        "https://example.invalid:0/",
        "https://example.invalid:99999/",
        "https://name:secret@example.invalid/",
        "https://example.invalid/#part",
        "https://example.invalid/a b",
        "https://example.invalid/\r\nHost: other",
        "https://\u00e9.invalid/",
        "https://example.invalid/" + "a" * URL_MAX,
        "http://8.8.8.8/",
        "http://169.254.169.254/latest/meta-data/",
        "https://169.254.169.254/",
        "https://[fe80::1]/",
        "https://[::ffff:169.254.169.254]/",
        "https://0.0.0.0/",
        "https://224.0.0.1/",
    ],
)
def test_these_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(Refused) as refused:
        require_url(url)
    assert "secret" not in str(refused.value)


@given(ANY, st.booleans())
def test_no_link_local_or_public_plain_address_ever_passes(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, is_plain: bool
) -> None:
    try:
        require_address(address, is_plain=is_plain)
    except Refused:
        return
    meant = getattr(address, "ipv4_mapped", None) or address
    assert not any((meant.is_link_local, meant.is_multicast, meant.is_unspecified))
    assert meant.is_private or not is_plain


def test_a_name_that_leads_to_one_refused_address_is_not_used_at_all() -> None:
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("203.0.113.7", 443)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 443)),
    ]
    with pytest.raises(Refused):
        resolved(found, is_plain=False)
    assert resolved([found[0], found[0]], is_plain=False) == ["203.0.113.7"]
