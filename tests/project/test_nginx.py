"""The shipped proxy, by its files: what slow senders may hold fits its container, and no old cipher is offered."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import yaml

ROOT: Final = Path(__file__).parents[2]
NGINX: Final = ROOT / "deploy" / "nginx"
UNITS: Final = {"": 1, "k": 1_024, "m": 1_048_576}


def said(file: str, name: str) -> list[str]:
    found = re.search(rf"^\s*{name} (.+?);", (NGINX / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None, f"{file} says nothing of {name}"
    return found[1].split()


def size(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([km]?)", text).groups()  # type: ignore[union-attr]
    return int(number) * UNITS[unit]


def test_what_all_slow_senders_hold_is_less_than_half_of_the_containers_memory() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    memory = size(compose["services"]["proxy"]["deploy"]["resources"]["limits"]["memory"])
    connections = int(*said("nginx.conf", "worker_processes")) * int(*said("nginx.conf", "worker_connections"))
    number, each = said("cardsync/http.conf", "large_client_header_buffers")
    header = size(*said("cardsync/http.conf", "client_header_buffer_size")) + int(number) * size(each)
    body = size(*said("cardsync/http.conf", "client_body_buffer_size"))
    assert connections >= 5_000
    assert connections * (header + body) < memory / 2


def test_each_cipher_is_forward_secret_and_authenticated() -> None:
    ciphers = said("cardsync/tls.conf", "ssl_ciphers")[0].split(":")
    assert len(ciphers) > 3
    assert [c for c in ciphers if not re.fullmatch(r"ECDHE-.*(GCM|CHACHA20).*", c)] == []
    assert said("cardsync/tls.conf", "ssl_protocols") == ["TLSv1.2", "TLSv1.3"]
