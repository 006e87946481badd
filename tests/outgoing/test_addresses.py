"""Which addresses are sent to: never a cloud's metadata, and plain http only where no stranger listens."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardsync.errors import Refused
from cardsync.outgoing.addresses import METADATA, URL_MAX, require_address, require_url, resolved

ANY = st.ip_addresses() | st.one_of(st.ip_addresses(network=str(network)) for network in METADATA)


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
        "http://[fd00:ec3::1]/",
        "https://my_service-1:8000/",
        "https://orders.example.invalid./",
        "https://xn--mgbh0fb.example.invalid/",
        f"https://{'a' * 63}.invalid/",
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
        "http://a..b/",
        "https://orders..example.invalid/",
        "https://.example.invalid/",
        "https://example.invalid../",
        "https://./",
        f"https://{'a' * 64}.invalid/",
        f"http://{'a' * 64}/",
        f"https://{'a.' * 127}a/",
        "https://a%00b.invalid/",
        "https://a,b.invalid/",
        "https://-a.invalid/",
        "http://[fd00:ec2::254]/",
        "https://[fd00:ec2::254]/",
        "http://[fd00:ec2::254%25eth0]/",
        "http://[fd00:ec2::23]/",
        "http://[fd20:ce::254]/",
        "http://[fd00:c1::a9fe:a9fe]/",
        "http://[fd00:42::42]/",
        "http://[fd00:a9fe:a9fe::1]/",
        "http://[fd00:100::100:200]/",
        "https://100.100.100.200/",
        "https://[::ffff:100.100.100.200]/",
        "https://[64:ff9b::169.254.169.254]/",
        "https://168.63.129.16/",
        "https://192.0.0.192/",
        "http://192.0.0.192/",
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
    assert not any(meant in network for network in METADATA)
    assert meant.is_private or not is_plain


def test_a_name_that_leads_to_one_refused_address_is_not_used_at_all() -> None:
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("203.0.113.7", 443)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 443)),
    ]
    with pytest.raises(Refused):
        resolved(found, is_plain=False)
    assert resolved([found[0], found[0]], is_plain=False) == ["203.0.113.7"]


@pytest.mark.parametrize("found", ["fd00:ec2::254", "fd00:ec2::254%2", "::ffff:100.100.100.200"])
def test_a_name_that_leads_to_a_clouds_metadata_is_refused(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", (found, 80, 0, 0))]
    with pytest.raises(Refused):
        resolved(looked_up, is_plain=True)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: looked_up)
    with pytest.raises(Refused):
        require_url("http://inside.example.invalid/")


@pytest.mark.parametrize("error", [socket.gaierror, UnicodeError])
def test_a_name_that_this_machine_does_not_know_may_be_one_of_the_workers(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("socket.getaddrinfo", fails)
    assert require_url("http://orders.internal/").hostname == "orders.internal"
