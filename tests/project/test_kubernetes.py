"""The manifests for Kubernetes: valid by its own schemas, hardened, and each pod with the secrets of its process alone."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
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
    assert told


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


OVERLAY: Final = FOLDER / "overlays" / "production"
KUBECTL: Final = shutil.which("kubectl")


def overlay() -> dict[str, Any]:
    made: dict[str, Any] = yaml.safe_load((OVERLAY / "kustomization.yaml").read_text(encoding="utf-8"))
    return made


def generated() -> list[dict[str, Any]]:
    """The ConfigMaps that the overlay makes, under the names that the manifests have for them."""
    made = overlay()
    labels = made.get("generatorOptions", {}).get("labels", {})
    return [
        {"kind": "ConfigMap", "metadata": {"name": one["name"], "labels": labels}} for one in made["configMapGenerator"]
    ]


def applied_first(all_of_them: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the page on updates applies before all else, by the labels that it says."""
    (label, values) = re.findall(
        r"^kubectl apply -k \S+ -l '(\S+) in \(([^)]*)\)'$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )[0]
    wanted = {value.strip() for value in values.split(",")}
    return [one for one in all_of_them if one["metadata"].get("labels", {}).get(label) in wanted]


def read_by_the_pods_of(some: Iterable[dict[str, Any]]) -> set[str]:
    """The names of the ConfigMaps that the Jobs among these read."""
    jobs = [one for one in some if one["kind"] == "Job"]
    assert jobs
    return {
        source["configMapRef"]["name"]
        for job in jobs
        for container in job["spec"]["template"]["spec"]["containers"]
        for source in container["envFrom"]
    }


def assert_the_job_has_what_it_reads(all_of_them: Iterable[dict[str, Any]]) -> None:
    first = applied_first(all_of_them)
    assert {one["kind"] for one in first} == {"Job", "ConfigMap"}
    assert read_by_the_pods_of(first) == {one["metadata"]["name"] for one in first if one["kind"] == "ConfigMap"}


def test_what_an_update_applies_first_is_the_job_with_the_settings_that_it_reads() -> None:
    assert_the_job_has_what_it_reads([one for _, one in objects()] + generated())


if KUBECTL is not None:  # left out elsewhere: no machine needs it

    def test_kubectl_finds_the_settings_by_their_label_under_the_name_with_their_hash() -> None:
        assert KUBECTL is not None
        made = subprocess.run([KUBECTL, "kustomize", str(OVERLAY)], capture_output=True, text=True, check=True).stdout
        everything = list(yaml.safe_load_all(made))
        assert_the_job_has_what_it_reads(everything)
        (settings,) = [one for one in everything if one["kind"] == "ConfigMap"]
        assert re.fullmatch(r"cardsync-settings-\w+", settings["metadata"]["name"])


def test_the_pods_of_the_stateful_set_have_a_headless_service_and_traffic_has_another() -> None:
    everything = [one for _, one in objects()]
    (web,) = [one for one in everything if one["kind"] == "StatefulSet"]
    of_web = [
        (one["metadata"]["name"], one["spec"].get("clusterIP"))
        for one in everything
        if one["kind"] == "Service" and one["spec"]["selector"] == web["spec"]["selector"]["matchLabels"]
    ]
    assert of_web == [(web["spec"]["serviceName"], "None"), ("cardsync-web", None)]


def test_only_settings_stand_in_the_overlay() -> None:
    (settings,) = overlay()["configMapGenerator"]
    assert {literal.partition("=")[0] for literal in settings["literals"]} <= set(NAMES.values())


# What the operator's definitions take (monitoring.coreos.com/v1): each field of a PrometheusRule, and the form of a duration.
DURATION: Final = re.compile(
    r"(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)"
)
# And of a PodMonitor, as far as ours needs it.
OF_A_MONITOR: Final = {"podMetricsEndpoints", "selector"}
OF_A_POD: Final = {"interval", "path", "port", "relabelings", "scheme", "scrapeTimeout"}
OF_A_RELABELING: Final = {"action", "regex", "replacement", "separator", "sourceLabels", "targetLabel"}
OF_AN_EXPRESSION: Final = {"key", "operator", "values"}
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


def test_the_operator_would_take_the_monitor() -> None:
    monitor = yaml.safe_load((FOLDER / "monitoring" / "pod-monitor.yaml").read_text(encoding="utf-8"))
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "PodMonitor")
    spec = monitor["spec"]
    assert spec.keys() == OF_A_MONITOR
    assert spec["selector"].keys() == {"matchLabels", "matchExpressions"}
    assert all(one.keys() == OF_AN_EXPRESSION for one in spec["selector"]["matchExpressions"])
    for endpoint in spec["podMetricsEndpoints"]:
        assert endpoint.keys() <= OF_A_POD
        assert isinstance(endpoint["port"], str)  # a port's name; a number would stand under another word
        assert DURATION.fullmatch(endpoint["interval"])
        assert all(one.keys() <= OF_A_RELABELING for one in endpoint["relabelings"])
