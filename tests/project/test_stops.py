"""How long supervisors wait for a web that is told to stop: longer than it takes hints for a balancer, and then to end."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from cardsync.cli.web import STOP_SECONDS

ROOT: Final = Path(__file__).resolve().parents[2]
# A readiness check of Kubernetes fails three times in a row before a pod is left out, by its default.
FAILURES: Final = 3


def _after(name: str, arguments: list[str]) -> float:
    return float(arguments[arguments.index(name) + 1])


def _seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def _pod() -> tuple[dict[str, Any], dict[str, Any]]:
    """The web's pod and its container."""
    file = ROOT / "deploy" / "kubernetes" / "base" / "web.yaml"
    pod = next(one for one in yaml.safe_load_all(file.read_text(encoding="utf-8")) if one["kind"] == "StatefulSet")
    spec = pod["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    return spec, container


def test_systemd_waits_longer_than_a_web_drains_and_signals_the_first_process_alone() -> None:
    unit = (ROOT / "deploy" / "systemd" / "cardsync-web.service").read_text(encoding="utf-8")
    options = dict(re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE))
    drain = _after("--drain-seconds", shlex.split(options["ExecStart"]))
    assert float(options["TimeoutStopSec"]) > drain + STOP_SECONDS > STOP_SECONDS
    assert options["KillMode"] == "mixed"


@pytest.mark.parametrize("service", ["web", "web-spare"])
def test_compose_waits_longer_than_a_web_drains(service: str) -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    web = yaml.safe_load(text)["services"][service]
    drain = _after("--drain-seconds", web["command"])
    assert _seconds(web["stop_grace_period"]) > drain + STOP_SECONDS > STOP_SECONDS


def test_kubernetes_waits_longer_than_a_web_stores_what_waits_and_drains() -> None:
    pod, container = _pod()
    stores = container["lifecycle"]["preStop"]["exec"]["command"]
    assert stores[:4] == ["cardsync", "spool", "drain", "--wait"]
    drain = _after("--drain-seconds", container["args"])
    assert pod["terminationGracePeriodSeconds"] > _after("--wait", stores) + drain + STOP_SECONDS
    assert drain > FAILURES * container["readinessProbe"]["periodSeconds"]
