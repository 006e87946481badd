"""``cardsync doctor`` with a real RabbitMQ: an address without a broker, a wrong password, a virtual host that is not there."""

from __future__ import annotations

import json
from urllib.parse import urlsplit, urlunsplit

import pytest


def changed(url: str, *, password: str | None = None, port: int | None = None, path: str | None = None) -> str:
    """The address of the broker with one part that is wrong."""
    parts = urlsplit(url)
    place = f"{parts.username}:{password or parts.password}@{parts.hostname}:{port or parts.port}"
    return urlunsplit((parts.scheme, place, parts.path if path is None else path, "", ""))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"port": 1}, "it refuses connections: nothing listens on that port"),
        ({"password": "fake-password"}, "it refuses the user name or password"),
        ({"path": "/no-such-host"}, "there is no such virtual host, or this user may not use it"),
    ],
)
def test_the_doctor_tells_apart_why_rabbitmq_cannot_be_used_and_fails(cardsync, rabbitmq_url, monkeypatch, wrong, says):
    monkeypatch.setenv("CARDSYNC_BROKER_URL", changed(rabbitmq_url, **wrong))
    result = cardsync("doctor", "--offline", "--json")
    (found,) = [one for one in json.loads(result.stdout)["checks"] if one["name"] == "broker"]
    assert (found["status"], found["found"], result.exit_code) == ("failed", says, 1)
    assert "fake-password" not in result.output
