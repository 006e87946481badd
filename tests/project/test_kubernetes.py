"""The manifests for Kubernetes: valid by its own schemas, hardened, and each pod with the secrets of its process alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

from cardsync.settings import NAMES

FOLDER: Final = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
PAGE: Final = FOLDER.parents[1] / "docs" / "deployment" / "kubernetes.md"
OLDEST, NEWEST = "1.29", "1.33"
PODS: Final = ("web", "worker", "beat", "console", "migrate")


def objects() -> list[tuple[str, dict[str, Any]]]:
    """Every object of Kubernetes' own kinds, by its file and name."""
    return [
        (f"{file.relative_to(FOLDER)}: {one['kind']} {one['metadata']['name']}", one)
        for file in sorted(FOLDER.rglob("*.yaml"))
        if file.name not in ("kustomization.yaml", "pod-monitor.yaml", "prometheus-rule.yaml")
        for one in yaml.safe_load_all(file.read_text(encoding="utf-8"))
    ]


def pod(component: str) -> dict[str, Any]:
    """The pod of one kind of process."""
    (found,) = [
        one["spec"]["template"]
        for _, one in objects()
        if one["kind"] in ("StatefulSet", "Deployment", "Job")
        and one["metadata"]["labels"]["app.kubernetes.io/component"] == component
    ]
    spec: dict[str, Any] = found["spec"]
    return spec


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize(("name", "one"), objects(), ids=lambda value: value if isinstance(value, str) else "")
def test_kubernetes_would_take_it(name: str, one: dict[str, Any], version: str) -> None:
    assert name
    kubernetes_validate.validate(one, version, strict=True)  # raises what is wrong


def test_each_folder_names_every_file_in_it() -> None:
    for folder in ("base", "overlays/production", "monitoring"):
        kustomization = yaml.safe_load((FOLDER / folder / "kustomization.yaml").read_text(encoding="utf-8"))
        there = {file.name for file in (FOLDER / folder).glob("*.yaml")} - {"kustomization.yaml"}
        assert {name for name in kustomization["resources"] if not name.startswith("..")} == there


@pytest.mark.parametrize("component", PODS)
def test_a_pod_has_the_secrets_of_its_process_and_no_others(component: str) -> None:
    rows = re.findall(r"^\| `(\w+)`[^|]*\|(.*)\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    table = {key: [cell.strip() for cell in cells.split("|")] for key, cells in rows}
    told = {key for key, cells in table.items() if len(cells) == len(PODS) and cells[PODS.index(component)] == "yes"}
    (secret,) = [volume["secret"] for volume in pod(component)["volumes"] if "secret" in volume]
    assert {item["key"] for item in secret["items"]} == told
    (container,) = pod(component)["containers"]
    for variable in container["env"]:
        assert variable["name"].removesuffix("_FILE") in NAMES.values()
        assert variable["value"].rpartition("/")[2] in told
    assert len(told) > 1


@pytest.mark.parametrize("component", PODS)
def test_a_pod_is_hardened(component: str) -> None:
    spec = pod(component)
    (container,) = spec["containers"]
    assert spec["automountServiceAccountToken"] is False
    assert (spec["securityContext"]["runAsNonRoot"], spec["securityContext"]["runAsUser"]) == (True, 10001)
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"].keys() == {"cpu", "memory"}


@pytest.mark.parametrize("component", ["web", "worker", "beat"])
def test_what_alerts_count_is_scraped_under_the_job_that_they_ask_for(component: str) -> None:
    monitor = yaml.safe_load((FOLDER / "monitoring" / "pod-monitor.yaml").read_text(encoding="utf-8"))["spec"]
    (selected,) = monitor["selector"]["matchExpressions"]
    assert component in selected["values"]
    (container,) = pod(component)["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    (scraped,) = [one for one in monitor["podMetricsEndpoints"] if one["port"] in ports]
    assert scraped["relabelings"] == [{"targetLabel": "job", "replacement": "cardsync"}]
    assert 'up{job="cardsync"}' in (FOLDER.parent / "prometheus" / "rules.yaml").read_text(encoding="utf-8")
    assert str(ports[scraped["port"]]) in container["args"]
    admitted = [
        allowed["port"]
        for _, one in objects()
        if one["kind"] == "NetworkPolicy" and _is_for(one["spec"]["podSelector"], component)
        for rule in one["spec"]["ingress"]
        for allowed in rule["ports"]
    ]
    assert ports[scraped["port"]] in admitted


def _is_for(selector: dict[str, Any], component: str) -> bool:
    named = selector.get("matchLabels", {}).get("app.kubernetes.io/component")
    listed = [value for one in selector.get("matchExpressions", []) for value in one["values"]]
    return component in (named, *listed)


def test_only_settings_stand_in_the_overlay() -> None:
    overlay = yaml.safe_load((FOLDER / "overlays" / "production" / "kustomization.yaml").read_text(encoding="utf-8"))
    (settings,) = overlay["configMapGenerator"]
    assert {literal.partition("=")[0] for literal in settings["literals"]} <= set(NAMES.values())


# What the definition of a PrometheusRule takes (monitoring.coreos.com/v1): each field, and the form of a duration.
DURATION: Final = re.compile(
    r"(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)"
)
OF_A_GROUP: Final = {"name", "interval", "labels", "limit", "partial_response_strategy", "query_offset", "rules"}
OF_A_RULE: Final = {"alert", "annotations", "expr", "for", "keep_firing_for", "labels", "record"}


def test_the_operator_would_take_the_rules_which_are_those_of_prometheus() -> None:
    rule = yaml.safe_load((FOLDER / "monitoring" / "prometheus-rule.yaml").read_text(encoding="utf-8"))
    assert rule["spec"] == yaml.safe_load((FOLDER.parent / "prometheus" / "rules.yaml").read_text(encoding="utf-8"))
    assert (rule["apiVersion"], rule["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    groups = rule["spec"]["groups"]
    assert rule["spec"].keys() == {"groups"}
    assert len({group["name"] for group in groups}) == len(groups) > 1
    for group in groups:
        assert group.keys() <= OF_A_GROUP
        assert group["name"]
        for one in group["rules"]:
            assert one.keys() <= OF_A_RULE
            assert isinstance(one["expr"], (str, int))
            assert ("alert" in one) is not ("record" in one)
            assert all(
                isinstance(said, str) for kind in ("labels", "annotations") for said in one.get(kind, {}).values()
            )
            durations = [one[name] for name in ("for", "keep_firing_for") if name in one]
            assert all(DURATION.fullmatch(duration) for duration in durations)
