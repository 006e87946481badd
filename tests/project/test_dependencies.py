"""What can be said of our dependencies without a network; what needs one, `make audit` looks up and says when it could not."""

from __future__ import annotations

import datetime as dt
import json
import re
import runpy
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"
AUDIT = runpy.run_path(str(REQUIREMENTS / "audit.py"))

# Licences that would bind whoever runs or extends this service, and those that are none. The LGPL (psycopg) does not.
REFUSED = re.compile(
    r"\b(AGPL|SSPL|BUSL|GPL)|Affero|Server Side Public|(?<!Lesser )General Public|Proprietary|Commons Clause"
)
SECONDS = 600  # a deadline: only a bug takes so long
TODAY = dt.date(2026, 7, 1)


def pins(lock: str) -> dict[str, str]:
    content = (REQUIREMENTS / f"{lock}.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", content, re.MULTILINE))


def here(lock: str) -> dict[str, str]:
    """The pins that hold for this Python on this machine: those whose markers say so."""
    content = (REQUIREMENTS / f"{lock}.txt").read_text(encoding="utf-8")
    lines = [Requirement(line) for line in re.findall(r"^[a-z0-9.-]+==[^\\\n]+", content, re.MULTILINE)]
    return {one.name: next(iter(one.specifier)).version for one in lines if not one.marker or one.marker.evaluate()}


# OpenTelemetry's stable SDK requires, at one version each, parts that it calls betas; only traces need them.
BETAS_OF_THE_SDK: Final = re.compile(r"opentelemetry-\S+")


@pytest.mark.parametrize("lock", ["run", "otel", "dev", "test", "bench", "docs", "build"])
def test_no_pin_is_a_version_before_its_release(lock: str) -> None:
    early = {name: pin for name, pin in pins(lock).items() if Version(pin).is_prerelease or Version(pin).local}
    assert [
        name for name in early if not (lock in ("otel", "test", "bench") and BETAS_OF_THE_SDK.fullmatch(name))
    ] == []


def test_what_is_installed_is_what_is_pinned_and_fits_together() -> None:
    installed = {name: metadata.version(name) for name in here("run")}
    assert installed == here("run")
    checked = subprocess.run(
        [sys.executable, "-m", "pip", "check", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("name", sorted(here("run")))
def test_what_we_ship_with_has_a_licence_that_binds_nobody(name: str) -> None:
    said = licences(metadata.distribution(name))
    assert said, f"{name} says nothing of its licence"
    assert [licence for licence in said if REFUSED.search(licence)] == []


def licences(package: metadata.Distribution) -> list[str]:
    """The expression if there is one, else what the classifiers say, the first line of the old field, or of the text itself."""
    about = package.metadata
    if expression := about.get("License-Expression"):
        return [expression]
    classifiers = [c for c in about.get_all("Classifier") or () if c.startswith("License ::")]
    field = [line for line in (about.get("License") or "").splitlines()[:1] if line.strip()]
    texts = [path.read_text(encoding="utf-8") for path in package.files or () if path.name.startswith("LICENSE")]
    return classifiers or field or [text.strip().splitlines()[0] for text in texts]


@pytest.mark.parametrize(
    "licence", ["AGPL-3.0-only", "License :: OSI Approved :: GNU General Public License v3", "SSPL-1.0"]
)
def test_a_licence_that_binds_is_noticed(licence: str) -> None:
    assert REFUSED.search(licence)
    assert not REFUSED.search("GNU Lesser General Public License v3 (LGPLv3), LGPL-3.0-only")


# The judgement of an audit.

VULNERABLE = {
    "dependencies": [
        {"name": "sound", "version": "1.0", "vulns": []},
        {
            "name": "example",
            "version": "1.0",
            "vulns": [{"id": "GHSA-fake", "aliases": ["CVE-2026-0001"], "fix_versions": ["1.1"]}],
        },
        {"name": "unknown", "skip_reason": "Dependency not found on PyPI and could not be audited"},
    ]
}


def accepted(**changed: Any) -> list[dict[str, Any]]:
    return [{"package": "example", "id": "CVE-2026-0001", "reason": "not called", "until": TODAY, **changed}]


@pytest.mark.parametrize(
    ("exceptions", "findings"),
    [
        ([], 1),
        (accepted(), 0),
        (accepted(until=TODAY - dt.timedelta(days=1)), 1),
        (accepted(reason=""), 1),
        (accepted(package="sound"), 1),
        (accepted(id="CVE-2026-0002"), 1),
    ],
)
def test_a_finding_is_accepted_by_name_with_a_reason_until_its_last_day(
    exceptions: list[dict[str, Any]], findings: int
) -> None:
    judged = AUDIT["judge"](VULNERABLE, exceptions, TODAY)
    assert (judged.looked_up, judged.not_looked_up, len(judged.findings)) == (2, 1, findings)


def test_what_was_not_looked_up_is_said_and_fails_only_where_it_is_required(tmp_path: Path) -> None:
    def said(report: object, *options: str) -> tuple[int, str]:
        file = tmp_path / "report.json"
        file.write_text(json.dumps(report) if report else "", encoding="utf-8")
        command = [sys.executable, str(REQUIREMENTS / "audit.py"), str(file), *options]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        return ran.returncode, ran.stdout

    nothing = {"dependencies": VULNERABLE["dependencies"][2:]}
    for report in (None, nothing, {"dependencies": []}):
        assert said(report)[0] == 0
        assert said(report, "--required")[0] == 1
        assert "NOT CHECKED" in said(report)[1]
    assert said(VULNERABLE)[0] == 1
    assert "VULNERABLE: example 1.0: GHSA-fake, fixed in 1.1" in said(VULNERABLE)[1]


def test_every_accepted_finding_has_a_reason_and_a_last_day_within_half_a_year() -> None:
    listed = tomllib.loads((REQUIREMENTS / "accepted.toml").read_text(encoding="utf-8")).get("accepted", [])
    for one in listed:
        assert set(one) == {"package", "id", "reason", "until"}
        assert len(one["reason"]) > 10
        assert (one["until"] - dt.datetime.now(dt.UTC).date()).days < 184


def test_nothing_traces() -> None:
    assert [name for name in pins("run") if re.search("opentelemetry|ddtrace|sentry|newrelic", name)] == []
