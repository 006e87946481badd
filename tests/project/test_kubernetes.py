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
from cloudcoil.models.prometheus_operator import v1 as prometheus_operator
from pydantic import BaseModel

from cardsync.settings import NAMES

FOLDER: Final = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
PAGE: Final = FOLDER.parents[1] / "docs" / "deployment" / "kubernetes.md"
OLDEST, NEWEST = "1.29", "1.33"
MONITORING: Final = "monitoring.coreos.com/v1"
PODS: Final = ("web", "worker", "beat", "console", "migrate")


def objects(*, monitoring: bool = False) -> list[tuple[str, dict[str, Any]]]:
    """Every object of Kubernetes' own kinds, or of the Prometheus operator's, by its file and name."""
    return [
        (f"{file.relative_to(FOLDER)}: {one['kind']} {one['metadata']['name']}", one)
        for file in sorted(FOLDER.rglob("*.yaml"))
        if file.name != "kustomization.yaml"
        for one in yaml.safe_load_all(file.read_text(encoding="utf-8"))
        if (one["apiVersion"] == MONITORING) == monitoring
    ]


def pod(component: str) -> dict[str, Any]:
    """The pod of one kind of process."""
    spec: dict[str, Any] = template(component)["spec"]
    return spec


def template(component: str) -> dict[str, Any]:
    """From what pods of one kind of process are made."""
    (found,) = [
        one["spec"]["template"]
        for _, one in objects()
        if one["kind"] in ("StatefulSet", "Deployment", "Job")
        and one["metadata"]["labels"]["app.kubernetes.io/component"] == component
    ]
    made: dict[str, Any] = found
    return made


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize(("name", "one"), objects(), ids=lambda value: value if isinstance(value, str) else "")
def test_kubernetes_would_take_it(name: str, one: dict[str, Any], version: str) -> None:
    assert name
    kubernetes_validate.validate(one, version, strict=True)  # raises what is wrong


@pytest.mark.parametrize(
    ("name", "one"), objects(monitoring=True), ids=lambda value: value if isinstance(value, str) else ""
)
def test_the_prometheus_operator_would_take_it(name: str, one: dict[str, Any]) -> None:
    assert name
    kind: type[BaseModel] = getattr(prometheus_operator, one["kind"])
    taken = kind.model_validate(one).model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert taken == one  # a name that the schema does not have is left out


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
    of_kind = {one["kind"]: one for _, one in objects(monitoring=True)}
    (service,) = [one for name, one in objects() if name.startswith("monitoring/")]
    assert service["spec"]["clusterIP"] == "None"  # so that each pod is an address of its own
    assert of_kind["ServiceMonitor"]["spec"]["selector"]["matchLabels"] == service["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= template(component)["metadata"]["labels"].items()
    (container,) = pod(component)["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    served = {port["name"]: port["targetPort"] for port in service["spec"]["ports"]}
    (scraped,) = [one for one in of_kind["ServiceMonitor"]["spec"]["endpoints"] if served[one["port"]] in ports]
    assert scraped["relabelings"] == [{"targetLabel": "job", "replacement": "cardsync"}]
    assert 'up{job="cardsync"}' in (FOLDER.parent / "prometheus" / "rules.yaml").read_text(encoding="utf-8")
    port = ports[served[scraped["port"]]]
    assert str(port) in container["args"]
    admitted = [
        allowed["port"]
        for _, one in objects()
        if one["kind"] == "NetworkPolicy" and _is_for(one["spec"]["podSelector"], component)
        for rule in one["spec"]["ingress"]
        for allowed in rule["ports"]
    ]
    assert port in admitted


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


def test_the_rules_are_those_of_prometheus() -> None:
    (rule,) = [one for _, one in objects(monitoring=True) if one["kind"] == "PrometheusRule"]
    assert rule["spec"] == yaml.safe_load((FOLDER.parent / "prometheus" / "rules.yaml").read_text(encoding="utf-8"))
    names = [group["name"] for group in rule["spec"]["groups"]]
    assert len(set(names)) == len(names) > 1
    assert all(("alert" in one) is not ("record" in one) for group in rule["spec"]["groups"] for one in group["rules"])
