"""Why Ottu cannot be reached is said in words that tell the cases apart."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cardsync.dev.servers.ports import free_port
from cardsync.errors import Misconfigured, OttuUnavailable
from cardsync.ottu import OttuClient
from cardsync.settings import Settings
from tests.tls import Authority, TlsServer

CUSTOMER = "a-customer"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def why(base_url: str, *, timeout_s: float = 60.0) -> str:
    settings = Settings.model_validate(
        {"ottu_base_url": base_url, "ottu_api_key": "fake-key", "ottu_timeout_s": timeout_s}
    )
    client = OttuClient(settings)
    try:
        with pytest.raises(OttuUnavailable) as caught:
            client.list_cards("sandbox", CUSTOMER, deadline_seconds=timeout_s)
    finally:
        client.close()
    assert CUSTOMER not in str(caught.value)
    return str(caught.value)


def test_dns_refused_and_silence_are_told_apart(silent: int) -> None:
    assert "host name is not known (DNS)" in why("https://no-such-host.invalid")
    assert "nothing listens on that port" in why(f"https://127.0.0.1:{free_port()}")
    assert "Timeout" in why(f"https://127.0.0.1:{silent}", timeout_s=0.5)


def test_an_unknown_authority_and_another_name_are_told_apart(
    authority: Authority, silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TlsServer(("127.0.0.1", silent), authority.certificate("elsewhere.example")).run() as port:
        assert "(CA) that is not known here" in why(f"https://127.0.0.1:{port}")
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        assert "certificate is for another host name" in why(f"https://127.0.0.1:{port}")


def test_a_proxy_that_is_down_is_not_taken_for_ottu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
    assert "the proxy in front of it fails: it refuses connections" in why("https://acme.ottu.invalid")
    monkeypatch.setenv("HTTPS_PROXY", "http://no-such-proxy.invalid:3128")
    assert "the proxy in front of it fails: its host name is not known" in why("https://acme.ottu.invalid")


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_of_authorities_that_cannot_be_read_is_a_wrong_setting(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(Misconfigured, match="SSL_CERT_FILE or SSL_CERT_DIR cannot be read"):
        OttuClient(Settings.model_validate({"ottu_base_url": "https://acme.ottu.invalid", "ottu_api_key": "fake-key"}))
